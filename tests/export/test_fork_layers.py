"""Layers of forks that no Caffe at hand computes: exported, they equal pysolver's layers, which tests/layers holds
against their rules written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.export import to_onnx, to_torch

VOLUMES = {
    "convolution": "type: 'Convolution3D' convolution3d_param { num_output: 2 kernel_size: 3 kernel_depth: 2 stride: 2 "
    "pad: 1 temporal_pad: 1 }",
    "deconvolution": "type: 'Deconvolution3D' convolution3d_param { num_output: 2 kernel_size: 3 kernel_depth: 2 "
    "stride: 2 pad: 1 }",
    "max": "type: 'Pooling3D' pooling3d_param { kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 }",
    "max_far": "type: 'Pooling3D' pooling3d_param { kernel_size: 1 kernel_depth: 1 stride: 3 temporal_stride: 3 }",
    "average": "type: 'Pooling3D' pooling3d_param { pool: AVE kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1 }",
    "average_up": "type: 'Pooling3D' pooling3d_param { pool: AVE kernel_size: 2 kernel_depth: 3 stride: 2 }",
}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def inputs(**shapes: tuple[int, ...]) -> str:
    dims = [" ".join(f"dim: {size}" for size in shape) for shape in shapes.values()]
    tops = " ".join(f"top: '{name}'" for name in shapes)
    return f"layer {{ name: 'in' type: 'Input' {tops} input_param {{ {' '.join(f'shape {{ {d} }}' for d in dims)} }} }}"


def forward(net, output: str, **fed: np.ndarray) -> np.ndarray:
    for name, value in fed.items():
        net.blobs[name].reshape(*value.shape)
        net.blobs[name].data[...] = value
    net.forward()
    return net.blobs[output].data.copy()


@pytest.mark.parametrize("batch", [None, "dynamic"])
@pytest.mark.parametrize("layer", VOLUMES.values(), ids=VOLUMES)
def test_volumes(layer, batch, net_of, run):
    net = net_of(inputs(data=(2, 3, 5, 8, 7)) + f"layer {{ name: 'l' bottom: 'data' top: 'y' {layer} }}")
    model = to_onnx(net, batch=batch)
    data = normal(3 if batch else 2, 3, 5, 8, 7)
    expected = forward(net, "y", data=data)
    np.testing.assert_allclose(run(model, data=data)["y"], expected, rtol=1e-5, atol=1e-5)  # sums of float32
    if "stride: 3" in layer:
        with pytest.raises(CaffeError, match="behind the volume"):
            to_torch(net)
    else:
        found = to_torch(net)(torch.from_numpy(data)).detach()
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_regions_with_channels_of_their_own(images, net_of, run):
    net = net_of(
        inputs(data=(2, 12, 9, 8), rois=(5, 5))
        + """layer { name: 'l' type: 'PSROIPooling' bottom: 'data' bottom: 'rois' top: 'y'
                     psroi_pooling_param { output_dim: 3 group_size: 2 spatial_scale: 0.25 } }"""
    )
    model = to_onnx(net, batch="dynamic")
    corners = [[0, 0, 35, 31], [2.5, 3.5, 9, 20], [30, 30, 90, 90], [-9, -9, 4, 4], [7, 7, 7, 7]]
    rois = np.array([[i % images, *box] for i, box in enumerate(corners)], np.float32)
    data = normal(images, 12, 9, 8)
    expected = forward(net, "y", data=data, rois=rois)
    assert np.abs(expected).min(axis=(1, 2, 3))[0] > 0  # the first region has a number in every bin
    np.testing.assert_allclose(run(model, data=data, rois=rois)["y"], expected, atol=1e-6)


def boxes_agree(layer: str, shift: float, count: int, net_of, run):
    """ONNX Runtime finds the boxes that the net finds on two maps shifted by `shift`; the net."""
    net = net_of(inputs(coarse=(2, 16, 2, 3), fine=(2, 16, 4, 6)) + layer)
    model = to_onnx(net, batch="dynamic")
    fed = {"coarse": 2 * normal(count, 16, 2, 3) + shift, "fine": 2 * normal(count, 16, 4, 6) + shift}
    expected, found = forward(net, "y", **fed), run(model, **fed)["y"]
    assert expected.shape[2] > 3 * count if shift == 0 else expected.shape[2] == count
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # float32 exponentials
    return net


YOLO = """layer { name: 'l' type: 'Yolov3DetectionOutput' bottom: 'coarse' bottom: 'fine' top: 'y'
                  yolov3_detection_output_param { num_classes: 3 num_box: 2 mask_group_num: 2 confidence_threshold: 0.3
                      nms_threshold: 0.4 mask: 2 mask: 3 mask: 0 mask: 1 anchors_scale: 32 anchors_scale: 16
                      biases: 10 biases: 14 biases: 23 biases: 27 biases: 37 biases: 58 biases: 81 biases: 82 } }"""


@pytest.mark.parametrize("shift, count", [(0, 1), (0, 3), (-20, 2)])
def test_boxes_of_yolo(shift, count, net_of, run):
    """Shifted by -20 no score is above the threshold."""
    net = boxes_agree(YOLO, shift, count, net_of, run)
    with pytest.raises(CaffeError, match="suppression"):
        to_torch(net)


def test_what_mines_hard_examples_leaves(net_of, run):
    """R-FCN's training head: the softmax stays."""
    net = net_of(
        inputs(data=(4, 6, 1, 1), rois=(4, 5, 1, 1), label=(4, 1, 1, 1), weights=(4, 8, 1, 1))
        + """layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' inner_product_param { num_output: 3 } }
             layer { name: 'score' type: 'Reshape' bottom: 'ip' top: 'score'
                     reshape_param { shape { dim: 0 dim: 3 dim: 1 dim: 1 } } }
             layer { name: 'each' type: 'SoftmaxWithLossOHEM' bottom: 'score' bottom: 'label'
                     top: 'each' top: 'prob' top: 'cost' loss_weight: 0 loss_weight: 0 loss_weight: 0 }
             layer { name: 'hard' type: 'BoxAnnotatorOHEM' bottom: 'rois' bottom: 'cost' bottom: 'label'
                     bottom: 'weights' top: 'hard_label' top: 'hard_weights'
                     box_annotator_ohem_param { roi_per_img: 2 ignore_label: -1 } }
             layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'score' bottom: 'hard_label' top: 'loss'
                     loss_param { ignore_label: -1 } }"""
    )
    model = to_onnx(net)
    assert [info.name for info in model.graph.input] == ["data"]
    data = normal(4, 6, 1, 1)
    scores = torch.from_numpy(forward(net, "score", data=data))
    for found in run(model, data=data).values():
        np.testing.assert_allclose(found, torch.softmax(scores, 1), atol=1e-6)


