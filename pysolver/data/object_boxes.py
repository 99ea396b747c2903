"""The objects of an image, and what cropping, enlarging and resizing make of them.

A box is (xmin, ymin, xmax, ymax) as fractions of its image. SSD: bbox_util.cpp, im_transforms.cpp, sampler.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pysolver.proto import caffe_pb2

WHOLE = np.array([0, 0, 1, 1], np.float32)
_R = caffe_pb2.ResizeParameter


class Objects(NamedTuple):
    """The objects of one image, one a row."""

    labels: np.ndarray  # (G)
    instances: np.ndarray  # (G)
    corners: np.ndarray  # (G, 4) float32
    difficult: np.ndarray  # (G)

    def where(self, keep: np.ndarray, corners: np.ndarray) -> Objects:
        """Those of a mask, with other corners."""
        return Objects(self.labels[keep], self.instances[keep], corners[keep], self.difficult[keep])


def objects_of(record: caffe_pb2.AnnotatedDatum) -> Objects:
    """The annotations of a record, group by group."""
    rows = [
        (group.group_label, one.instance_id, box.xmin, box.ymin, box.xmax, box.ymax, box.difficult)
        for group in record.annotation_group
        for one in group.annotation
        for box in [one.bbox]
    ]
    table = np.array(rows, np.float32).reshape(-1, 7)
    return Objects(table[:, 0], table[:, 1], table[:, 2:6], table[:, 6])


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[..., 2:] - boxes[..., :2]
    return np.where((sides < 0).any(-1), 0, sides.prod(-1))


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that a box and each of the others have in common."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return (high - low).clip(0).prod(-1)


def seen_in(view: np.ndarray, objects: Objects, emit: caffe_pb2.EmitConstraint | None) -> Objects:
    """The objects as fractions of a view (a box, perhaps larger than the image), clipped to it.

    Those outside are gone, and those that `emit` drops: whose centre is not in the view (CENTER), or of which no more
    than emit_overlap is (MIN_OVERLAP).
    """
    corners = objects.corners
    keep = ((corners[:, :2] < view[2:]) & (corners[:, 2:] > view[:2])).all(1)
    if emit is not None and emit.emit_type == emit.CENTER:
        centre = (corners[:, :2] + corners[:, 2:]) / 2
        keep &= ((centre >= view[:2]) & (centre <= view[2:])).all(1)
    elif emit is not None:
        areas = _areas(corners)
        covered = np.divide(_shared(view, corners), areas, out=np.zeros_like(areas), where=areas > 0)
        keep &= covered > emit.emit_overlap
    projected = ((corners - np.tile(view[:2], 2)) / np.tile(view[2:] - view[:2], 2)).clip(0, 1).astype(np.float32)
    return objects.where(keep & (_areas(projected) > 0), projected)


def resized(size: tuple[int, int], param: caffe_pb2.ResizeParameter) -> tuple[int, int]:
    """(height, width) of an image of `size` after resize_param."""
    height, width = size
    if param.resize_mode != _R.FIT_SMALL_SIZE:
        return param.height, param.width
    aspect = np.float32(width) / np.float32(height)
    if aspect < np.float32(param.width) / np.float32(param.height):
        return int(np.float32(param.width) / aspect), param.width
    return param.height, int(aspect * np.float32(param.height))


def after_resize(objects: Objects, size: tuple[int, int], param: caffe_pb2.ResizeParameter) -> Objects:
    """The objects of an image of `size` (height, width) after resize_param; padding moves and shrinks them."""
    if param.resize_mode != _R.FIT_LARGE_SIZE_AND_PAD:
        return objects._replace(corners=objects.corners.clip(0, 1))
    aspect = size[1] / size[0]
    new = np.array([param.width, param.height], np.float32)
    content = new.copy()  # the part that the image fills, before it is rounded to pixels
    if aspect > param.width / param.height:
        content[1] = param.width / aspect
    else:
        content[0] = param.height * aspect
    pad = (new - content) / 2
    moved = (objects.corners * np.tile(content, 2) + np.tile(pad, 2)) / np.tile(new, 2)
    return objects._replace(corners=moved.astype(np.float32))


def mirrored(objects: Objects) -> Objects:
    """As they are in the image from right to left."""
    x1, y1, x2, y2 = objects.corners.T
    return objects._replace(corners=np.stack([1 - x2, y1, 1 - x1, y2], 1))


def sample(
    samplers: list[caffe_pb2.BatchSampler], objects: Objects, generator: np.random.Generator
) -> list[np.ndarray]:
    """The boxes that the batch samplers draw and whose constraint holds against some object."""
    found = []
    for sampler in samplers:
        if not sampler.use_original_image:
            continue
        most = sampler.max_sample if sampler.HasField("max_sample") else sampler.max_trials
        good = 0
        for _ in range(sampler.max_trials):
            if good >= most:
                break
            box = _draw(sampler.sampler, generator)
            if _holds(box, objects.corners, sampler.sample_constraint):
                found.append(box)
                good += 1
    return found


def jittered(jitter: float, keeps_aspect: bool, generator: np.random.Generator) -> np.ndarray:
    """A part of the image, for YOLO: the whole one in a fifth of cases, sides of 1 - jitter / 2 and more in another."""
    kind = generator.choice(3, p=[0.2, 0.2, 0.6])
    if kind == 0:
        return WHOLE
    least = 1 - jitter / (2 if kind == 1 else 1)
    size = generator.uniform(least, 1, 2)
    if keeps_aspect:
        size[1] = size[0]
    low = generator.uniform(0, 1, 2) * (1 - size)
    return np.concatenate([low, low + size]).astype(np.float32)


def _draw(sampler: caffe_pb2.Sampler, generator: np.random.Generator) -> np.ndarray:
    scale = generator.uniform(sampler.min_scale, sampler.max_scale)
    aspect = generator.uniform(sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    aspect = min(max(aspect, scale**2), 1 / scale**2)  # so that the box fits into the image
    size = np.array([scale * aspect**0.5, scale / aspect**0.5])
    low = generator.uniform(0, 1, 2) * (1 - size)
    return np.concatenate([low, low + size]).astype(np.float32)


def _holds(box: np.ndarray, objects: np.ndarray, constraint: caffe_pb2.SampleConstraint) -> bool:
    """Whether some object meets the bounds: of the overlap, or of what part of one lies in the other.

    As SSD does: an object that meets one kind of bounds and fails the next is passed over, but any later object is
    then enough.
    """
    shared, own, areas = _shared(box, objects), _areas(box), _areas(objects)
    with np.errstate(divide="ignore", invalid="ignore"):
        measures = {
            "jaccard_overlap": np.where(shared > 0, shared / (own + areas - shared), 0),
            "sample_coverage": np.where(shared > 0, shared / own, 0),
            "object_coverage": np.where(shared > 0, shared / areas, 0),
        }
    asked = [name for name in measures if constraint.HasField(f"min_{name}") or constraint.HasField(f"max_{name}")]
    if not asked:
        return True
    found = False
    for index in range(len(objects)):
        for name in asked:
            value = measures[name][index]
            if constraint.HasField(f"min_{name}") and value < getattr(constraint, f"min_{name}"):
                break
            if constraint.HasField(f"max_{name}") and value > getattr(constraint, f"max_{name}"):
                break
            found = True
        else:
            return True
    return found
