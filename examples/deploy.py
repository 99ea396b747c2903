"""Train a net, take it out of Caffe, ask it in ONNX Runtime: python examples/deploy.py."""

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

from pysolver.commands import main as pysolver

MODEL, WEIGHTS = "examples/digits/digits_train_test.prototxt", "demo/one_cycle_iter_400.caffemodel"
for command in (
    "data digits demo --force",
    "train --solver=examples/digits/one_cycle_solver.prototxt --minloglevel=1",
    f"export --model={MODEL} --weights={WEIGHTS} demo/digits.onnx --batch=dynamic --fold --preprocess --check",
):
    if pysolver(command.split()):
        raise SystemExit(f"pysolver {command} failed")
picture = np.float32((load_digits().images[1700] * 255 + 8) // 16)  # 8 x 8 numbers from 0 to 16 become 0 to 255
(prob,) = onnxruntime.InferenceSession("demo/digits.onnx").run(["prob"], {"data": picture[None, None]})
print(f"a {load_digits().target[1700]}: ONNX Runtime says {prob[0].argmax()} with probability {prob[0].max():.3f}")
