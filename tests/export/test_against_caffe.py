"""Every layer that a real Caffe computed (tests/golden), exported: ONNX Runtime must compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import pysolver as caffe
from pysolver.errors import CaffeError
from pysolver.export import to_onnx

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted([*(GOLDEN / "layers").glob("*.npz"), *(GOLDEN / "layers_ssd").glob("*.npz")])
NOTHING = "nothing to export"
REFUSED = {  # what has no ONNX form -> words of the reason
    "detection_output_own": r"layer 'd' \(DetectionOutput\).*nms_param.eta below 1",
    **dict.fromkeys(("dummydata_constant", "dummydata_legacy", "input_shapes", "split"), NOTHING),
    **dict.fromkeys(("accuracy", "accuracy_spatial_ignore", "accuracy_ties", "accuracy_topk_classes"), NOTHING),
    **dict.fromkeys(("contrastive", "contrastive_legacy", "euclidean", "hinge_l1", "hinge_l2"), NOTHING),
    **dict.fromkeys(("mlogloss", "mlogloss_clamp", "detection_evaluate", "detection_evaluate_easy"), NOTHING),
}
ONLY_A_LOSS = ("softmaxloss", "sigmoidce", "multibox", "smooth_l1_2")  # no blob of the deploy form is in the file


def read(path: Path, folder: Path) -> tuple[dict[str, np.ndarray], caffe.Net]:
    case = dict(np.load(path))
    (folder / "net.prototxt").write_text(str(case["prototxt"]))
    net = caffe.Net(str(folder / "net.prototxt"), caffe.TRAIN if str(case["phase"]) == "TRAIN" else caffe.TEST)
    for key, value in case.items():
        if key.startswith("param."):
            layer, index = key[6:].rsplit(".", 1)
            net.params[layer][int(index)].data[...] = value
    return case, net


def with_all_blobs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with every blob as an output."""
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(info for info in model.graph.value_info if info.name not in outputs)
    return model


def check(case: dict[str, np.ndarray], found: dict[str, np.ndarray], suffix: str = "") -> int:
    """Compare all blobs that both have; how many."""
    common = [name for name in found if f"out{suffix}.{name}" in case]
    for name in common:
        expected = case[f"out{suffix}.{name}"]
        assert found[name].shape == expected.shape, name
        error = np.abs(found[name] - expected) / np.maximum(1, np.abs(expected))
        np.testing.assert_array_less(np.nan_to_num(error, nan=np.inf), float(case["tolerance"]), name)
    return len(common)


def inputs_of(case: dict[str, np.ndarray], model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {info.name: case[f"in.{info.name}"] for info in model.graph.input if f"in.{info.name}" in case}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_computes_what_caffe_computes(path, tmp_path, run):
    case, net = read(path, tmp_path)
    if path.stem in REFUSED:
        with pytest.raises(CaffeError, match=REFUSED[path.stem]) as error:
            to_onnx(net)
        assert "\n" not in str(error.value)
        return
    model = to_onnx(net)
    onnx.checker.check_model(model, full_check=True)
    compared = check(case, run(with_all_blobs(model), **inputs_of(case, model)))
    assert compared or path.stem.startswith(ONLY_A_LOSS)


FOLDED = ("bias", "bn_", "conv", "deconv", "dropout", "ip", "lstm_static", "mini_", "net_", "scale", "priorbox")


@pytest.mark.parametrize("path", [p for p in CASES if p.stem.startswith(FOLDED)], ids=lambda path: path.stem)
def test_folded_models_compute_the_same(path, tmp_path, run):
    case, net = read(path, tmp_path)
    model = to_onnx(net, folded=True)
    onnx.checker.check_model(model, full_check=True)
    assert check(case, run(with_all_blobs(model), **inputs_of(case, model)))


@pytest.mark.parametrize("opset", [13, 17, 18, 24])
def test_other_opsets(opset, tmp_path, run):
    for stem in ("mvn", "reduction_sumsq", "pool_ave_3_2", "lstm", "bn_train", "argmax_topk_val", "slice", "im2col"):
        case, net = read(GOLDEN / "layers" / f"{stem}.npz", tmp_path)
        model = with_all_blobs(to_onnx(net, opset=opset))
        assert [entry.version for entry in model.opset_import] == [opset]
        onnx.checker.check_model(model, full_check=True)
        assert check(case, run(model, **inputs_of(case, model)))


@pytest.mark.parametrize("stem", ["softmaxloss", "softmaxloss_axis2", "sigmoidce"])
def test_losses_become_what_deploy_files_have(stem, tmp_path, run):
    case, net = read(GOLDEN / "layers" / f"{stem}.npz", tmp_path)
    model = to_onnx(net)
    assert [info.name for info in model.graph.input] == ["data"]
    scores = torch.from_numpy(case["in.data"])
    axis = 2 if stem.endswith("axis2") else 1
    expected = torch.sigmoid(scores) if stem == "sigmoidce" else torch.softmax(scores, axis)
    np.testing.assert_allclose(run(model, data=scores)["prob"], expected, atol=1e-6)  # rounding of float32


@pytest.mark.parametrize("stem", ["lstm_stateful"])
def test_a_carried_state_is_handed_in_again(stem, tmp_path, run):
    case, net = read(GOLDEN / "layers" / f"{stem}.npz", tmp_path)
    model = to_onnx(net)
    inputs = inputs_of(case, model)
    first = run(model, **inputs)
    assert check(case, first)
    inputs.update((name[4:], value) for name, value in case.items() if name.startswith("in2."))
    state = {name.replace("_out", "_in"): value for name, value in first.items() if name.endswith("_out")}
    assert len(state) == 2
    assert check(case, run(model, **inputs, **state), "2")
