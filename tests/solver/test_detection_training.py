"""The whole of SSD on made-up boxes: annotated records in, mean average precision out, by `eval_type: "detection"`."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pysolver.data.database_writer import new_database
from pysolver.data.databases import LMDB
from pysolver.logs import events as e
from pysolver.proto.caffe_pb2 import AnnotatedDatum, SolverParameter
from pysolver.proto.text import parse_text
from pysolver.solver.solver import Solver

NET = """
name: "tiny"
layer {{ name: "data" type: "AnnotatedData" top: "data" top: "label" include {{ phase: TRAIN }}
  data_param {{ source: "{train}" batch_size: 8 backend: LMDB }}
  transform_param {{ mirror: true scale: 0.0078125 mean_value: 128 emit_constraint {{ emit_type: CENTER }}
                    resize_param {{ height: 32 width: 32 }} expand_param {{ prob: 0.3 max_expand_ratio: 1.3 }} }}
  annotated_data_param {{ batch_sampler {{ max_sample: 1 max_trials: 1 }} }} }}
layer {{ name: "data" type: "AnnotatedData" top: "data" top: "label" include {{ phase: TEST }}
  data_param {{ source: "{test}" batch_size: 8 backend: LMDB }}
  transform_param {{ scale: 0.0078125 mean_value: 128 resize_param {{ height: 32 width: 32 }} }} }}
layer {{ name: "c1" type: "Convolution" bottom: "data" top: "c1"
  convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 stride: 2 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "r1" type: "ReLU" bottom: "c1" top: "c1" }}
