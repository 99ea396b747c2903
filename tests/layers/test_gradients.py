"""Every layer against numerical differentiation in double precision, driven by the registry.

A new layer without an example here, or without a reason in NO_GRADIENT, fails the suite.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.autograd import gradcheck

from pysolver.component import layer_types
from pysolver.data.source import Source


class Labels(NamedTuple):
    shape: tuple[int, ...]
    classes: int


class Positive(NamedTuple):
    shape: tuple[int, ...]


class Given(NamedTuple):
    values: list


NORMAL = 'filler { type: "gaussian" }'
WEIGHTS = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'
SMALL = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" }'
X = (2, 4, 4, 5)
CONT = Given([[0, 0], [1, 1], [0, 1]])
PRIORS = Given([[[0.1, 0.1, 0.4, 0.4, 0.5, 0.5, 0.9, 0.8, 0.2, 0.6, 0.4, 0.9], [0.1] * 12]])
OBJECTS = Given([[[[0, 1, 0, 0.1, 0.15, 0.42, 0.4, 0], [1, 2, 0, 0.5, 0.4, 0.9, 0.8, 0]]]])
GIVEN_34 = Given([[0.3, 1, 0, 2], [0.5, 1.5, 1, 0.1], [1, 0.7, 3, 0.2]])
WEIGHTS_3422 = [[[[0.5, 1], [2, 0.1 * i + j]] for i in range(4)] for j in range(3)]
RINGS = Given([[0, 0, 0, 4, 4, 1, 1, 3, 3], [1, 1, 1, 5, 3, 9, 9, 9, 9]])
REGIONS = Given([[0, 0, 0, 3, 4], [1, 1, 1, 5, 3], [1, 2, 2, 2, 2]])

# type -> list of (prototxt, bottoms, number of tops)
EXAMPLES: dict[str, list[tuple[str, list, int]]] = {
    "AbsVal": [("", [X], 1)],
    "AvgProbs": [("avg_probs_param { multi_infer_size: 2 }", [(4, 3)], 1)],
    "AvgProbsMultiSources": [("", [(4, 3), (4, 3), (4, 3)], 1)],
    "Axpy": [("", [(2, 4), X, X], 1), ("", [(2, 4, 1, 1), X, X], 1)],
    "BN": [
        ('bn_param { slope_filler { type: "gaussian" } }', [X], 1),
        ('bn_param { scale_filler { type: "gaussian" } bn_mode: INFERENCE }', [X], 1),
        ("phase: TEST bn_param { slope_filler { value: 2 } eps: 0.5 }", [X], 1),
        ("bn_param { scale_filler { value: 2 } }", [X], 3),
    ],
    "BNLL": [("", [X], 1)],
    "BatchNorm": [
        ("", [X], 1),
        ("batch_norm_param { use_global_stats: true eps: 0.1 }", [X], 1),
        ("batch_norm_param { stats_batch_size: 2 }", [(4, 3, 2, 2)], 1),
        ("", [(4, 3)], 1),
    ],
    "BatchReindex": [("", [(3, 4), Labels((5,), 3)], 1)],
    "Bias": [(f"bias_param {{ {NORMAL} }}", [X], 1), ("", [X, (4,)], 1)],
    "Clip": [("clip_param { min: -0.5 max: 0.7 }", [X], 1)],
    "Concat": [("concat_param { axis: 2 }", [(2, 3, 4), (2, 3, 1)], 1)],
    "Convolution3D": [
        (
            "convolution3d_param { num_output: 2 kernel_size: 2 kernel_depth: 2 pad: 1 stride: 2 " + WEIGHTS + " }",
            [(1, 2, 3, 4, 4)],
            1,
        )
    ],
    "ContrastiveLoss": [
        ("contrastive_loss_param { margin: 1 legacy_version: true }", [(4, 3), (4, 3), Labels((4,), 2)], 1)
    ],
    "Convolution": [
        (f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2 {WEIGHTS} }}", [X], 1),
        (f"convolution_param {{ num_output: 3 kernel_size: 2 dilation: 2 {WEIGHTS} }}", [(2, 2, 7)], 1),
        (f"convolution_param {{ num_output: 3 kernel_size: 2 pad: 1 {WEIGHTS} }}", [(1, 2, 3, 2, 3)], 1),
        (f"convolution_param {{ num_output: 4 kernel_size: 2 group: 2 {WEIGHTS} }}", [(1, 2, 2, 2, 3, 2)], 1),
        (f"convolution_param {{ num_output: 4 kernel_size: 1 group: 2 {WEIGHTS} }}", [(3, 4)], 1),
        (f"convolution_param {{ num_output: 2 kernel_size: 3 stride: 3 {WEIGHTS} }}", [(1, 2, 2, 5)], 1),
    ],
    "ChannelScale": [("", [X, (2, 1, 4, 5)], 1), ("", [(2, 3), (2,)], 1)],
    "ConvolutionDepthwise": [(f"convolution_param {{ num_output: 4 kernel_size: 3 {WEIGHTS} }}", [X], 1)],
    "Crop": [("crop_param { offset: 1 offset: 2 }", [X, (2, 4, 3, 3)], 1)],
    "Deconvolution": [
        (f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2 {WEIGHTS} }}", [X], 1),
        (f"convolution_param {{ num_output: 3 kernel_size: 2 dilation: 2 {WEIGHTS} }}", [(2, 2, 4)], 1),
    ],
    "Deconvolution3D": [
        (
            f"convolution3d_param {{ num_output: 2 kernel_size: 2 kernel_depth: 2 stride: 2 {WEIGHTS} }}",
            [(1, 2, 2, 2, 3)],
            1,
        )
    ],
    "CuDNNBatchNorm": [
        ("cudnn_batch_norm_param { scale_filler { value: 2 } bias_filler { value: 1 } }", [X], 1),
        ("phase: TEST cudnn_batch_norm_param { scale_filler { value: 2 } bias_filler { value: 1 } }", [X], 1),
    ],
    "DepthwiseConvolution": [(f"convolution_param {{ num_output: 4 group: 4 kernel_size: 3 {WEIGHTS} }}", [X], 1)],
    "Dropout": [("dropout_param { dropout_ratio: 0.3 }", [X], 1)],
    "ELU": [("elu_param { alpha: 0.7 }", [X], 1)],
    "Eltwise": [
        ("eltwise_param { coeff: 2 coeff: -1 coeff: 0.5 }", [X, X, X], 1),
        ("eltwise_param { operation: PROD }", [X, X, X], 1),
        ("eltwise_param { operation: MAX }", [X, X, X], 1),
    ],
    "Embed": [(f"embed_param {{ num_output: 3 input_dim: 5 {WEIGHTS} }}", [Labels((2, 4), 5)], 1)],
    "EuclideanLoss": [("", [(3, 4), (3, 4)], 1)],
    "Exp": [("exp_param { base: 2 scale: 0.5 shift: 1 }", [X], 1)],
    "Filter": [("", [(4, 3), (4, 2), Given([0, 1, 0, 2])], 2)],
    "FocalLoss": [
        ("", [(4, 3), Labels((4,), 3)], 1),
        ("focal_loss_param { alpha: 2 gamma: 0.5 } loss_param { ignore_label: 1 }", [X, Labels((2, 4, 5), 4)], 2),
    ],
    "Flatten": [("flatten_param { axis: 2 }", [X], 1)],
    "Flip": [("flip_param { flip_height: true }", [X], 1)],
    "GuidedDropout": [
        ("", [X, Given([[1, -1, 0.5, 0], [-1, -1, -1, -1]])], 1),
        ('guided_dropout_param { type: "stochastic" }', [X, Given([[1, -1, 0.5, 0], [2, 2, 2, 2]])], 1),
    ],
    "HingeLoss": [("hinge_loss_param { norm: L2 }", [(4, 3), Labels((4,), 3)], 1), ("", [(4, 3), Labels((4,), 3)], 1)],
    "Im2col": [
        ("convolution_param { kernel_size: 3 pad: 1 stride: 2 }", [X], 1),
        ("convolution_param { kernel_size: 2 dilation: 2 }", [(2, 2, 5)], 1),
    ],
    "InfogainLoss": [("", [(4, 3), Labels((4,), 3), Positive((1, 1, 3, 3))], 2)],
    "InnerDistance": [
        ('inner_distance_param { num_output: 3 weight_filler { type: "gaussian" } }', [(2, 4)], 1),
        ('inner_distance_param { distance_type: "L1" }', [(2, 2, 2), (3, 4)], 1),
    ],
    "InnerProduct": [
        (f"inner_product_param {{ num_output: 3 {WEIGHTS} }}", [X], 1),
        (f"inner_product_param {{ {WEIGHTS} }}", [(2, 4), (3, 2, 2)], 1),
        ("", [(2, 4), (3, 4), (3,)], 1),
        (f"inner_product_param {{ num_output: 3 transpose: true axis: 2 bias_term: false {WEIGHTS} }}", [(2, 3, 4)], 1),
    ],
    "Interp": [("interp_param { zoom_factor: 2 pad_beg: -1 }", [X], 1), ("", [X, (2, 4, 9, 7)], 1)],
    "L1Loss": [("", [(3, 4), (3, 4)], 1)],
    "LabelSpecificAdd": [("label_specific_add_param { bias: -0.35 }", [(4, 3), Labels((4,), 3)], 1)],
    "LabelSpecificRescale": [
        ("label_specific_rescale_param { positive_weight: 0.8 negative_weight: 1.5 }", [(4, 3), Labels((4,), 3)], 1),
        (
            "label_specific_rescale_param { positive_weight: 0.8 for_ip: true bias_fix: true }",
            [(4, 3), Labels((4,), 3)],
            1,
        ),
    ],
    "LargeMarginInnerProduct": [
        (
            f'largemargin_inner_product_param {{ num_output: 3 type: {kind} weight_filler {{ type: "gaussian" }} }}',
            [(4, 5), Labels((4,), 3)],
            1,
        )
        for kind in ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")
    ],
    "LRN": [
        ("lrn_param { local_size: 3 alpha: 0.5 k: 2 }", [X], 1),
        ("lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }", [X], 1),
    ],
    "LSTM": [
        (f"recurrent_param {{ num_output: 3 {SMALL} }}", [(3, 2, 4), CONT], 1),
        (f"recurrent_param {{ num_output: 3 {SMALL} }}", [(3, 2, 2, 2), CONT, (2, 4)], 1),
    ],
    "LSTMUnit": [("", [(1, 2, 3), (1, 2, 12), Given([[1, 0]])], 2)],
    "Log": [("log_param { base: 3 scale: 2 shift: 1 }", [Positive(X)], 1)],
    "MVN": [
        ("mvn_param { eps: 1e-12 }", [X], 1),
        ("mvn_param { across_channels: true eps: 1e-12 }", [X], 1),
        ("mvn_param { normalize_variance: false }", [(2, 3, 4)], 1),
    ],
    "MaskPooling": [("", [X, (2, 1, 4, 5)], 1)],
    "MaskResize": [("mask_resize_param { output_height: 3 output_width: 7 }", [X], 1)],
    "MultiBoxLoss": [
        ("multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE }", [(2, 12), (2, 9), PRIORS, OBJECTS], 1),
        (
            "multibox_loss_param { num_classes: 3 share_location: false mining_type: NONE conf_loss_type: LOGISTIC }",
            [(2, 36), (2, 9), PRIORS, OBJECTS],
            1,
        ),
    ],
    "MultinomialLogisticLoss": [("", [Positive((4, 3)), Labels((4,), 3)], 1)],
    "Normalize": [
        ('norm_param { scale_filler { type: "constant" value: 3 } }', [X], 1),
        ("norm_param { across_spatial: false channel_shared: false scale_filler { value: 3 } }", [X], 1),
        ("", [X], 1),
        ("normalize_param { bp_norm: true }", [X], 2),
        ('normalize_param { normalize_type: "L1" bp_norm: true }', [(3, 4)], 2),
    ],
    "PReLU": [(f"prelu_param {{ {NORMAL} }}", [X], 1), ("prelu_param { channel_shared: true }", [X], 1)],
    "PSROIPooling": [("psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 2 }", [X, REGIONS], 1)],
    "Parameter": [("parameter_param { shape { dim: 2 dim: 3 } }", [], 1)],
    "Permute": [("permute_param { order: 0 order: 2 }", [X], 1)],
    "Pooling": [
        ("pooling_param { kernel_size: 3 stride: 2 }", [X], 1),
        ("pooling_param { kernel_size: 3 stride: 2 pad: 2 }", [X], 1),
        ("pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [X], 1),
        ("pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 2 round_mode: FLOOR }", [X], 1),
        ("pooling_param { pool: AVE kernel_size: 2 stride: 4 }", [X], 1),
        ("pooling_param { pool: AVE global_pooling: true }", [X], 1),
        ("phase: TEST pooling_param { pool: STOCHASTIC kernel_size: 2 }", [Positive(X)], 1),
    ],
    "Power": [
        ("power_param { power: 3 scale: 0.5 shift: 1 }", [X], 1),
        ("power_param { power: 0 }", [X], 1),
        ("power_param { power: -0.5 shift: 1 }", [Positive(X)], 1),
    ],
    "RNN": [(f"recurrent_param {{ num_output: 3 {SMALL} }}", [(3, 2, 4), CONT, (2, 5)], 1)],
    "ROIAlign": [("roi_pooling_param { pooled_h: 2 pooled_w: 3 pad_ratio: 0.2 }", [X, REGIONS], 1)],
    "Mish": [("", [X], 1)],
    "SigmoidCrossEntropyBalanceLoss": [("", [X, Labels(X, 2)], 1)],
    "RegionPooling": [
        ("region_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 offset: 0 }", [(2, 3, 6, 7), RINGS], 1)
    ],
    "ROIPooling": [("roi_pooling_param { pooled_h: 2 pooled_w: 3 }", [X, REGIONS], 1)],
    "ROIWarping": [("roi_warping_param { pooled_h: 2 pooled_w: 3 }", [X, REGIONS], 1)],
    "ReLU": [("", [X], 1), ("relu_param { negative_slope: 0.1 }", [X], 1)],
    "ReLU6": [("", [X], 1), ("relu6_param { negative_slope: 0.1 }", [X], 1)],
    "Reduction": [
        (f"reduction_param {{ operation: {op} axis: 1 coeff: 2 }}", [X], 1) for op in ("SUM", "ASUM", "SUMSQ", "MEAN")
    ],
    "Reshape": [("reshape_param { shape { dim: 0 dim: -1 dim: 2 } }", [X], 1)],
    "SPP": [
        ("spp_param { pyramid_height: 2 pool: AVE }", [(2, 3, 6, 7)], 1),
        ("spp_param { pyramid_height: 2 }", [(2, 3, 6, 7)], 1),
    ],
    "Scale": [
        (f"scale_param {{ {NORMAL} bias_term: true bias_{NORMAL} }}", [X], 1),
        (f"scale_param {{ {NORMAL} num_axes: -1 axis: 2 }}", [X], 1),
        ("scale_param { bias_term: true }", [X, (4,)], 1),
        ("", [X, ()], 1),
    ],
    "Pooling3D": [
        ("pooling3d_param { kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 2 }", [(1, 2, 3, 6, 6)], 1),
        ("pooling3d_param { pool: AVE kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1 }", [(1, 2, 3, 6, 6)], 1),
        ("pooling3d_param { kernel_size: 3 kernel_l: 2 stride: 2 stride_l: 2 pad: 1 pad_l: 1 }", [(1, 2, 3, 6, 6)], 1),
    ],
    "Reorg": [
        ("reorg_param { stride: 2 }", [(2, 4, 4, 6)], 1),
        ("reorg_param { stride: 2 reverse: true }", [(2, 4, 2, 3)], 1),
    ],
    "AutoCrop": [("crop_param { axis: 2 offset: 1 offset: 0 }", [X, (2, 4, 3, 2)], 1)],
    "Lstm": [(f"lstm_param {{ num_output: 3 {WEIGHTS} }}", [(4, 2, 5)], 1)],
    "MultiStageMeanfield": [
        (
            "multi_stage_meanfield_param { num_iterations: 2 theta_alpha: 4 theta_beta: 1 theta_gamma: 2 "
            "spatial_filter_weight: 0.3 bilateral_filter_weight: 0.5 }",
            [(1, 3, 3, 4), (1, 3, 3, 4), (1, 3, 3, 4)],
            1,
        )
    ],
    "Gather": [("", [X, (2, 3)], 2)],
    "Reverse": [("reverse_param { axis: 1 }", [X], 1)],
    "SeLu": [("", [X], 1)],
    "SeLuDropout": [("selu_dropout_param { dropout_ratio: 0.3 }", [X], 1)],
    "ShuffleChannel": [("shuffle_channel_param { group: 2 }", [X], 1)],
    "Sigmoid": [("", [X], 1)],
    "SigmoidCrossEntropyLoss": [
        ("", [(3, 4), Positive((3, 4))], 1),
        ("", [(3, 4), Positive((3, 4)), Positive((3, 4))], 1),
    ],
    "Slice": [("slice_param { axis: 2 slice_point: 1 slice_point: 3 }", [X], 3)],
    "SmoothL1Loss": [("smooth_l1_loss_param { sigma: 2 }", [(3, 4), (3, 4), GIVEN_34, GIVEN_34], 1)],
    "Softmax": [("softmax_param { axis: 2 }", [X], 1)],
    "SoftmaxWithLoss": [
        ("", [(4, 3), Labels((4,), 3)], 2),
        ("loss_param { ignore_label: 1 }", [X, Labels((2, 1, 4, 5), 4)], 1),
    ],
    "SmoothL1LossOHEM": [
        ("", [(3, 4, 2, 2), (3, 4, 2, 2), Given(WEIGHTS_3422)], 2),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }", [(3, 4), (3, 4)], 1),
    ],
    "SoftmaxWithLossOHEM": [("loss_param { ignore_label: 1 }", [X, Labels((2, 1, 4, 5), 4)], 3)],
    "Split": [("", [X], 3)],
    "Swish": [("swish_param { beta: 0.7 }", [X], 1), ("", [X], 1)],
    "TanH": [("", [X], 1)],
    "Tile": [("tile_param { axis: 1 tiles: 3 }", [X], 1)],
    "Transpose": [("transpose_param { dim: 3 dim: 0 dim: 2 dim: 1 }", [X], 1)],
    "Unpooling": [
        ("unpooling_param { kernel_size: 2 stride: 2 }", [X], 1),
        ("unpooling_param { kernel_size: 2 unpool_size: 4 }", [(1, 1, 2, 2), Given([[[[1, 2], [8, 15]]]])], 1),
    ],
    "VoxelSoftmax": [("", [(1, 3, 2, 2, 2)], 1)],
    "VoxelSoftmaxWithLoss": [("", [(1, 3, 2, 2, 2), Labels((1, 1, 2, 2, 2), 3)], 1)],
    "Upsample": [
        ("upsample_param { scale: 2 pad_out_h: true }", [X], 1),
        ("upsample_param { scale: 2 }", [(1, 1, 2, 2), Given([[[[1, 2], [8, 15]]]])], 1),
    ],
}

NO_GRADIENT = {
    "Accuracy": "counts",
    "ArgMax": "indices",
    "BboxAccuracy": "a mean of overlaps",
    "BoxAnnotatorOHEM": "labels",
    "BoxGroupOutput": "a list of boxes",
    "BoxOutput": "a list of boxes",
    "CenterLoss": "its centres get no derivative: see test_faces_and_segmentation.py",
    "DecodeBBox": "a list of boxes; that fork's has no backward",
    "DetectionAccuracy": "counts",
    "DetectionEvaluate": "verdicts",
    "DetectionGroupAccuracy": "counts",
    "DetectionGroupLoss": "its second number has none: see test_cascade_training.py",
    "DetectionLoss": "its second number has none: see test_cascade_training.py, and test_yolo_first.py",
    "DetectionOutput": "a list of boxes",
    "EvalDetection": "verdicts",
    "FrcnnOutput": "a list of boxes",
    "GeneralContrastiveLoss": "hands down what is no derivative: see test_normface_losses.py",
    "GeneralTripletLoss": "hands down what is no derivative: see test_normface_losses.py",
    "HDF5Output": "has no top",
    "HardMining": "a choice of rows; that fork's has no backward",
    "PriorBox": "depends on shapes only",
    "PriorBoxClustered": "depends on shapes only",
    "MarginInnerProduct": "hands down what is no derivative: see test_faces_and_segmentation.py",
    "Proposal": "a list of boxes",
    "ProposalTarget": "a list of boxes and what they should be",
    "Python": "is whatever its user writes: see test_python_layer.py",
    "RegionLoss": "hands down what is no derivative: see test_yolo_losses.py",
    "ScaleRoute": "a choice of rows; that fork's has no backward",
    "SegAccuracy": "counts",
    "Silence": "has no top",
    "YoloDetectionOutput": "a list of boxes",
    "Yolov3": "hands down what is no derivative: see test_yolo_losses.py",
    "Yolov3DetectionOutput": "a list of boxes",
    "Threshold": "a step; Caffe has no backward for it",
}


def bottom(spec) -> torch.Tensor:
    if isinstance(spec, Labels):
        return torch.randint(spec.classes, spec.shape).double()
    if isinstance(spec, Positive):
        return torch.rand(spec.shape, dtype=torch.float64) * 0.9 + 0.05
    if isinstance(spec, Given):
        return torch.tensor(spec.values, dtype=torch.float64)
    return torch.randn(spec, dtype=torch.float64)


COMPUTED = [name for name, cls in layer_types().items() if not issubclass(cls, Source)]


@pytest.mark.parametrize("name", COMPUTED)
def test_gradient_is_the_derivative(name: str, make):
    if name in NO_GRADIENT:
        assert name not in EXAMPLES
        return
    assert name in EXAMPLES, f"give {name} an example in EXAMPLES, or a reason in NO_GRADIENT"
    for text, specs, tops in EXAMPLES[name]:
        bottoms = [bottom(spec) for spec in specs]
        phase = "TRAIN"
        if text.startswith("phase: TEST"):
            phase, text = "TEST", text.removeprefix("phase: TEST")
        layer = make(f'type: "{name}" {text}', *(tuple(b.shape) for b in bottoms), tops=tops, phase=phase).double()
        fixed = {i for i, spec in enumerate(specs) if isinstance(spec, (Labels, Given))} | layer.no_gradient_bottoms
        free = [i for i in range(len(bottoms)) if i not in fixed]
        learned = [key for key, blob in layer.named_parameters() if blob.requires_grad]
        values = dict(layer.named_parameters())

        def function(*inputs, layer=layer, bottoms=bottoms, free=free, learned=learned):
            torch.manual_seed(5)
            given = list(bottoms)
            for i, value in zip(free, inputs):
                given[i] = value
            parameters = dict(zip(learned, inputs[len(free) :]))
            tops = torch.func.functional_call(layer, parameters, tuple(given))
            tops = tops if isinstance(tops, tuple) else (tops,)
            return tuple(top for top in tops if top.requires_grad)

        inputs = [bottoms[i].clone().requires_grad_() for i in free]
        inputs += [values[key].detach().clone().requires_grad_() for key in learned]
        assert inputs, "nothing to differentiate"
        assert gradcheck(function, inputs, fast_mode=True), text


def test_examples_are_of_layers_that_exist():
    assert set(EXAMPLES) | set(NO_GRADIENT) <= set(COMPUTED)
