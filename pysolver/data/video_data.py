"""VideoData: clips of C3D, snippets of temporal segment networks (TSN), from folders of frames or video files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.component import Component
from pysolver.context import Context
from pysolver.cores import usable_cores
from pysolver.data import images
from pysolver.data.batch_source import to_device
from pysolver.data.image_lists import integer
from pysolver.data.list_source import ListSource
from pysolver.data.source import between, register
from pysolver.data.videos import open_video, stretch
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.files import read_text
from pysolver.logs import notices
from pysolver.proto.blobproto import read_array

_OF_TSN = ("num_segments", "modality", "name_pattern", "grayscale", "encoded")
_SCALES = (1.0, 0.875, 0.75, 0.66)
_WIDE = re.compile(r"%[-+ #0]*(?:\d{3,}|\d*\.\d{3,})")  # a name as long as the memory


class Line(NamedTuple):
    """One of the list: a folder or file, its number (a frame, or how many there are), its labels."""

    path: str
    number: int
    labels: list[int]


@register("VideoData")
class VideoData(ListSource):
    """Clips (N, 3, L, H, W) of C3D, or snippets (N, C, H, W) of TSN, and labels, from a list of folders of frames or of
    video files, in its order or shuffled anew in each epoch (video_data_layer.cpp of C3D 1.0 and 1.1 and of yjxiong).

    A file is TSN's if it has num_segments, modality, name_pattern, grayscale or encoded; SSD's, with a webcam or one
    video, is refused.
    """

    tops = between(1, 2)
    deviations = (
        "a clip that cannot be read is an error in training too, where C3D passes over it; SSD's webcam and video are "
        "refused"
    )
    list_field = "video_data_param"
    line_form = "path number label"
    columns = 3

    @classmethod
    def chosen(cls, param: Any, context: Context) -> type[Component]:
        return Snippets if any(param.video_data_param.HasField(name) for name in _OF_TSN) else Clips

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__(param, context)
        self._pool = ThreadPoolExecutor(usable_cores(), "decode")

    def set_up(self) -> None:
        self.check_list()
        self.check(self.list_param.new_length > 0, "new_length need to be positive")
        with self.about():
            self.open_list()
            self._shape = self._one(self.first_line, np.random.default_rng(0)).shape
        self.context.emit(notices.ImageSize(",".join(map(str, self.top_shapes()[0]))))

    def read_list(self, path: str) -> list[Line]:
        words = read_text(path).split()
        if not words or len(words) % self.columns:
            raise CaffeError(f"{path}: needs lines of {self.columns} words, the file has {len(words)} words")
        parts = [words[i :: self.columns] for i in range(self.columns)]
        try:
            numbers = [integer(word) for word in parts[1]] if self.columns == 3 else [0] * len(parts[0])
            labels = [[integer(part) for part in word.split(",")] for word in parts[-1]]
        except ValueError as error:
            raise CaffeError(f"{path}: {str(error)[:100]}: needs lines `{self.line_form}`") from None
        if min(numbers) < 0:
            raise CaffeError(f"{path}: {parts[0][numbers.index(min(numbers))]} begins at frame {min(numbers)}")
        return list(map(Line, parts[0], numbers, labels))

    def top_shapes(self) -> list[Shape]:
        batch = self.list_param.batch_size
        return [(batch, *self._shape), (batch, *self.label_shape)][: self.top_count]

    label_shape: Shape = ()

    def make_batch(self, index: int) -> list[Tensor]:
        places = self.line_numbers(index)
        seeds = self.generator("transform", index).integers(1 << 62, size=len(places))
        with self.about():
            clips = list(
                self._pool.map(lambda place, seed: self._one(place, np.random.default_rng(seed)), places, seeds)
            )
            if len({clip.shape for clip in clips}) > 1:
                raise CaffeError("frames of several sizes in one batch: set a crop, or new_height and new_width")
            labels = np.array([self.label(self.lines[place]) for place in places], np.float32)
        tops = [np.stack(clips), labels.reshape(len(places), *self.label_shape)]
        return [to_device(top, self.context.device) for top in tops[: self.top_count]]

    def _one(self, place: int, generator: np.random.Generator) -> np.ndarray:
        line = self.lines[place]
        try:
            return np.ascontiguousarray(self.transform(self.read(line, generator), generator), np.float32)
        except CaffeError as error:
            raise CaffeError(f"{self.list_param.source}: {line.path} {line.number}: {error}") from None

    def read(self, line: Line, generator: np.random.Generator) -> np.ndarray:
        """The frames of a line, uint8."""
        raise NotImplementedError

    def transform(self, clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Crop, mirror, mean and scale."""
        raise NotImplementedError

    def label(self, line: Line) -> Any:
        """One number, or those of label_shape."""
        return line.labels[0]

    def frame(self, path: str, is_color: bool) -> np.ndarray:
        """(channels, height, width) of a file, resized if new_height and new_width say so."""
        colour = images.Colour.COLOR if is_color else images.Colour.GRAY
        return images.read(path, colour, self.list_param.new_height, self.list_param.new_width)

    def offsets(self, room: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """First row and column of a crop: at random in training, else in the middle."""
        if min(room) < 0:
            raise CaffeError(f"the crop is larger than the frames by {max(-part for part in room)} pixels")
        top, left = (int(generator.integers(n + 1)) for n in room) if self.is_training else (n // 2 for n in room)
        return top, left


class Clips(VideoData):
    """C3D's: (N, 3, new_length, H, W), each sampling_rate-th frame from the line's number on.

    use_image: files `folder/000001.jpg`; else a video file. use_temporal_jitter: from a random frame on; then the
    line's number is how many there are (in a test: from frame 0), and lines of videos have none. The fields of C3D 1.0
    are in image_data_param, crop, mirror, mean and scale too, and labels are (N, 1, 1, 1, 1) there, else (N);
    use_multiple_label: `1,4,7` sets these of num_of_labels to 1.
    """

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__(param, context)
        self.is_first = param.HasField("image_data_param")
        self.list_field = "image_data_param" if self.is_first else "video_data_param"
        given = self.list_param
        self.check(
            bool(given.source),
            "a webcam or a single video (SSD's video_type, video_file) is not read: give a source, a file with a line "
            "`path start label` a clip (C3D)",
        )
        t = param.transform_param
        own = given if self.is_first else t
        self.crop, self.mirror, self.scale = own.crop_size, own.mirror, own.scale
        self.mean_file = own.mean_file
        self.values = [own.mean_value] if self.is_first else list(own.mean_value)
        if self.is_first:
            self.label_shape = (1, 1, 1, 1)
        elif given.use_multiple_label:
            self.check(
                given.HasField("num_of_labels"), "number of labels must be set together with use multiple labels"
            )
            self.label_shape = (given.num_of_labels,)
        self.columns = 2 if given.use_temporal_jitter and not given.use_image else 3
        self.check(given.sampling_rate > 0, "sampling_rate must be positive")
        if not self.is_first and given.use_sampling_rate_jitter:
            self.check(given.max_sampling_rate > 0, "max_sampling_rate must be positive")
        for name in ("fix_crop", "multi_scale", "is_flow"):
            self.check(not getattr(t, name), f"transform_param.{name} is read with modality or num_segments only (TSN)")
        self._mean: np.ndarray | None = None

    def set_up(self) -> None:
        with self.about():
            self._mean = self._read_mean()
        super().set_up()

    def _read_mean(self) -> np.ndarray | None:
        """(3 or 1, 1, 1, 1), or that of a clip (3, L, H, W)."""
        if self.mean_file:
            self.context.emit(notices.LoadingMean(self.mean_file))
            mean = read_array(self.mean_file)
            mean = mean[0] if mean.ndim == 5 else mean
            if mean.ndim != 4 or mean.shape[:2] != (3, self.list_param.new_length):
                raise CaffeError(f"{self.mean_file}: needs a mean of 1 x 3 x {self.list_param.new_length} x H x W")
            return mean
        if len(self.values) not in (0, 1, 3):
            raise CaffeError(f"Specify either 1 mean_value or as many as channels: 3, not {len(self.values)}")
        return np.array(self.values, np.float32).reshape(-1, 1, 1, 1) if self.values else None

    def label(self, line: Line) -> Any:
        if self.is_first or not self.list_param.use_multiple_label:
            return line.labels[0]
        if not all(0 <= label < self.list_param.num_of_labels for label in line.labels):
            raise CaffeError(
                f"{line.path}: a label of {line.labels} is not below num_of_labels {self.list_param.num_of_labels}"
            )
        return np.isin(np.arange(self.list_param.num_of_labels), line.labels)

    def read(self, line: Line, generator: np.random.Generator) -> np.ndarray:
        p, rate, path = self.list_param, self.list_param.sampling_rate, line.path
        if not self.is_first:
            path = p.root_folder + path
            if p.use_sampling_rate_jitter:
                rate = int(generator.integers(p.max_sampling_rate)) + 1
        reach = p.new_length * rate
        if p.use_image:
            start = line.number
            if p.use_temporal_jitter:
                _check_room(line.number, reach)
                start = int(generator.integers(line.number - reach + 1)) + 1 if self.is_training else 0
            frames = [self.frame(f"{path}/{i:06d}.jpg", True) for i in range(start, start + reach, rate)]
        else:
            frames = self._of_video(path, line.number, reach, rate, generator)
        if len({frame.shape for frame in frames}) > 1:
            raise CaffeError("frames of several sizes: set new_height and new_width")
        return np.stack(frames, 1)

    def _of_video(
        self, path: str, start: int, reach: int, rate: int, generator: np.random.Generator
    ) -> list[np.ndarray]:
        with open_video(path) as (count, frames):
            _check_room(count - start, reach)
            if self.list_param.use_temporal_jitter:
                start = int(generator.integers(count - reach + 1))
            found = stretch(frames, start, reach, rate)
        if len(found) < self.list_param.new_length:
            raise CaffeError(f"{path} ends before frame {start + reach - 1}")
        size = (self.list_param.new_width, self.list_param.new_height)
        return [images.to_planes(require("cv2").resize(image, size) if all(size) else image) for image in found]

    def transform(self, clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        mean, (height, width) = self._mean, clip.shape[2:]
        if mean is not None and mean.shape[1] > 1 and mean.shape[2:] != (height, width):
            raise CaffeError(f"{self.mean_file} is of {mean.shape[2:]}, the frames are of {(height, width)}")
        if self.crop:
            top, left = self.offsets((height - self.crop, width - self.crop), generator)
            window = (..., slice(top, top + self.crop), slice(left, left + self.crop))
            clip = clip[window]
            mean = mean[window] if mean is not None and mean.shape[1] > 1 else mean
        clip = clip.astype(np.float32) if mean is None else clip - mean
        clip = clip * np.float32(self.scale) if self.scale != 1 else clip
        return clip[..., ::-1] if self.mirror and generator.integers(2) else clip


class Snippets(VideoData):
    """TSN's: (N, num_segments * new_length * channels, H, W), labels (N, 1, 1, 1); a line is `folder frames label`.

    The video in num_segments equal parts, from each new_length frames in a row: in training from a random one, in a
    test from the middle, and from the first if the part is shorter. Frames are `image_%04d.jpg` (RGB, three channels or
    one with grayscale) or `flow_%c_%04d.jpg` (FLOW, x and y), numbered from 1, or as name_pattern says.
    transform_param: with fix_crop a crop lies in a corner or the middle, with more_fix_crop at eight more places; with
    multi_scale it is two of scale_ratios of the shorter side, max_distort apart at most, resized to crop_size, in
    training; mirrored, with is_flow the even channels turn to 255 - x. mean_value repeats over the channels.
    """

    label_shape = (1, 1, 1)

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__(param, context)
        p, self.t = self.list_param, param.transform_param
        self.is_flow = p.modality == p.FLOW
        self.pattern = p.name_pattern or ("flow_%c_%04d.jpg" if self.is_flow else "image_%04d.jpg")
        if not p.HasField("new_length"):
            p.new_length = 1
        self.check(p.num_segments > 0, "num_segments must be positive")
        self.check(not _WIDE.search(self.pattern), f"name_pattern {self.pattern!r} has a width of more than 2 digits")
        self.check(
            all(0 < ratio < math.inf for ratio in self.t.scale_ratios), "transform_param.scale_ratios must be positive"
        )
        self.check(not self.t.original_image, "transform_param.original_image is not computed here")
        self.check(not self.t.mean_file, "transform_param.mean_file is not read here: give mean_value")

    def read(self, line: Line, generator: np.random.Generator) -> np.ndarray:
        p, part = self.list_param, line.number // self.list_param.num_segments
        room = part - p.new_length + 1
        frames = []
        for i in range(p.num_segments):
            first = int(generator.integers(room)) if self.is_training and room > 0 else room // 2
            first = first + i * part if room > 0 else 0
            for number in range(first + 1, first + p.new_length + 1):
                frames += [
                    self.frame(f"{line.path}/{name}", not (self.is_flow or p.grayscale)) for name in self._names(number)
                ]
        if len({frame.shape for frame in frames}) > 1:
            raise CaffeError("frames of several sizes: set new_height and new_width")
        return np.concatenate(frames)

    def _names(self, number: int) -> Iterator[str]:
        for values in (("x", number), ("y", number)) if self.is_flow else ((number,),):
            try:
                yield self.pattern % values
            except (TypeError, ValueError, OverflowError):
                raise CaffeError(f"name_pattern {self.pattern!r} does not take {values}") from None

    def transform(self, clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        t, values = self.t, list(self.t.mean_value)
        if t.crop_size:
            clip = self._cropped(clip, generator)
        is_mirrored = bool(t.mirror and generator.integers(2))
        pixels = clip.astype(np.float32)
        if is_mirrored:
            pixels = pixels[:, :, ::-1]
            if t.is_flow:
                pixels[::2] = 255 - pixels[::2]
        if values and len(pixels) % len(values):
            raise CaffeError(f"Specify 1 mean_value or a part of the {len(pixels)} channels, not {len(values)}")
        mean = np.resize(np.array(values or [0], np.float32), len(pixels))
        return (pixels - mean[:, None, None]) * np.float32(t.scale)

    def _cropped(self, clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        t, (height, width) = self.t, clip.shape[1:]
        rows = columns = t.crop_size
        if self.is_training and t.multi_scale:
            sizes = self.crop_sizes(height, width)
            rows, columns = sizes[generator.integers(len(sizes))]
        if self.is_training and t.fix_crop:
            places = fixed_places(height - rows, width - columns, t.more_fix_crop)
            top, left = places[generator.integers(len(places))]
        else:
            top, left = self.offsets((height - rows, width - columns), generator)
        clip = clip[:, top : top + rows, left : left + columns]
        if (rows, columns) == (t.crop_size, t.crop_size):
            return clip
        resize = require("cv2").resize
        return np.stack([resize(np.ascontiguousarray(plane), (t.crop_size, t.crop_size)) for plane in clip])

    def crop_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Those that multi_scale chooses from; a side within 2 of crop_size is crop_size."""
        ratios, shorter, wanted = list(self.t.scale_ratios) or _SCALES, min(height, width), self.t.crop_size
        sides = [int(np.float32(shorter) * np.float32(ratio)) for ratio in ratios]
        sides = [wanted if abs(side - wanted) < 3 else side for side in sides]
        return [(sides[i], sides[j]) for i, j in np.ndindex(len(sides), len(sides)) if abs(i - j) <= self.t.max_distort]


def fixed_places(rows: int, columns: int, more: bool) -> list[tuple[int, int]]:
    """(top, left) of crops that leave so many rows and columns: the corners, the middle; more: sides and quarters."""
    if min(rows, columns) < 0:
        raise CaffeError("the crop is larger than the frames")
    steps = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    if more:
        steps += [(0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
    return [(i * (rows // 4), j * (columns // 4)) for i, j in steps]


def _check_room(have: int, need: int) -> None:
    if have < need:
        raise CaffeError(f"does not have enough frames; having {have}, not {need}")