layer {{ name: "c2" type: "Convolution" bottom: "c1" top: "c2"
  convolution_param {{ num_output: 24 kernel_size: 3 pad: 1 stride: 2 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "r2" type: "ReLU" bottom: "c2" top: "c2" }}
layer {{ name: "c3" type: "Convolution" bottom: "c2" top: "c3"
  convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 stride: 2 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "r3" type: "ReLU" bottom: "c3" top: "c3" }}
layer {{ name: "loc" type: "Convolution" bottom: "c3" top: "loc"
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" }}
layer {{ name: "conf" type: "Convolution" bottom: "c3" top: "conf"
  convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "conf_flat" type: "Flatten" bottom: "conf_perm" top: "conf_flat" }}
layer {{ name: "prior" type: "PriorBox" bottom: "c3" bottom: "data" top: "prior"
  prior_box_param {{ min_size: 10 max_size: 18 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }} }}
layer {{ name: "loss" type: "MultiBoxLoss" bottom: "loc_flat" bottom: "conf_flat" bottom: "prior" bottom: "label"
  top: "loss" include {{ phase: TRAIN }} loss_param {{ normalization: VALID }}
  multibox_loss_param {{ num_classes: 3 code_type: CENTER_SIZE }} }}
layer {{ name: "conf_rows" type: "Reshape" bottom: "conf_flat" top: "conf_rows" include {{ phase: TEST }}
  reshape_param {{ shape {{ dim: 0 dim: -1 dim: 3 }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "conf_rows" top: "prob" include {{ phase: TEST }}
  softmax_param {{ axis: 2 }} }}
layer {{ name: "prob_flat" type: "Flatten" bottom: "prob" top: "prob_flat" include {{ phase: TEST }} }}
layer {{ name: "found" type: "DetectionOutput" bottom: "loc_flat" bottom: "prob_flat" bottom: "prior" top: "found"
  include {{ phase: TEST }} detection_output_param {{ num_classes: 3 code_type: CENTER_SIZE keep_top_k: 20
    confidence_threshold: 0.01 nms_param {{ nms_threshold: 0.45 top_k: 50 }} }} }}
layer {{ name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "label" top: "detection_eval"
  include {{ phase: TEST }} detection_evaluate_param {{ num_classes: 3 overlap_threshold: 0.5 }} }}
"""


def _write(path, count, seed):
    """Bright squares (class 1) and dark ones (class 2) of 9 to 16 pixels on a grey 40 x 40 image, one or two."""
    random = np.random.default_rng(seed)
    items = []
    for number in range(count):
        image = random.integers(110, 146, (40, 40, 3)).astype(np.uint8)
        record = AnnotatedDatum(type="BBOX")
        for half in range(random.integers(1, 3)):  # of the image: the left one, and perhaps the right one
            size, label = int(random.integers(9, 17)), int(random.integers(1, 3))
            x, y = 20 * half + int(random.integers(21 - size)), int(random.integers(41 - size))
            image[y : y + size, x : x + size] = 240 if label == 1 else 20
            box = {"xmin": x / 40, "ymin": y / 40, "xmax": (x + size) / 40, "ymax": (y + size) / 40}
            record.annotation_group.add(group_label=label).annotation.add(instance_id=0, bbox=box)
        record.datum.encoded, record.datum.data = True, cv2.imencode(".png", image)[1].tobytes()
        items.append((b"%08d" % number, record.SerializeToString()))
    with new_database(path, LMDB) as database:
        database.put(items)


YOLO_HEAD = """
layer {{ name: "map" type: "Convolution" bottom: "c3" top: "map"
  convolution_param {{ num_output: 14 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "Yolov3" bottom: "map" bottom: "label" top: "loss" include {{ phase: TRAIN }}
  yolov3_param {{ num_class: 2 num: 2 anchors_scale: 8 biases: 8 biases: 8 biases: 12 biases: 12 mask: 0 mask: 1
    thresh: 0.6 coord_scale: 1 label_smooth_eps: 0 use_logic_gradient: false }} }}
layer {{ name: "found" type: "Yolov3DetectionOutput" bottom: "map" top: "found" include {{ phase: TEST }}
  yolov3_detection_output_param {{ num_classes: 2 num_box: 2 mask_group_num: 1 anchors_scale: 8 biases: 8 biases: 8
    biases: 12 biases: 12 mask: 0 mask: 1 confidence_threshold: 0.01 nms_threshold: 0.45 }} }}
layer {{ name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "label" top: "detection_eval"
  include {{ phase: TEST }} detection_evaluate_param {{ num_classes: 3 overlap_threshold: 0.5 }} }}
"""
SAMPLER = "annotated_data_param {{ batch_sampler {{ max_sample: 1 max_trials: 1 }} }}"
YOLO_NET = NET[: NET.index('layer {{ name: "loc"')].replace(
    SAMPLER, "annotated_data_param {{ yolo_data_type: 1 yolo_data_jitter: 0.2 }}"
)


@pytest.mark.long
def test_yolo_learns_made_up_boxes(tmp_path):
    _learns(tmp_path, YOLO_NET + YOLO_HEAD)


@pytest.mark.long
def test_a_small_detector_learns_made_up_boxes(tmp_path):
    _learns(tmp_path, NET)


def _learns(tmp_path, net: str) -> None:
    _write(tmp_path / "train", 160, 1)
    _write(tmp_path / "test", 40, 2)
    (tmp_path / "net.prototxt").write_text(net.format(train=tmp_path / "train", test=tmp_path / "test"))
    text = f"""
    net: "{tmp_path}/net.prototxt" test_iter: 5 test_interval: 300 max_iter: 300 base_lr: 0.004 lr_policy: "multistep"
    gamma: 0.1 stepvalue: 250 momentum: 0.9 weight_decay: 0.0005 type: "SGD" random_seed: 3 snapshot_after_train: false
    eval_type: "detection" ap_version: "11point" test_initialization: true display: 100
    """
    seen = []
    Solver(parse_text(text, SolverParameter), subscribers=[seen.append]).solve()
    precision = [event.value for event in seen if isinstance(event, e.Output) and event.name == "detection_eval"]
    assert len(precision) == 2
    assert precision[0] < 0.3
    assert precision[1] > 0.85, precision  # about 0.95