@pytest.mark.parametrize("width, height", [(True, False), (False, True), (True, True), (False, False)])
def test_flip(width, height, net_of, run):
    p = f"flip_param {{ flip_width: {str(width).lower()} flip_height: {str(height).lower()} }}"
    net = net_of(inputs(data=(2, 3, 4, 5)) + f"layer {{ name: 'l' type: 'Flip' bottom: 'data' top: 'y' {p} }}")
    data = normal(3, 3, 4, 5)
    expected = data[:, :, :: -1 if height else 1, :: -1 if width else 1]
    np.testing.assert_array_equal(run(to_onnx(net, batch="dynamic"), data=data)["y"], expected)
    np.testing.assert_array_equal(to_torch(net)(torch.from_numpy(data)), expected)


@pytest.mark.parametrize("shape", [(2, 12), (2, 3, 2, 2)])
def test_without_its_margin_a_face_net_is_an_inner_product(shape, net_of, run):
    """SphereFace's heads: the label, lambda and the loss leave, weights have length 1."""
    net = net_of(
        inputs(data=shape, label=(2,))
        + """layer { name: 'fc6' type: 'MarginInnerProduct' bottom: 'data' bottom: 'label' top: 'fc6' top: 'lambda'
                     margin_inner_product_param { num_output: 4 type: QUADRUPLE lambda_min: 5 } }
             layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'fc6' bottom: 'label' top: 'loss' }"""
    )
    weights = net.params["fc6"][0].data.astype(np.float64)
    scores = normal(3, *shape[1:]).reshape(3, -1) @ (weights / np.linalg.norm(weights, axis=1)[:, None]).T
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    model = to_onnx(net, batch="dynamic")
    assert [info.name for info in model.graph.input] == ["data"]
    data = normal(3, *shape[1:])
    np.testing.assert_allclose(run(model, data=data)["prob"], expected, rtol=1e-5)  # rounding of float32
    np.testing.assert_allclose(to_torch(net)(torch.from_numpy(data)).detach(), expected, rtol=1e-5)
    np.testing.assert_array_equal(net.params["fc6"][0].data, weights)


