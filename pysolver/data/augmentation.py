"""What SSD's transform_param does to single images: resizing, noise, distortion, a larger canvas (im_transforms.cpp).

Images are uint8 (height, width, channels) in B, G, R; every random choice comes from the generator that is given.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pysolver.data import object_boxes
from pysolver.data.images import check_size
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.proto import caffe_pb2

_R = caffe_pb2.ResizeParameter
_INTERPOLATION = {
    _R.LINEAR: "INTER_LINEAR",
    _R.AREA: "INTER_AREA",
    _R.NEAREST: "INTER_NEAREST",
    _R.CUBIC: "INTER_CUBIC",
    _R.LANCZOS4: "INTER_LANCZOS4",
}
_BORDER = {_R.CONSTANT: "BORDER_CONSTANT", _R.MIRRORED: "BORDER_REFLECT101", _R.REPEAT_NEAREST: "BORDER_REPLICATE"}


def check_resize(param: caffe_pb2.ResizeParameter) -> None:
    """CaffeError for a resize_param without a size."""
    if not param.height or not param.width:
        raise CaffeError("transform_param: resize_param needs a positive height and width")


def resize(image: np.ndarray, param: caffe_pb2.ResizeParameter, generator: np.random.Generator) -> np.ndarray:
    """The image in the size of resize_param, by one of its interp_mode (none: LINEAR).

    WARP: to height x width. FIT_SMALL_SIZE: the shorter side fits, the aspect stays. FIT_LARGE_SIZE_AND_PAD: the longer
    side fits, pad around it.
    """
    cv2 = require("cv2")
    modes = list(param.interp_mode) or [_R.LINEAR]
    mode = getattr(cv2, _INTERPOLATION[modes[generator.integers(len(modes)) if len(modes) > 1 else 0]])
    rows, columns = object_boxes.resized(image.shape[:2], param)
    check_size(rows, columns)
    if param.resize_mode != _R.FIT_LARGE_SIZE_AND_PAD:
        return _with_channels(cv2.resize(image, (columns, rows), interpolation=mode))
    aspect = np.float32(image.shape[1]) / np.float32(image.shape[0])
    height, width = rows, columns
    if aspect > np.float32(columns) / np.float32(rows):
        height = int(np.float32(columns) / aspect)
    else:
        width = int(aspect * np.float32(rows))
    above, before = (rows - height) // 2, (columns - width) // 2
    image = cv2.resize(image, (max(width, 1), max(height, 1)), interpolation=mode)
    sides = above, rows - image.shape[0] - above, before, columns - image.shape[1] - before
    values = _per_channel(list(param.pad_value) or [0.0], 1 if image.ndim == 2 else image.shape[2], "pad_value")
    return _with_channels(cv2.copyMakeBorder(image, *sides, getattr(cv2, _BORDER[param.pad_mode]), value=values))


def _shorter_side(
    image: np.ndarray, side: int, param: caffe_pb2.ResizeParameter, generator: np.random.Generator
) -> np.ndarray:
    height, width = image.shape[:2]
    own = caffe_pb2.ResizeParameter()
    own.CopyFrom(param)
    aspect = np.float32(max(height, width)) / np.float32(min(height, width))
    longer = int(aspect * np.float32(side))
    check_size(side, longer)
    own.height, own.width = (side, longer) if height < width else (longer, side)
    return resize(image, own, generator)


def random_size(
    image: np.ndarray, param: caffe_pb2.RandomResizeParameter, generator: np.random.Generator
) -> np.ndarray:
    """The image with a shorter side of min_size to max_size (0: its own shorter and longer side), by resize_param's
    interpolation (Intel, data_transformer.cpp)."""
    low, high = param.min_size or min(image.shape[:2]), param.max_size or max(image.shape[:2])
    if low > high:
        raise CaffeError(f"transform_param: random_resize_param from {low} to {high} pixels")
    return _shorter_side(image, int(generator.integers(low, high + 1)), param.resize_param, generator)


def random_aspect(
    image: np.ndarray, param: caffe_pb2.RandomAspectRatioParameter, side: int, generator: np.random.Generator
) -> np.ndarray:
    """A part of the image as a square of `side`: its area from min_ to max_area_ratio of the image's, its sides changed
    by a factor from aspect_ratio_change to its inverse (Intel, data_transformer.cpp).

    If no such part fits into the image in max_attempt draws: the whole image, its shorter side `side`.
    """
    (height, width), own = image.shape[:2], caffe_pb2.ResizeParameter()
    own.CopyFrom(param.resize_param)
    own.height = own.width = side
    for _ in range(param.max_attempt):
        root = np.sqrt(_ratio(param.min_area_ratio, param.max_area_ratio, generator) * height * width)
        change = _ratio(param.aspect_ratio_change, 1 / param.aspect_ratio_change, generator)
        rows, columns = int(root * change), int(root / change)
        if generator.random() < 0.5:
            rows, columns = columns, rows
        if 0 < rows <= height and 0 < columns <= width:
            top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
            return resize(np.ascontiguousarray(image[top : top + rows, left : left + columns]), own, generator)
    return _shorter_side(image, side, param.resize_param, generator)


def _ratio(low: float, high: float, generator: np.random.Generator) -> float:
    """Of a thousand steps, as there."""
    return int(generator.integers(int((high - low) * 1000 + 1))) / 1000 + low


def noise(image: np.ndarray, param: caffe_pb2.NoiseParameter, generator: np.random.Generator) -> np.ndarray:
    """The image after what noise_param names, in SSD's order. `prob` is not read there."""
    cv2, colour = require("cv2"), image.shape[2] == 3
    if param.decolorize and colour:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if param.gauss_blur:
        image = cv2.GaussianBlur(image, (7, 7), 1.5)
    if param.hist_eq:
        image = _on_brightness(_with_channels(image), cv2.equalizeHist)
    if param.clahe:
        image = _on_brightness(_with_channels(image), cv2.createCLAHE(clipLimit=4).apply)
    if param.jpeg > 0:
        file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(param.jpeg)])[1]
        image = cv2.imdecode(file, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    if param.erode:
        image = cv2.erode(image, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3), (1, 1)))
    if param.posterize:
        image = image // 64 * 64 + 32
    if param.inverse:
        image = 255 - image
    image = _with_channels(image)
    if param.saltpepper:
        image = _salt_and_pepper(image, param.saltpepper_param, generator)
    if param.convert_to_hsv and colour:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    return image


