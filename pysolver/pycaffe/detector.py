"""caffe.Detector: class scores of windows of images, as R-CNN needs them (python/caffe/detector.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pysolver.pycaffe import io
from pysolver.pycaffe.classifier import image_transformer
from pysolver.pycaffe.misc import TEST
from pysolver.pycaffe.net import Net


class Detector(Net):
    """A net that scores windows.

    context_pad: so many pixels on each side of the net's input show what surrounds the window (Girshick et al., 2014);
    what lies outside the image is the mean. The other arguments: see io.Transformer.
    """

    def __init__(
        self,
        model_file: str,
        pretrained_file: str,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the context, and what an empty window looks like before preprocessing (H x W x K)."""
        name, transformer = self.inputs[0], self.transformer
        self.context_pad = context_pad
        channels, height, width = self.blobs[name].shape[1:]
        self.crop_dims = np.array([height, width, channels])
        mean: np.ndarray = np.zeros((channels, 1, 1), np.float32)
        if name in transformer.mean:
            mean = transformer.mean[name] / transformer.raw_scale.get(name, 1.0)
        if name in transformer.channel_swap:
            mean = mean[np.argsort(transformer.channel_swap[name])]
        self.crop_mean = np.broadcast_to(mean.transpose(1, 2, 0), self.crop_dims).astype(np.float32)

    def detect_windows(self, images_windows: Iterable[tuple[str, Iterable[Sequence[float]]]]) -> list[dict[str, Any]]:
        """For each window (ymin, xmin, ymax, xmax) of each image file a dict of filename, window and prediction."""
        name = self.inputs[0]
        found, rows = [], []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                rows.append(self.transformer.preprocess(name, self.crop(image, window)))
                found.append({"window": window, "filename": filename})
        if not rows:
            return []
        predictions = self.forward_all(**{name: np.stack(rows)})[self.outputs[0]]
        return [{**entry, "prediction": prediction} for entry, prediction in zip(found, predictions)]

    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """detect_windows on the proposals of the package selective_search_ijcv_with_python (it needs MATLAB)."""
        import selective_search_ijcv_with_python as selective_search

        files = [str(Path(name).absolute()) for name in image_fnames]
        return self.detect_windows(zip(files, selective_search.get_windows(files, cmd="selective_search_rcnn")))

    def crop(self, im: np.ndarray, window: Sequence[float]) -> np.ndarray:
        """The window of an H x W x K image, with its context if there is a context_pad."""
        top, left, bottom, right = window
        if not self.context_pad:
            return im[int(top) : int(bottom), int(left) : int(right)]
        height, width = self.crop_dims[:2]
        rows = _with_context(top, bottom, self.context_pad, height, im.shape[0])
        columns = _with_context(left, right, self.context_pad, width, im.shape[1])
        crop = self.crop_mean.copy()
        inside = im[rows.source, columns.source]
        crop[rows.target, columns.target] = io.resize_image(inside, (rows.length, columns.length))
        return crop


class _Span(NamedTuple):
    """One axis of a window: the pixels to take, and where and how long they are in the crop."""

    source: slice
    target: slice
    length: int


def _with_context(low: float, high: float, pad: int, size: int, limit: int) -> _Span:
    """The window low..high of an axis of `limit` pixels, grown so that it fills all but 2 `pad` of `size` pixels."""
    half = (high - low + 1) / 2
    centre, grown = low + half, half * size / (size - 2 * pad)
    start, stop = round(centre - grown), round(centre + grown)
    scale = size / (stop - start + 1)
    before = round(max(0, -start) * scale)
    start, stop = max(start, 0), min(stop, limit)
    if start >= stop:
        raise ValueError(f"the window {low}..{high} lies outside the image, which has {limit} pixels there")
    length = min(round((stop - start + 1) * scale), size - before)
    return _Span(slice(start, stop), slice(before, before + length), length)
