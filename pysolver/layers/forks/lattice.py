"""Gaussian filtering of points in few dimensions by the permutohedral lattice (Adams, Baek and Davis, 2010)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_STEP = 4  # points are laid down in fours, the missing ones at the origin: their corners take part in the blur


class Lattice:
    """The corners around N points of d dimensions, and how points and corners see each other.

    points: (N, d) float32, in units of the filter's deviation. As CRF-RNN has it (modified_permutohedral.cpp).
    """

    def __init__(self, points: np.ndarray) -> None:
        count, dimensions = points.shape
        padded = np.concatenate([points, np.zeros((-count % _STEP, dimensions), np.float32)])
        corners, weights = _simplices(padded)
        keys, place = _numbered(corners)
        self.count, self.alpha = count, 1 / (1 + 2.0**-dimensions)
        self.place = torch.from_numpy(place.reshape(len(padded), -1)[:count])
        self.weights = torch.from_numpy(weights[:count])
        self.neighbours = [_neighbours(keys, axis) for axis in range(dimensions + 1)]
        self.corners = len(keys)

    def filtered(self, values: Tensor, is_reversed: bool = False) -> Tensor:
        """(N, C) -> (N, C); reversed: by the transposed matrix."""
        place, weights = self.place.to(values.device), self.weights.to(values)
        laid = values.new_zeros(self.corners + 1, values.shape[1])  # the last one stands for all that are not there
        for corner in range(place.shape[1]):
            laid.index_add_(0, place[:, corner], values * weights[:, corner, None])
        for low, high in reversed(self.neighbours) if is_reversed else self.neighbours:
            blurred = laid[low.to(values.device)] + laid[high.to(values.device)]
            laid[:-1] += blurred.mul_(0.5)
        found = torch.zeros_like(values)
        for corner in range(place.shape[1]):
            found.addcmul_(laid[place[:, corner]], weights[:, corner, None], value=self.alpha)
        return found

    def __call__(self, values: Tensor) -> Tensor:
        """filtered, with its gradient."""
        return _Filter.apply(values, self)


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: Lattice) -> Tensor:
        ctx.lattice = lattice
        return lattice.filtered(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice.filtered(gradient, is_reversed=True), None


def _simplices(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners around each point, (N, d + 1, d) whole numbers, and their weights (N, d + 1)."""
    count, d = points.shape
    deviation = math.sqrt(2 / 3) * (d + 1)
    scales = np.array([deviation / math.sqrt((i + 1) * (i + 2)) for i in range(d)], np.float32)
    raised, above = np.empty((count, d + 1), np.float32), np.zeros(count, np.float32)
    for axis in range(d, 0, -1):  # into the plane where all d + 1 coordinates add up to 0
        own = points[:, axis - 1] * scales[axis - 1]
        raised[:, axis] = above - np.float32(axis) * own
        above = above + own
    raised[:, 0] = above
    nearest = np.rint(raised * np.float32(1 / (d + 1)))
    base, off = nearest * (d + 1), nearest.sum(1).astype(np.int64)
    rest = raised - base
    rank = np.zeros((count, d + 1), np.int64)
    for i in range(d):
        for j in range(i + 1, d + 1):
            less = rest[:, i] < rest[:, j]
            rank[:, i] += less
            rank[:, j] += ~less
    rank += off[:, None]  # back onto the plane
    turn = np.where(rank < 0, d + 1, np.where(rank > d, -(d + 1), 0))
    rank, base = rank + turn, base + turn.astype(np.float32)
    parts = np.zeros((count, d + 1), np.float32)
    np.put_along_axis(parts, d - rank, (raised - base) * np.float32(1 / (d + 1)), 1)
    weights = np.diff(parts, axis=1, prepend=parts[:, -1:])
    weights[:, 0] += 1
    corner, place = np.meshgrid(np.arange(d + 1), np.arange(d + 1), indexing="ij")
    canonical = np.where(place <= d - corner, corner, corner - (d + 1))  # (corner, rank)
    corners = base[:, None, :d].astype(np.int64) + canonical[:, rank[:, :d]].transpose(1, 0, 2)
    return corners, weights


def _numbered(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each different corner once, (M, d), in order; and the number of each of them all."""
    flat = corners.reshape(-1, corners.shape[2])
    _, first, place = np.unique(_codes(flat, flat), return_index=True, return_inverse=True)
    return flat[first], place.reshape(-1)


def _codes(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """One number for each key, ordered, -1 for one that lies outside those known."""
    low, high = known.min(0), known.max(0)
    sizes = (high - low + 1).tolist()
    if math.prod(sizes) >= 1 << 62:
        raise ValueError("the points lie too far apart")
    codes = np.zeros(len(keys), np.int64)
    for axis, size in enumerate(sizes):
        codes = codes * size + (keys[:, axis] - low[axis])
    return np.where(((keys >= low) & (keys <= high)).all(1), codes, -1)


def _neighbours(keys: np.ndarray, axis: int) -> tuple[Tensor, Tensor]:
    """The numbers of the corners before and behind each along one of d + 1 directions, M for one that is not there."""
    count, d = keys.shape
    codes, found = _codes(keys, keys), []
    for step in (-1, 1):
        other = keys + step
        if axis < d:
            other[:, axis] = keys[:, axis] - step * d
        wanted = _codes(other, keys)
        place = np.searchsorted(codes, wanted).clip(max=count - 1)
        found.append(torch.from_numpy(np.where(codes[place] == wanted, place, count)))
    return found[0], found[1]
