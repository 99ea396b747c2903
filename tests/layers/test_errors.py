"""Every check at set-up, and every bad label or index, is one clear error that names the layer."""

from __future__ import annotations

import pytest
import torch

from pysolver.errors import CaffeError

X = (2, 4, 5, 6)

# (prototxt, bottom shapes, number of tops, what the message says)
AT_SET_UP = [
    # counts of bottoms and tops
    ('type: "ReLU"', [X, X], 1, "ReLU Layer takes 1 bottom blob.s. as input"),
    ('type: "Concat"', [], 1, "at least 1 bottom"),
    ('type: "Slice"', [X], 0, "at least 1 top"),
    ('type: "Pooling" pooling_param { kernel_size: 2 }', [X], 3, "at most 2 top"),
    ('type: "SoftmaxWithLoss"', [X], 1, "takes 2 bottom"),
    # activations
    ('type: "PReLU"', [(3,)], 1, "2 or more axes"),
    ('type: "Exp" exp_param { base: 0 }', [X], 1, "base must be positive, or -1"),
    ('type: "Log" log_param { base: -2 }', [X], 1, "base must be positive, or -1"),
    ('type: "Dropout" dropout_param { dropout_ratio: 1 }', [X], 1, r"dropout_ratio must lie in \[0, 1\), not 1"),
    # convolution
    ('type: "Convolution" convolution_param { kernel_size: 3 }', [X], 1, "num_output must be positive"),
    ('type: "Convolution" convolution_param { num_output: 2 }', [X], 1, "kernel_size must be given"),
    ('type: "Convolution" convolution_param { num_output: 2 kernel_size: 0 }', [X], 1, "kernel_size must be positive"),
    ('type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 stride: 0 }', [X], 1, "stride must be"),
    ('type: "Convolution" convolution_param { num_output: 2 kernel_size: [1, 2, 3] }', [X], 1, "2 spatial axes, not 3"),
    ('type: "Convolution" convolution_param { num_output: 2 kernel_h: 3 }', [X], 1, "kernel_h and kernel_w"),
    (
        'type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 kernel_h: 3 kernel_w: 3 }',
        [X],
        1,
        "not both",
    ),
    (
        'type: "Convolution" convolution_param { num_output: 2 kernel_h: 3 kernel_w: 3 }',
        [(2, 4, 5)],
        1,
        "for 2 spatial axes, here are 1",
    ),
    ('type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 group: 2 }', [X], 1, "multiple of group"),
    (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 group: 3 }',
        [X],
        1,
        "channels of the bottom",
    ),
    ('type: "Convolution" convolution_param { num_output: 3 kernel_size: 9 }', [X], 1, "too small for the kernel"),
    ('type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 }', [X, (2, 4, 5, 5)], 2, "same shape"),
    ('type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 }', [X, X], 1, "2 bottoms, but 1 tops"),
    ('type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 axis: 4 }', [X], 1, "axis 4 out of range"),
    ('type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 1 pad: 4 }', [X], 1, "leaves nothing"),
    (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "none" } }',
        [X],
        1,
        "Unknown filler name: none",
    ),
    # pooling
    ('type: "Pooling"', [X], 1, "needs kernel_size, or kernel_h and kernel_w"),
    ('type: "Pooling" pooling_param { kernel_size: 2 kernel_h: 2 kernel_w: 2 }', [X], 1, "not both"),
    ('type: "Pooling" pooling_param { kernel_h: 2 }', [X], 1, "both kernel_h and kernel_w"),
    ('type: "Pooling" pooling_param { kernel_size: 0 }', [X], 1, "cannot be zero"),
    ('type: "Pooling" pooling_param { kernel_size: 2 stride: 0 }', [X], 1, "stride must be positive"),
    ('type: "Pooling" pooling_param { kernel_size: 2 stride_h: 1 }', [X], 1, "both stride_h and stride_w"),
    ('type: "Pooling" pooling_param { kernel_size: 2 pad: 2 }', [X], 1, "must be below the kernel"),
    ('type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 pad: 1 }', [X], 1, "only for average and max"),
    ('type: "Pooling" pooling_param { global_pooling: true kernel_size: 2 }', [X], 1, "no kernel can be given"),
    ('type: "Pooling" pooling_param { global_pooling: true pad: 1 }', [X], 1, "pad must be 0 and stride 1"),
    ('type: "Pooling" pooling_param { kernel_size: 2 }', [(2, 4, 5)], 1, "must have 4 axes"),
    ('type: "Pooling" pooling_param { pool: AVE kernel_size: 2 }', [X], 2, "only MAX has a second top"),
    ('type: "SPP"', [X], 1, "pyramid_height must be positive"),
    ('type: "SPP" spp_param { pyramid_height: 4 }', [X], 1, "too small for a level of 4 x 4 bins"),
    # normalisation
    ('type: "LRN" lrn_param { local_size: 4 }', [X], 1, "odd values for local_size"),
    ('type: "LRN"', [(2, 3)], 1, "must have 4 axes"),
    ('type: "BatchNorm"', [(2,)], 1, "2 or more axes"),
    ('type: "BatchNorm" batch_norm_param { eps: -1 }', [X], 1, "eps must not be negative: -1"),
    ('type: "InnerProduct" inner_product_param { num_output: 4294967295 }', [X], 1, "blob size exceeds INT_MAX"),
    ('type: "BatchNorm" param { lr_mult: 0 } param { decay_mult: 0 }', [X], 1, "Cannot configure batch normalization"),
    ('type: "MVN"', [(1, 1, 1, 1, 1)], 1, "at most 4 axes"),
    ('type: "Scale" scale_param { axis: 3 num_axes: 2 }', [X], 1, "past the end"),
    ('type: "Scale" scale_param { num_axes: -2 }', [X], 1, "num_axes must be non-negative"),
    ('type: "Scale"', [X, (5,)], 1, "dimension mismatch"),
    ('type: "Bias"', [X, (4, 6)], 1, "dimension mismatch"),
    # shape
    ('type: "Concat" concat_param { axis: 1 concat_dim: 1 }', [X, X], 1, "not both"),
    ('type: "Concat"', [X, (2, 4, 5)], 1, "same #axes"),
    ('type: "Concat"', [X, (2, 4, 5, 5)], 1, "same shape, except at axis 1"),
    ('type: "Slice" slice_param { axis: 1 slice_dim: 1 }', [X], 2, "not both"),
    ('type: "Slice"', [X], 3, "should evenly divide"),
    ('type: "Slice" slice_param { slice_point: 1 slice_point: 2 }', [X], 2, "2 slice points cannot cut 4 into 2"),
    ('type: "Slice" slice_param { slice_point: 2 slice_point: 1 }', [X], 3, "must rise"),
    ('type: "Slice" slice_param { slice_point: 5 }', [X], 2, "must rise"),
    ('type: "Flatten" flatten_param { axis: 2 end_axis: 1 }', [X], 1, "end_axis 1 comes before axis 2"),
    ('type: "Flatten" flatten_param { axis: 7 }', [X], 1, "axis 7 out of range for 4-D Blob"),
    ('type: "Reshape" reshape_param { shape { dim: -1 dim: -1 } }', [X], 1, "multiple -1"),
    ('type: "Reshape" reshape_param { shape { dim: 7 dim: -1 } }', [X], 1, "must be divisible"),
    ('type: "Reshape" reshape_param { shape { dim: 7 } }', [X], 1, "must match input count"),
    ('type: "Reshape" reshape_param { axis: 5 shape { dim: 1 } }', [X], 1, "reach beyond"),
    ('type: "Reshape" reshape_param { axis: 1 num_axes: 4 shape { dim: 1 } }', [X], 1, "reach beyond"),
    ('type: "Reshape" reshape_param { axis: -1 shape { dim: 0 } }', [X], 1, "no corresponding bottom axis"),
    ('type: "Tile"', [X], 1, "needs tiles"),
    ('type: "Tile" tile_param { tiles: 0 }', [X], 1, "must be positive"),
    ('type: "Crop"', [X, (2, 4, 5)], 1, "as many axes"),
    ('type: "Crop" crop_param { offset: [1, 2, 3] }', [X, X], 1, "number of offset values"),
    ('type: "Crop" crop_param { offset: 1 }', [X, X], 1, "out-of-bounds"),
    ('type: "BatchReindex"', [X, (2, 2)], 1, "needs 1 axis"),
    ('type: "Filter"', [X, (2,)], 2, "needs 1 tops"),
    ('type: "Filter"', [X, (2, 3)], 1, "must be singletons"),
    ('type: "Filter"', [X, (3,)], 1, "selector has 3 items"),
    # arithmetic
    ('type: "Eltwise"', [X, (2, 4, 5, 5)], 1, "must have one shape"),
    ('type: "Eltwise" eltwise_param { coeff: 1 }', [X, X], 1, "one coefficient per bottom"),
    (
        'type: "Eltwise" eltwise_param { operation: PROD coeff: [1, 2] }',
        [X, X],
        1,
        "only takes coefficients for summation",
    ),
    ('type: "Reduction" reduction_param { axis: 4 }', [X], 1, "axis 4 out of range"),
    ('type: "Softmax" softmax_param { axis: 4 }', [X], 1, "axis 4 out of range"),
    ('type: "ArgMax" argmax_param { top_k: 0 }', [X], 1, "top_k must be between 1"),
    ('type: "ArgMax" argmax_param { top_k: 5 axis: 1 }', [X], 1, "top_k must be between 1"),
    ('type: "InnerProduct"', [X], 1, "num_output must be positive"),
    ('type: "Embed" embed_param { num_output: 3 }', [(3,)], 1, "input_dim must be positive"),
    # losses
    ('type: "SoftmaxWithLoss"', [(4, 3), (3,)], 1, "same first dimension"),
    ('type: "SoftmaxWithLoss"', [(4, 3), (4, 2)], 1, "Number of labels must match"),
    ('type: "InfogainLoss"', [(4, 3), (4,)], 1, "source must be specified"),
    ('type: "InfogainLoss" infogain_loss_param { source: "missing" }', [(4, 3), (4,)], 1, "File not found: missing"),
    ('type: "InfogainLoss"', [(4, 3), (4,), (2, 2)], 1, "3 x 3 numbers"),
    ('type: "InfogainLoss" loss_param { normalize: true }', [(4, 3), (4,), (3, 3)], 1, "normalize is deprecated"),
    ('type: "SigmoidCrossEntropyLoss"', [(4, 3), (4, 2)], 1, "same count"),
    ('type: "EuclideanLoss"', [(4, 3), (4, 2)], 1, "same dimension"),
    ('type: "ContrastiveLoss"', [(4, 3), (4, 2), (4,)], 1, "needs bottoms"),
    ('type: "ContrastiveLoss"', [(4, 3), (4, 3), (3,)], 1, "one similarity label"),
    ('type: "HingeLoss"', [(4, 3), (4, 2)], 1, "one label an item"),
    ('type: "MultinomialLogisticLoss"', [(4, 3), (4, 2)], 1, "one label an item"),
    ('type: "Accuracy" accuracy_param { top_k: 4 }', [(4, 3), (4,)], 1, "less than or equal to the number of classes"),
    ('type: "Accuracy"', [(4, 3), (5,)], 1, "Number of labels must match"),
    # recurrent
    ('type: "LSTM"', [(3, 2, 4), (3, 2)], 1, "num_output must be positive"),
    ('type: "LSTM" recurrent_param { num_output: 3 }', [(3,), (3,)], 1, "at least 2 axes"),
    ('type: "LSTM" recurrent_param { num_output: 3 }', [(3, 2, 4), (2, 2)], 1, "exactly 2 axes"),
    ('type: "LSTM" recurrent_param { num_output: 3 }', [(3, 2, 4), (3, 2), (3, 4)], 1, "must have 2 streams"),
    ('type: "LSTM" recurrent_param { num_output: 3 expose_hidden: true }', [(3, 2, 4), (3, 2)], 3, "at least 4 bottom"),
    (
        'type: "LSTM" recurrent_param { num_output: 3 expose_hidden: true }',
        [(3, 2, 4), (3, 2)] + [(1, 2, 4)] * 2,
        3,
        "a state must",
    ),
    ('type: "LSTMUnit"', [(1, 2, 3), (1, 2, 9), (1, 2)], 2, "needs bottoms"),
    # ends
    ('type: "HDF5Output"', [X, X], 0, "needs file_name"),
    ('type: "HDF5Output" hdf5_output_param { file_name: "/no/such/folder/x.h5" }', [X, X], 0, "Failed to open HDF5"),
    ('type: "Python" python_param { module: "math" layer: "Missing" }', [X], 1, "has no class 'Missing'"),
    # forks
    ('type: "Permute" permute_param { order: 4 }', [X], 1, "names axis 4"),
    ('type: "Permute" permute_param { order: 1 order: 1 }', [X], 1, "duplicate"),
    ('type: "Axpy"', [(2, 3), X, X], 1, "one factor for each channel"),
    ('type: "ShuffleChannel" shuffle_channel_param { group: 3 }', [X], 1, "multiple of group"),
    ('type: "ConvolutionDepthwise" convolution_param { num_output: 8 kernel_size: 3 }', [X], 1, "bottom's channels"),
    ('type: "SmoothL1Loss"', [(3, 4), (3, 5)], 1, "must have one shape"),
    ('type: "Normalize" norm_param { }', [(3,)], 1, "2 or more axes"),
    ('type: "Normalize"', [(3,)], 1, "needs a bottom"),
    ('type: "Normalize" normalize_param { eps: 1 }', [X], 1, "of SSD's Normalize"),
    ('type: "Normalize" normalize_param { normalize_type: "L3" }', [X], 1, "L1 or L2"),
    ('type: "InnerProduct" inner_product_param { num_output: 2 normalize: true transpose: true }', [X], 1, "of rows"),
    ('type: "Unpooling" unpooling_param { kernel_size: 2 unpool: AVE }', [X], 1, "only MAX"),
    ('type: "Unpooling" unpooling_param { kernel_size: 2 }', [X, (2, 4, 5, 5)], 1, "must have the shape"),
    ('type: "AvgProbs" avg_probs_param { multi_infer_size: 3 }', [(4, 2)], 1, "multiple of multi_infer_size"),
    ('type: "AvgProbsMultiSources"', [(4, 2), (4, 3)], 1, "one shape"),
    ('type: "GuidedDropout" guided_dropout_param { type: "blind" }', [X, X[:2]], 1, "deterministic or stochastic"),
    ('type: "GuidedDropout"', [X, X], 1, "one number for each channel"),
    ('type: "GeneralTripletLoss"', [(4, 1), (4,)], 1, "more than one class"),
    ('type: "BN"', [X], 2, "tops of their own"),
    ('type: "Interp" interp_param { pad_beg: 1 }', [X], 1, "non-positive padding"),
    ('type: "Interp" interp_param { pad_beg: -9 }', [X], 1, "nothing is left"),
    ('type: "Upsample" upsample_param { scale_h: 2 }', [X], 1, "together"),
    ('type: "Upsample"', [X, (2, 4, 5, 5)], 1, "must have the shape"),
    ('type: "ROIPooling" roi_pooling_param { pooled_h: 0 pooled_w: 2 }', [X, (3, 5)], 1, "must be > 0"),
    ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 }', [X, (3, 4)], 1, "needs bottoms"),
    (
        'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 2 }',
        [X, (3, 5)],
        1,
        "does not match",
    ),
    ('type: "PriorBox"', [X, X], 1, "must provide min_size"),
    ('type: "PriorBox" prior_box_param { min_size: 3 max_size: 2 }', [X, X], 1, "greater than min_size"),
    ('type: "PriorBox" prior_box_param { min_size: 3 variance: [1, 2] }', [X, X], 1, "4 variance"),
    ('type: "PriorBox" prior_box_param { min_size: 3 step: 2 step_h: 2 }', [X, X], 1, "not both"),
    ('type: "PriorBox" prior_box_param { min_size: 3 }', [X], 1, "second bottom"),
    ('type: "PriorBox" prior_box_param { min_size: 3 }', [X, (2, 3)], 1, "the second one for its size"),
    (
        'type: "DetectionEvaluate" detection_evaluate_param { num_classes: 2147483647 overlap_threshold: 0.5 }',
        [(1, 1, 2, 7), (1, 1, 2, 8)],
        1,
        "num_classes must be from 1 to 65536",
    ),
    ('type: "DetectionOutput"', [(2, 8), (2, 6), (1, 2, 8)], 1, "num_classes"),
    (
        'type: "DetectionOutput" detection_output_param { num_classes: 3 }',
        [(2, 4), (2, 6), (1, 2, 8)],
        1,
        "location predictions",
    ),
    (
        'type: "DetectionOutput" detection_output_param { num_classes: 3 }',
        [(2, 8), (2, 5), (1, 2, 8)],
        1,
        "confidence predictions",
    ),
    (
        'type: "MultiBoxLoss" multibox_loss_param { num_classes: 3 share_location: false }',
        [(2, 24), (2, 6), (1, 2, 8), (1, 1, 1, 8)],
        1,
        "share_location",
    ),
]


