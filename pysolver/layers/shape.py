"""Layers that only move numbers: join, cut, fold, repeat, choose."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, exactly, register
from pysolver.layers.indices import IndexCheck


@register("Concat")
class Concat(Layer):
    """The bottoms one behind the other along `axis` (or the old concat_dim) (concat_layer.cpp).

    Errors: both fields; bottoms that differ in number of axes or in another axis.
    """

    takes_half = True
    bottoms = at_least(1)

    def set_up(self, *bottoms: Shape) -> None:
        p = self.param.concat_param
        legacy = p.HasField("concat_dim")
        self.check(not (legacy and p.HasField("axis")), "Either axis or concat_dim should be specified; not both.")
        self.along = p.concat_dim if legacy else p.axis

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        first = bottoms[0]
        axis = self.axis(self.along, first)
        for other in bottoms[1:]:
            if len(other) != len(first):
                self.fail(f"All inputs must have the same #axes, not {list(first)} and {list(other)}")
            if other[:axis] != first[:axis] or other[axis + 1 :] != first[axis + 1 :]:
                self.fail(f"All inputs must have the same shape, except at axis {axis}: {list(first)}, {list(other)}")
        return [(*first[:axis], sum(shape[axis] for shape in bottoms), *first[axis + 1 :])]

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.along) if len(bottoms) > 1 else bottoms[0]


@register("Slice")
class Slice(Layer):
    """Cuts along `axis` (or the old slice_dim): at slice_point, or in equal parts (slice_layer.cpp).

    Errors: both fields; a wrong number of points, points that do not rise, an axis that does not divide.
    """

    takes_half = True
    tops = at_least(1)

    def set_up(self, bottom: Shape) -> None:
        p = self.param.slice_param
        legacy = p.HasField("slice_dim")
        self.check(not (legacy and p.HasField("axis")), "Either axis or slice_dim should be specified; not both.")
        self.along, self.points = p.slice_dim if legacy else p.axis, list(p.slice_point)

    def parts(self, bottom: Shape) -> list[int]:
        """The tops' sizes along the axis."""
        size, tops = bottom[self.axis(self.along, bottom)], self.top_count
        if not self.points:
            if size % tops:
                self.fail(f"Number of top blobs ({tops}) should evenly divide input slice axis ({size})")
            return [size // tops] * tops
        if len(self.points) != tops - 1 or tops > size:
            self.fail(f"{len(self.points)} slice points cannot cut {size} into {tops} tops")
        edges = [0, *self.points, size]
        parts = [end - start for start, end in zip(edges, edges[1:])]
        if any(part <= 0 for part in parts[:-1]) or parts[-1] < 0:
            self.fail(f"slice points {self.points} must rise from above 0 to at most {size}")
        return parts

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        axis = self.axis(self.along, bottom)
        return [(*bottom[:axis], part, *bottom[axis + 1 :]) for part in self.parts(bottom)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.parts(tuple(x.shape)), self.along)


@register("Split")
class Split(Layer):
    """Every top is the bottom; the gradients add (split_layer.cpp)."""

    takes_half = True
    tops = at_least(1)
    allows_in_place = False

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        return [bottom] * self.top_count

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for _ in range(self.top_count))


@register("Flatten")
class Flatten(Layer):
    """Folds the axes axis .. end_axis into one (flatten_layer.cpp). Errors: end_axis before axis."""

    takes_half = True
    allows_in_place = False

    def set_up(self, bottom: Shape) -> None:
        self.first, self.last = self.param.flatten_param.axis, self.param.flatten_param.end_axis

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        first, last = self.axis(self.first, bottom), self.axis(self.last, bottom)
        if first > last:
            self.fail(f"end_axis {last} comes before axis {first}")
        return [(*bottom[:first], math.prod(bottom[first : last + 1]), *bottom[last + 1 :])]

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.first, self.last)


@register("Reshape")
class Reshape(Layer):
    """Replaces the axes [axis, axis + num_axes) by `shape` (reshape_layer.cpp).

    A dim 0 keeps the bottom's axis at its place, one -1 is inferred. A negative axis counts from behind the last
    axis: -1 inserts there. Errors: two -1, an axis out of range, a count that does not match.
    """

    takes_half = True
    allows_in_place = False

    def set_up(self, bottom: Shape) -> None:
        p = self.param.reshape_param
        self.dims, self.start, self.num_axes = tuple(p.shape.dim), p.axis, p.num_axes
        self.check(
            self.dims.count(-1) <= 1, "new shape contains multiple -1 dims; at most a single -1 may be specified"
        )

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        dims = list(self.dims)
        start = self.start if self.start >= 0 else len(bottom) + self.start + 1
        end = start + self.num_axes if self.num_axes != -1 else len(bottom)
        if self.num_axes < -1 or not 0 <= start <= end <= len(bottom):
            self.fail(f"axis {self.start} and num_axes {self.num_axes} reach beyond the bottom {list(bottom)}")
        for i, dim in enumerate(dims):
            if dim == 0:
                if start + i >= len(bottom):
                    self.fail(
                        f"new shape contains a 0, but there is no corresponding bottom axis to copy in {list(bottom)}"
                    )
                dims[i] = bottom[start + i]
        count = math.prod(bottom)
        after = [*bottom[:start], *dims, *bottom[end:]]
        known = math.prod([dim for dim in after if dim != -1])  # a list: torch.compile takes no generator here
        if -1 in dims:
            if known == 0 or count % known:
                self.fail(
                    f"bottom count ({count}) must be divisible by the product of the specified dimensions ({known})"
                )
            dims[dims.index(-1)] = count // known
        elif count != known:
            self.fail(f"output count ({known}) must match input count ({count})")
        return [(*bottom[:start], *dims, *bottom[end:])]

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*self.top_shapes(tuple(x.shape)))


