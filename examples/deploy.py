"""Train a net, take it out of Caffe, ask it in ONNX Runtime: python examples/deploy.py."""

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

from pysolver.commands import main as pysolver

MODEL, SOLVER = "examples/digits/digits_train_test.prototxt", "examples/digits/one_cycle_solver.prototxt"
WEIGHTS, ONNX = "demo/one_cycle_iter_400.caffemodel", "demo/digits.onnx"

for command in (
    ["data", "digits", "demo", "--force"],
    ["train", f"--solver={SOLVER}", "--minloglevel=1"],
    [
        "export",
        f"--model={MODEL}",
        f"--weights={WEIGHTS}",
        ONNX,
        "--batch=dynamic",
        "--fold",
        "--preprocess",
        "--check",
    ],
):
    if pysolver(command):
        raise SystemExit(f"pysolver {command[0]} failed")
picture = load_digits().images[1700]  # 8 x 8 numbers from 0 to 16
(prob,) = onnxruntime.InferenceSession(ONNX).run(["prob"], {"data": np.float32((picture * 255 + 8) // 16)[None, None]})
print(f"a {load_digits().target[1700]}: ONNX Runtime says {prob[0].argmax()} with probability {prob[0].max():.3f}")
