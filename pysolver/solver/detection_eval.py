"""`eval_type: "detection"` of SSD: a test's mean average precision from the rows of DetectionEvaluate (solver.cpp)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.net.net import Net
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.solver.testing import TestResult

VERSIONS = ("11point", "MaxIntegral", "Integral")
_EPS = 1e-6


def check_evaluation(param: SolverParameter) -> None:
    """CaffeError for an eval_type or ap_version of SSD that is not known."""
    if param.eval_type not in ("classification", "detection"):
        raise CaffeError(f"Unknown evaluation type: {param.eval_type} (eval_type is classification or detection)")
    if param.ap_version not in VERSIONS:
        raise CaffeError(f"Unknown ap_version: {param.ap_version} (known: {', '.join(VERSIONS)})")


def run_detection(
    net: Net,
    batches: int,
    forward: Callable[[], Tensor],
    stop: Callable[[], bool],
    param: SolverParameter,
    tell: Emit,
) -> TestResult | None:
    """The mean loss, and of each output the mean average precision over all batches; None if `stop` says so.

    Told is, if show_per_class_result, the average precision of each class of which something was found.
    """
    loss: Tensor | float = 0.0
    scores: dict[str, DetectionScores] = {}
    for _ in range(batches):
        if stop():
            return None
        with torch.no_grad():
            loss = loss + forward()
        for name, value, _ in net.output_values():
            scores.setdefault(name, DetectionScores()).add(value, name)
    for score in scores.values() if param.show_per_class_result else ():
        for label, precision in score.by_class(param.ap_version).items():
            tell(notices.ClassPrecision(label, precision))
    outputs = [(name, np.float32(score.mean(param.ap_version)), 0.0) for name, score in scores.items()]
    return TestResult(float(loss / batches), outputs)


class DetectionScores:
    """What the rows (K, 5) of one output say over all batches of a test."""

    def __init__(self) -> None:
        self.objects: dict[int, int] = defaultdict(int)  # by class
        self.found: dict[int, list[tuple[float, int]]] = defaultdict(list)  # by class: score, right or wrong

    def add(self, output: Tensor, name: str) -> None:
        """The rows of a batch; CaffeError if it is no output of DetectionEvaluate."""
        if not output.dim() or output.shape[-1] != 5:
            raise CaffeError(
                f"eval_type \"detection\": output '{name}' is of {list(output.shape)}, not the rows of 5 numbers of a "
                "DetectionEvaluate layer"
            )
        for image, label, score, right, wrong in output.reshape(-1, 5).tolist():
            if int(image) == -1:
                self.objects[int(label)] += int(score)
            elif right or wrong:  # neither: on an object that is difficult
                self.found[int(label)].append((score, int(right)))

    def by_class(self, version: str) -> dict[int, float]:
        """The average precision of each class of which something was found."""
        return {
            label: average_precision(self.found[label], count, version)
            for label, count in sorted(self.objects.items())
            if label in self.found
        }

    def mean(self, version: str) -> float:
        """Over all classes; one of which nothing was found counts 0."""
        return sum(self.by_class(version).values()) / max(1, len(self.objects))


def average_precision(found: list[tuple[float, int]], objects: int, version: str) -> float:
    """The area under precision over recall, detections by falling score.

    11point: the mean over recalls 0, 0.1 .. 1 of the best precision from there on (PASCAL VOC 2007). MaxIntegral: the
    area under that best precision, which SSD takes at the start of each step (VOC 2012). Integral: under the precision
    itself.
    """
    if version not in VERSIONS:
        raise CaffeError(f"Unknown ap_version: {version} (known: {', '.join(VERSIONS)})")
    if not found or not objects:
        return 0.0
    right = np.array([verdict for _, verdict in sorted(found, key=lambda pair: -pair[0])])
    hits = right.cumsum()
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if version == "11point":
        reached = [best[recall.astype(np.float32) >= level] for level in np.arange(11) / 10]
        return float(sum(values[0] for values in reached if len(values)) / 11)
    steps = np.diff(recall, prepend=0.0)
    heights = np.concatenate([best[:1], best[:-1]]) if version == "MaxIntegral" else precision
    return float((heights * np.where(steps > _EPS, steps, 0)).sum())
