"""MultiStageMeanfield: a dense conditional random field as layers (CRF-RNN; Zheng et al., 2015)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, exactly, register
from pysolver.layers.forks.lattice import Lattice


@register("MultiStageMeanfield")
class MultiStageMeanfield(Layer):
    """num_iterations steps of q = unary - C (W_s S softmax(q) + W_b B softmax(q)) (multi_stage_meanfield.cpp).

    Bottoms: unary (N, L, H, W), the first q, and an image (N, 3, H, W). S and B are Gaussian filters that keep
    constants: S of the place, by theta_gamma; B of the place, by theta_alpha, and the colour, by theta_beta, on the
    permutohedral lattice. Blobs (1, 1, L, L): W_s and W_b, diagonal, spatial_ and bilateral_filter_weight, and C, minus
    the identity. No gradient to the image.
    Errors: other shapes; num_iterations below 2; a theta that is not positive; another number of labels later.
    """

    bottoms = exactly(3)
    no_gradient_bottoms = frozenset({2})
    deviations = "the files spatial.par and bilateral.par are not read: weights come from the net or a caffemodel"

    def set_up(self, unary: Shape, first: Shape, image: Shape) -> None:
        p = self.p = self.param.multi_stage_meanfield_param
        self.check(p.num_iterations > 1, "Number of iterations must be greater than 1.")
        thetas = p.theta_alpha, p.theta_beta, p.theta_gamma
        self.check(min(thetas) > 0, f"theta_alpha, theta_beta and theta_gamma must be positive, not {thetas}")
        self.check(len(unary) == 4, f"needs a unary term (N, L, H, W), not {list(unary)}")
        labels = unary[1]
        for scale in (p.spatial_filter_weight, p.bilateral_filter_weight, -1.0):
            blob = self.add_blob((1, 1, labels, labels))
            if not self.param.blobs:
                blob.data[0, 0] = scale * torch.eye(labels)
        self.spatial: tuple[Shape, Lattice] | None = None

    def top_shapes(self, unary: Shape, first: Shape, image: Shape) -> list[Shape]:
        labels = self.blobs[0].shape[2]
        if len(unary) != 4 or unary[1] != labels or first != unary or image != (unary[0], 3, *unary[2:]):
            self.fail(
                f"needs a unary term and a first one (N, {labels}, H, W) and an image (N, 3, H, W), not {list(unary)}, "
                f"{list(first)} and {list(image)}"
            )
        return [unary]

    def forward(self, unary: Tensor, first: Tensor, image: Tensor) -> Tensor:
        return torch.stack([self._of_image(*parts) for parts in zip(unary, first, image, strict=True)])

    def _of_image(self, unary: Tensor, q: Tensor, image: Tensor) -> Tensor:
        labels, height, width = unary.shape
        spatial, bilateral = self._spatial(height, width), self._bilateral(image.detach())
        ones = unary.new_ones(height * width, 1)
        norms = [1 / (lattice.filtered(ones) + 1e-20) for lattice in (spatial, bilateral)]
        by_place, by_colour, mixed = (blob[0, 0] for blob in self.blobs)
        unary, q = unary.reshape(labels, -1).t(), q.reshape(labels, -1).t()
        for _ in range(self.p.num_iterations):
            likely = q.softmax(1)
            messages = (spatial(likely) * norms[0]) @ by_place.t() + (bilateral(likely) * norms[1]) @ by_colour.t()
            q = unary - messages @ mixed.t()
        return q.t().reshape(labels, height, width)

    def _spatial(self, height: int, width: int) -> Lattice:
        if self.spatial is None or self.spatial[0] != (height, width):
            self.spatial = (height, width), Lattice(_places(height, width) / np.float32(self.p.theta_gamma))
        return self.spatial[1]

    def _bilateral(self, image: Tensor) -> Lattice:
        colours = image.float().cpu().reshape(3, -1).t().numpy() / np.float32(self.p.theta_beta)
        if not np.isfinite(colours).all() or np.abs(colours).max(initial=0) > 1e6:
            self.fail("the image has values that are no colours")
        places = _places(*image.shape[1:]) / np.float32(self.p.theta_alpha)
        try:
            return Lattice(np.concatenate([places, colours], 1).astype(np.float32))
        except ValueError as error:
            self.fail(f"theta_alpha or theta_beta is too small for this image: {error}")


def _places(height: int, width: int) -> np.ndarray:
    """(H W, 2): column and row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float32)