@register("Tile")
class Tile(Layer):
    """`tiles` copies one behind the other along `axis` (tile_layer.cpp). Errors: tiles missing or below 1."""

    def set_up(self, bottom: Shape) -> None:
        self.check(self.param.tile_param.HasField("tiles"), "needs tiles")
        self.tiles, self.along = self.param.tile_param.tiles, self.param.tile_param.axis
        self.check(self.tiles > 0, "Number of tiles must be positive.")

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        axis = self.axis(self.along, bottom)
        return [(*bottom[:axis], bottom[axis] * self.tiles, *bottom[axis + 1 :])]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.tiles, self.along)


@register("Crop")
class Crop(Layer):
    """Bottom 0 cut to bottom 1's size on the axes from `axis` on, starting at `offset` (crop_layer.cpp).

    offset: none (0), one for all cropped axes, or one each. No gradient to bottom 1.
    Errors: a different number of axes; a wrong number of offsets; a cut that leaves the bottom.
    """

    takes_half = True
    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({1})

    def set_up(self, bottom: Shape, reference: Shape) -> None:
        self.first, self.offsets = self.param.crop_param.axis, list(self.param.crop_param.offset) or [0]

    def starts(self, bottom: Shape, reference: Shape) -> dict[int, int]:
        """Cropped axis -> offset."""
        if len(bottom) != len(reference):
            self.fail(f"the bottoms must have as many axes, not {list(bottom)} and {list(reference)}")
        axes, offsets = range(self.axis(self.first, bottom), len(bottom)), self.offsets
        if len(offsets) not in (1, len(axes)):
            self.fail(
                f"number of offset values specified must be equal to the number of dimensions following axis, "
                f"{len(axes)}, not {len(offsets)}"
            )
        starts = dict(zip(axes, offsets * len(axes) if len(offsets) == 1 else offsets))
        for axis, offset in starts.items():
            if offset + reference[axis] > bottom[axis]:
                self.fail(
                    f"the crop for dimension {axis} is out-of-bounds: {offset} + {reference[axis]} > {bottom[axis]}"
                )
        return starts

    def top_shapes(self, bottom: Shape, reference: Shape) -> list[Shape]:
        cropped = self.starts(bottom, reference)
        return [tuple(reference[i] if i in cropped else bottom[i] for i in range(len(bottom)))]

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        for axis, start in self.starts(tuple(x.shape), tuple(reference.shape)).items():
            x = x.narrow(axis, start, reference.shape[axis])
        return x.contiguous()


@register("BatchReindex")
class BatchReindex(Layer):
    """y[i] = x[index[i]]; no gradient to the index (batch_reindex_layer.cpp).

    Errors: an index blob of more than 1 axis; an index outside [0, N).
    """

    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({1})

    def set_up(self, bottom: Shape, index: Shape) -> None:
        self.index = IndexCheck(self, bottom[0], "index", "items")

    def top_shapes(self, bottom: Shape, index: Shape) -> list[Shape]:
        if len(index) != 1:
            self.fail(f"the index needs 1 axis, not {list(index)}")
        self.index.limit = bottom[0]
        return [(index[0], *bottom[1:])]

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        self.index.limit = x.shape[0]
        return x.index_select(0, self.index(index))


@register("Filter")
class Filter(Layer):
    """The items whose selector, the last bottom, is not zero, in order, of every other bottom (filter_layer.cpp).

    The tops have as many items as were selected, known only after a forward. No gradient to the selector.
    Errors: a selector with more than one number an item; bottoms of other batch sizes; tops not one less than bottoms.
    """

    bottoms = at_least(2)
    tops = at_least(1)

    def set_up(self, *bottoms: Shape) -> None:
        count = len(bottoms) - 1
        self.check(self.top_count == count, f"needs {count} tops for {len(bottoms)} bottoms, not {self.top_count}")
        self.no_gradient_bottoms = frozenset({count})

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        selector = bottoms[-1]
        if math.prod(selector[1:]) != 1:
            self.fail(f"Selector blob dimensions must be singletons (1), except the first, not {list(selector)}")
        for shape in bottoms[:-1]:
            if shape[0] != selector[0]:
                self.fail(f"the selector has {selector[0]} items, a bottom has the shape {list(shape)}")
        return list(bottoms[:-1])

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        chosen = bottoms[-1].detach().flatten().nonzero().flatten()
        return tuple(x.index_select(0, chosen) for x in bottoms[:-1])


@register("Silence")
class Silence(Layer):
    """Takes blobs that nobody needs; their gradient is 0 (silence_layer.cpp)."""

    bottoms = at_least(1)
    tops = exactly(0)

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        return []

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()