def _salt_and_pepper(
    image: np.ndarray, param: caffe_pb2.SaltPepperParameter, generator: np.random.Generator
) -> np.ndarray:
    height, width, channels = image.shape
    if not 0 <= param.fraction <= 1:
        raise CaffeError(f"transform_param: saltpepper_param.fraction is {param.fraction:g}: it must be in 0..1")
    count = int(np.float32(param.fraction) * width * height)
    values = _per_channel(list(param.value) or [0.0], channels, "saltpepper_param.value")
    image = image.copy()
    image[generator.integers(height, size=count), generator.integers(width, size=count)] = np.array(values, np.uint8)
    return image


def distort(image: np.ndarray, param: caffe_pb2.DistortionParameter, generator: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each by its chance; contrast second or, as often, last."""
    if image.shape[2] != 3:
        raise CaffeError(f"transform_param: distort_param is for images in colour, not with {image.shape[2]} channel")
    p = param
    brightness = (p.brightness_prob, -p.brightness_delta, p.brightness_delta, _brighter)
    contrast = (p.contrast_prob, p.contrast_lower, p.contrast_upper, _more_contrast)
    saturation = (p.saturation_prob, p.saturation_lower, p.saturation_upper, _more_saturated)
    hue = (p.hue_prob, -p.hue_delta, p.hue_delta, _other_hue)
    early = generator.random() > 0.5
    steps = [brightness, contrast, saturation, hue] if early else [brightness, saturation, hue, contrast]
    for chance, low, high, step in steps:
        if generator.random() < chance:
            image = step(image, generator.uniform(low, high))
    if generator.random() < p.random_order_prob:
        image = image[:, :, generator.permutation(3)]
    return image


def _saturate(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _brighter(image: np.ndarray, delta: float) -> np.ndarray:
    return _saturate(image + np.float32(delta))


def _more_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return _saturate(image * np.float32(factor)) if abs(factor - 1) > 1e-3 else image


def _more_saturated(image: np.ndarray, factor: float) -> np.ndarray:
    return _in_hsv(image, 1, lambda plane: plane * np.float32(factor))


def _other_hue(image: np.ndarray, delta: float) -> np.ndarray:
    return _in_hsv(image, 0, lambda plane: plane + np.float32(delta))


def _in_hsv(image: np.ndarray, plane: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    cv2 = require("cv2")
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2HSV)
    hsv[:, :, plane] = _saturate(change(hsv[:, :, plane]))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def expand(
    image: np.ndarray, param: caffe_pb2.ExpansionParameter, mean: list[float], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image at a random place of a canvas up to max_expand_ratio as large, filled with the mean values.

    Also the view: the canvas as a box in fractions of the image.
    """
    if generator.random() > param.prob or abs(param.max_expand_ratio - 1) < 1e-2:
        return image, object_boxes.WHOLE
    height, width, channels = image.shape
    if not 1 <= param.max_expand_ratio < np.inf:
        raise CaffeError(f"transform_param: max_expand_ratio is {param.max_expand_ratio:g}: it must be at least 1")
    ratio = generator.uniform(1, param.max_expand_ratio)
    rows, columns = int(height * ratio), int(width * ratio)
    check_size(rows, columns)
    top, left = int(generator.uniform(0, rows - height)), int(generator.uniform(0, columns - width))
    canvas = np.empty((rows, columns, channels), image.dtype)
    canvas[:] = np.array(_per_channel(mean or [0.0], channels, "mean_value"), np.float32).astype(image.dtype)
    canvas[top : top + height, left : left + width] = image
    view = np.array([-left / width, -top / height, (columns - left) / width, (rows - top) / height], np.float32)
    return canvas, view


def crop(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of the image in a box, cut to whole pixels, at least one."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in np.clip(box, 0, 1) * np.array([width, height] * 2, np.float32))
    columns, rows = max(int(x2 - x1), 1), max(int(y2 - y1), 1)
    left, top = min(int(x1), width - 1), min(int(y1), height - 1)
    return image[top : top + rows, left : left + columns]


def _on_brightness(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    cv2 = require("cv2")
    if image.shape[2] == 1:
        return change(image[:, :, 0])
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    planes[:, :, 0] = change(np.ascontiguousarray(planes[:, :, 0]))
    return cv2.cvtColor(planes, cv2.COLOR_YCrCb2BGR)


def _with_channels(image: np.ndarray) -> np.ndarray:
    """OpenCV drops the axis of a single channel."""
    return image[:, :, None] if image.ndim == 2 else image


def _per_channel(values: list[float], channels: int, name: str) -> list[float]:
    if len(values) not in (1, channels):
        raise CaffeError(f"transform_param: Specify either 1 {name} or as many as channels: {channels}")
    return values * channels if len(values) == 1 else values