@pytest.mark.parametrize(
    ("text", "shapes", "tops", "message"), AT_SET_UP, ids=lambda v: v if isinstance(v, str) else ""
)
def test_set_up_refuses(make, text: str, shapes: list, tops: int, message: str):
    with pytest.raises(CaffeError, match=message) as caught:
        make(text, *shapes, tops=tops)
    kind = text.split('"')[1]
    assert kind in str(caught.value)


def test_the_error_names_the_layer(make):
    with pytest.raises(CaffeError, match=r"layer 'layer' \(Tile\): needs tiles"):
        make('type: "Tile"', X)


LABELLED = [
    ('type: "SoftmaxWithLoss"', [(3, 4)], "label {} is outside .0, 4., there are 4 classes"),
    ('type: "InfogainLoss"', [(3, 4), (4, 4)], "label {} is outside"),
    ('type: "HingeLoss"', [(3, 4)], "label {} is outside"),
    ('type: "MultinomialLogisticLoss"', [(3, 4)], "label {} is outside"),
    ('type: "Accuracy"', [(3, 4)], "label {} is outside"),
]


@pytest.mark.parametrize(("text", "shapes", "message"), LABELLED, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("label", [-1, 4, 100])
def test_a_label_outside_the_classes(make, text: str, shapes: list, message: str, label: int):
    layer = make(text, shapes[0], (3,), *shapes[1:])
    data, *rest = (torch.rand(shape) for shape in shapes)
    layer(data, torch.tensor([0.0, 3, 1]), *rest)
    with pytest.raises(CaffeError, match="layer 'layer'.*" + message.format(label)):
        layer(data, torch.tensor([0.0, label, 1]), *rest)


def test_the_ignored_label_may_lie_outside(make):
    layer = make('type: "SoftmaxWithLoss" loss_param { ignore_label: 255 }', (3, 4), (3,))
    scores = torch.rand(3, 4)
    loss = layer(scores, torch.tensor([255.0, 1, 255]))
    torch.testing.assert_close(loss, -scores[1].log_softmax(0)[1])


def test_labels_are_truncated_towards_zero(make):
    layer = make('type: "SoftmaxWithLoss"', (1, 4), (1,))
    scores = torch.rand(1, 4)
    assert layer(scores, torch.tensor([2.9])) == layer(scores, torch.tensor([2.0]))
    assert layer(scores, torch.tensor([-0.9])) == layer(scores, torch.tensor([0.0]))


@pytest.mark.parametrize(
    ("text", "shapes", "index", "message"),
    [
        ('type: "Embed" embed_param { num_output: 2 input_dim: 5 }', [], [4.0, 5.0], "index 5 is outside .0, 5."),
        ('type: "BatchReindex"', [(3, 2)], [0.0, 3.0], "index 3 is outside .0, 3., there are 3 items"),
        ('type: "BatchReindex"', [(3, 2)], [0.0, -1.0], "index -1 is outside"),
    ],
)
def test_an_index_outside(make, text: str, shapes: list, index: list, message: str):
    layer = make(text, *shapes, (2,))
    with pytest.raises(CaffeError, match=message):
        layer(*(torch.rand(shape) for shape in shapes), torch.tensor(index))


@pytest.mark.parametrize(
    ("text", "first", "later", "message"),
    [
        (
            'type: "Convolution" convolution_param { num_output: 2 kernel_size: 1 }',
            X,
            (2, 3, 5, 6),
            "incompatible with conv",
        ),
        (
            'type: "Convolution" convolution_param { num_output: 2 kernel_size: 1 }',
            X,
            (2, 4, 5),
            "num_axes may not change",
        ),
        (
            'type: "InnerProduct" inner_product_param { num_output: 2 }',
            X,
            (2, 4, 5, 5),
            "incompatible with inner product",
        ),
        ('type: "BatchNorm"', X, (2, 3, 5, 6), "statistics of 4 channels"),
        ('type: "PReLU"', X, (2, 3, 5, 6), "4 slopes"),
        ('type: "Scale"', X, (2, 3, 5, 6), "dimension mismatch"),
    ],
)
def test_a_later_bottom_that_does_not_fit_the_parameters(make, text: str, first: tuple, later: tuple, message: str):
    with pytest.raises(CaffeError, match=message):
        make(text, first).top_shapes(later)


def test_python_layers_need_leave(make):
    with pytest.raises(CaffeError, match="allow-python-layers"):
        make('type: "Python" python_param { module: "antigravity" layer: "X" }', X)
    with pytest.raises(CaffeError, match="it would run code of the module 'subprocess'"):  # imported, but no layer
        make('type: "Python" python_param { module: "subprocess" layer: "Popen" }', X)


def test_a_python_layer_whose_module_is_missing(make):
    with pytest.raises(CaffeError, match="layer 'layer' .Python.: there is no module 'voc_layers' .* into PYTHONPATH"):
        make('type: "Python" python_param { module: "voc_layers" layer: "X" }', X, allow_python_layers=True)


def test_blobs_in_the_definition_must_fit(make):
    text = 'type: "InnerProduct" inner_product_param { num_output: 1 bias_term: false } '
    text += "blobs { shape { dim: 1 dim: %d } data: [1, 2] }"
    assert make(text % 2, (3, 2)).blobs[0].tolist() == [[1.0, 2.0]]
    with pytest.raises(CaffeError, match="has shape"):
        make(text % 2, (3, 4))


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("Convolutoin", "; did you mean 'Convolution'"),
        ("convolution", "; did you mean 'Convolution'"),
        ("InnerProdcut", "; did you mean 'InnerProduct'"),
        ("RELU", "; did you mean 'ReLU'"),
        ("FullyConnected", "; did you mean 'InnerProduct'"),
        ("CrossEntropyLoss", "; did you mean 'SoftmaxWithLoss'"),
        ("MaxPool2d", "; did you mean 'Pooling'"),
        ("SOFTMAX_LOSS", "; did you mean 'SoftmaxWithLoss'"),
        ("Elephant", r" \(known types: AbsVal, "),
        ("", r"\(none\): a layer needs a type"),
    ],
)
def test_an_unknown_type_says_what_may_be_meant(make, typed, meant):
    with pytest.raises(CaffeError, match=f"Unknown layer type: {typed}{meant}"):
        make(f'type: "{typed}"', X)


def test_hdf5_output_overwrites_nothing_but_hdf5(make, tmp_path):
    """A net from the internet names a file of its user."""
    (tmp_path / "mine.txt").write_text("words")
    with pytest.raises(CaffeError, match="mine.txt is there and is no HDF5 file"):
        make(f'type: "HDF5Output" hdf5_output_param {{ file_name: "{tmp_path}/mine.txt" }}', X, (2,), tops=0)
    assert (tmp_path / "mine.txt").read_text() == "words"