YOLO2 = """layer { name: 'l' type: 'YoloDetectionOutput' bottom: 'coarse' bottom: 'fine' top: 'y'
                   yolo_detection_output_param { num_classes: 3 num_box: 2 confidence_threshold: 0.3
                       nms_threshold: 0.4 biases: 0.5 biases: 0.7 biases: 1.2 biases: 0.9 } }"""


@pytest.mark.parametrize("shift, count", [(0, 1), (0, 3), (-20, 2)])
def test_boxes_of_yolo_2(shift, count, net_of, run):
    """The objectness of a box is shifted with the rest: by -20 no score is above the threshold."""
    boxes_agree(YOLO2, shift, count, net_of, run)


@pytest.mark.parametrize("image", [[60, 70, 1], [60, 70, 2, 0.5]])
@pytest.mark.parametrize("limits", ["pre_nms_topn: 12 post_nms_topn: 30", "post_nms_topn: 5", ""])
def test_proposals(image, limits, net_of, run):
    net = net_of(
        inputs(scores=(1, 12, 4, 5), codes=(1, 24, 4, 5), image=(1, len(image)))
        + f"""layer {{ name: 'l' type: 'Proposal' bottom: 'scores' bottom: 'codes' bottom: 'image' top: 'rois' top: 'y'
                proposal_param {{ {limits} ratio: 0.5 ratio: 1 ratio: 2 scale: 1 scale: 2 min_size: 12
                                  nms_thresh: 0.5 }} }}"""
    )
    generator = np.random.default_rng(0)
    fed = {
        "scores": generator.random((1, 12, 4, 5), np.float32),
        "codes": 0.3 * normal(1, 24, 4, 5),
        "image": np.array([image], np.float32),
    }
    rois = forward(net, "rois", **fed)
    found = run(to_onnx(net), **fed)
    least, most = {"pre": (6, 12), "pos": (5, 5), "": (13, 119)}[limits[:3]]
    assert least <= len(rois) <= most
    np.testing.assert_allclose(found["rois"], rois, rtol=1e-5, atol=1e-4)  # pixels, of float32 exponentials
    np.testing.assert_array_equal(found["y"], net.blobs["y"].data)
    with pytest.raises(CaffeError, match="suppression"):
        to_torch(net)


def test_judges_of_segmentation_leave(net_of):
    net = net_of(
        inputs(data=(2, 3, 4, 4), label=(2, 1, 4, 4))
        + """layer { name: 'score' type: 'ReLU' bottom: 'data' top: 'score' }
             layer { name: 'seg' type: 'SegAccuracy' bottom: 'score' bottom: 'label' top: 'seg' }"""
    )
    graph = to_onnx(net).graph
    assert [[info.name for info in ends] for ends in (graph.input, graph.output)] == [["data"], ["score"]]


def test_padded_regions(net_of, run):
    net = net_of(
        inputs(data=(2, 3, 9, 8), rois=(4, 5))
        + """layer { name: 'l' type: 'ROIPooling' bottom: 'data' bottom: 'rois' top: 'y'
                     roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.25 pad_ratio: 0.25 } }"""
    )
    rois = np.array([[0, 4, 4, 19, 15], [1, 8, 10, 20, 30], [1, 0, 0, 12, 20], [0, 7, 5, 30, 30]], np.float32)
    data = normal(2, 3, 9, 8)
    np.testing.assert_array_equal(run(to_onnx(net), data=data, rois=rois)["y"], forward(net, "y", data=data, rois=rois))


@pytest.mark.parametrize("height, width", [(3, 2), (7, 13)])
def test_masks(height, width, net_of, run):
    net = net_of(
        inputs(data=(2, 3, height, width), mask=(2, 1, 4, 6))
        + f"""layer {{ name: 'small' type: 'MaskResize' bottom: 'mask' top: 'small'
                       mask_resize_param {{ output_height: {height} output_width: {width} }} }}
              layer {{ name: 'l' type: 'MaskPooling' bottom: 'data' bottom: 'small' top: 'y' }}"""
    )
    fed = {"data": normal(3, 3, height, width), "mask": normal(3, 1, 4, 6)}
    np.testing.assert_allclose(run(to_onnx(net, batch="dynamic"), **fed)["y"], forward(net, "y", **fed), atol=1e-6)


SMALL = {
    "InnerDistance": "inner_distance_param { num_output: 3 weight_filler { type: 'gaussian' } }",
    "Transpose": "transpose_param { dim: 0 dim: 3 dim: 1 dim: 2 }",
    "Reverse": "reverse_param { axis: 2 }",
    "SeLu": "",
    "SeLuDropout": "",
    "CuDNNBatchNorm": "cudnn_batch_norm_param { frozen: true scale_filler { value: 2 } bias_filler { value: 1 } }",
}


@pytest.mark.parametrize("kind", SMALL)
def test_small_layers(kind, net_of, run):
    layer = f"layer {{ name: 'l' type: '{kind}' bottom: 'data' top: 'y' {SMALL[kind]} }}"
    net = net_of(inputs(data=(2, 3, 4, 5)) + layer)
    data = normal(3, 3, 4, 5)
    expected = forward(net, "y", data=data)
    np.testing.assert_allclose(run(to_onnx(net, batch="dynamic"), data=data)["y"], expected, rtol=1e-5, atol=1e-5)


def test_scaled_places(net_of, run):
    layer = "layer { name: 'l' type: 'ChannelScale' bottom: 'data' bottom: 'scale' top: 'y' }"
    net = net_of(inputs(data=(2, 3, 4, 5), scale=(2, 1, 4, 5)) + layer)
    fed = {"data": normal(3, 3, 4, 5), "scale": normal(3, 1, 4, 5)}
    np.testing.assert_array_equal(run(to_onnx(net, batch="dynamic"), **fed)["y"], fed["data"] * fed["scale"])


def test_a_crop_that_finds_its_place(net_of, run):
    """Up by 2 from a window of 4: the cut begins at 1. Gather hands on what it gets."""
    up = "convolution_param { num_output: 2 kernel_size: 4 stride: 2 weight_filler { type: 'gaussian' } }"
    net = net_of(
        inputs(data=(2, 3, 6, 8))
        + """layer { name: 'p' type: 'Pooling' bottom: 'data' top: 'p' pooling_param { kernel_size: 2 stride: 2 } }"""
        + f"""layer {{ name: 'u' type: 'Deconvolution' bottom: 'p' top: 'u' {up} }}
              layer {{ name: 'c' type: 'AutoCrop' bottom: 'u' bottom: 'data' top: 'c' }}
              layer {{ name: 'g' type: 'Gather' bottom: 'c' bottom: 'p' top: 'y' top: 'z' }}"""
    )
    data = normal(2, 3, 6, 8)
    expected = forward(net, "u", data=data)[:, :, 1:7, 1:9]
    found = run(to_onnx(net), data=data)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["z"], forward(net, "p", data=data))


@pytest.mark.parametrize("shape", [(2, 12), (2, 3, 2, 2)])
def test_without_its_margin_a_large_margin_net_is_an_inner_product(shape, net_of, run):
    """Its weights keep their lengths, and a focal loss leaves the softmax."""
    net = net_of(
        inputs(data=shape, label=(2,))
        + """layer { name: 'ip' type: 'LargeMarginInnerProduct' bottom: 'data' bottom: 'label' top: 'ip' top: 'lambda'
                     largemargin_inner_product_param { num_output: 4 type: DOUBLE weight_filler { type: 'xavier' } } }
             layer { name: 'loss' type: 'FocalLoss' bottom: 'ip' bottom: 'label' top: 'loss' }"""
    )
    data = normal(3, *shape[1:])
    scores = data.reshape(3, -1).astype(np.float64) @ net.params["ip"][0].data.astype(np.float64).T
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(run(to_onnx(net, batch="dynamic"), data=data)["prob"], expected, rtol=1e-5)
    np.testing.assert_allclose(to_torch(net)(torch.from_numpy(data)).detach(), expected, rtol=1e-5)
