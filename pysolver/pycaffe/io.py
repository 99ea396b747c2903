"""caffe.io: images, their way into a net, and blobs and datums as arrays (python/caffe/io.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pysolver.errors import CaffeError, about
from pysolver.extras import require
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.caffe_pb2 import BlobProto, Datum

# ---- protobuf ---------------------------------------------------------------------------------------------------


def blobproto_to_array(blob: BlobProto, return_diff: bool = False) -> np.ndarray:
    """The values (or gradients) of a BlobProto, float64. ValueError if they do not fill its shape."""
    stored = (blob.double_diff or blob.diff) if return_diff else (blob.double_data or blob.data)
    return np.array(stored, dtype=float).reshape(blobproto.shape_of(blob))


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> BlobProto:
    """A BlobProto of the array's shape with float32 values, and gradients if given."""
    return blobproto.from_array(np.asarray(arr, np.float32), None if diff is None else np.asarray(diff, np.float32))


def arraylist_to_blobprotovector_str(arraylist: Sequence[np.ndarray]) -> bytes:
    """A serialised BlobProtoVector."""
    return caffe_pb2.BlobProtoVector(blobs=[array_to_blobproto(arr) for arr in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(data: bytes) -> list[np.ndarray]:
    """The arrays of a serialised BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in caffe_pb2.BlobProtoVector.FromString(data).blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> Datum:
    """A Datum of a C x H x W array: uint8 becomes bytes, everything else floats."""
    if arr.ndim != 3:
        raise ValueError(f"a datum has 3 axes (C, H, W), the array has {arr.ndim}")
    channels, height, width = arr.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Datum) -> np.ndarray:
    """The C x H x W array of a Datum that is not encoded: uint8 from bytes, float64 from floats."""
    values = np.frombuffer(datum.data, np.uint8).copy() if datum.data else np.array(datum.float_data, float)
    return values.reshape(datum.channels, datum.height, datum.width)


# ---- images -----------------------------------------------------------------------------------------------------

_LUMINANCE = np.array([0.2125, 0.7154, 0.0721], np.float32)  # ITU-R 709, as scikit-image's rgb2gray


def load_image(filename: str, color: bool = True) -> np.ndarray:
    """An image file as float32 in [0, 1]: H x W x 3 in RGB (gray is repeated, alpha dropped), or H x W x 1."""
    from pysolver.data import images  # bounds what OpenCV decodes, before it is loaded

    cv2 = require("cv2")
    try:
        file = images.load(filename)
        with about(f"Could not load {filename}"):
            images.check_whole(file)
        image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # an empty file, or too many pixels
        raise OSError(f"{filename}: not an image that can be read: {error.err}") from None
    except CaffeError as error:
        raise OSError(str(error)) from None
    if image is None:
        raise OSError(f"{filename}: not an image")
    image = np.atleast_3d(image)
    if np.issubdtype(image.dtype, np.integer):
        image = image / np.float32(np.iinfo(image.dtype).max)
    image = image.astype(np.float32)
    if image.shape[2] >= 3:
        image = image[:, :, 2::-1]
    else:
        image = image[:, :, :1]
    if color:
        return np.tile(image, (1, 1, 3)) if image.shape[2] == 1 else np.ascontiguousarray(image)
    return image if image.shape[2] == 1 else (image @ _LUMINANCE)[:, :, np.newaxis]


def resize_image(im: np.ndarray, new_dims: Sequence[int], interp_order: int = 1) -> np.ndarray:
    """An H x W x K image resized to new_dims (height, width), float32; interp_order 1 is bilinear.

    With 1 or 3 channels pixels are areas, as in scikit-image's resize(mode="constant", anti_aliasing=False): outside
    is the image's minimum. With other channels they are points and corners fall on corners, as in ndimage.zoom.
    Other orders than 1 need SciPy (pysolver[images]).
    """
    im = np.asarray(im, float)
    height, width = (int(size) for size in new_dims)
    areas = im.shape[-1] in (1, 3)
    low = im.min() if areas else 0.0
    if interp_order == 1:
        rows, columns = (_bilinear(n, m, areas) for n, m in zip(im.shape, (height, width)))
        resized = np.einsum("yh,hwk->ywk", rows, im - low)
        resized = np.einsum("xw,ywk->yxk", columns, resized)
    else:
        zoom = require("scipy.ndimage").zoom
        factors = (height / im.shape[0], width / im.shape[1], 1)
        mode = "grid-constant" if areas else "constant"
        resized = zoom(im - low, factors, order=interp_order, mode=mode, grid_mode=areas)
        if areas:
            resized = resized.clip(0, im.max() - low)
    return (resized + low).astype(np.float32)


def _bilinear(old: int, new: int, areas: bool) -> np.ndarray:
    """The new x old matrix that interpolates one axis linearly; outside is zero."""
    if areas:
        at: np.ndarray = (np.arange(new) + 0.5) * old / new - 0.5
    else:
        at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    distance = np.abs(at[:, np.newaxis] - np.arange(old))
    return np.maximum(0.0, 1.0 - distance)


def oversample(images: Sequence[np.ndarray], crop_dims: Sequence[int]) -> np.ndarray:
    """Ten crops (height, width = crop_dims) of each H x W x K image, float32: four corners, centre, their mirrors."""
    height, width = (int(size) for size in crop_dims)
    bottom, right = images[0].shape[0] - height, images[0].shape[1] - width
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    parts = [[image[y : y + height, x : x + width] for y, x in corners] for image in images]
    crops = np.array(parts, np.float32)
    return np.concatenate([crops, crops[:, :, :, ::-1]], axis=1).reshape(-1, height, width, crops.shape[-1])


class Transformer:
    """Makes net inputs of images. inputs: {name: shape of the blob}; what each step does is set by name.

    preprocess: float32, resize to the blob's height and width, transpose, swap channels, times raw_scale, minus mean,
    times input_scale.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise Exception(f"'{in_}' is not one of the net's inputs: {', '.join(self.inputs)}")
        return self.inputs[in_]

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The net's input (K x H x W if transposed so) of an image H' x W' x K. The image is left as it was."""
        size = self._shape(in_)[2:]
        out = np.array(data, np.float32)
        if out.shape[:2] != size:
            out = resize_image(out, size)
        if in_ in self.transpose:
            out = out.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            out = out[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            out *= self.raw_scale[in_]
        if in_ in self.mean:
            out -= self.mean[in_]
        if in_ in self.input_scale:
            out *= self.input_scale[in_]
        return out

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The image of one net input (K x H x W, or with a batch axis of 1): preprocess backwards, but for the size."""
        axes = len(self._shape(in_)) - 1
        out = np.array(data).reshape(np.shape(data)[-axes:])
        if in_ in self.input_scale:
            out /= self.input_scale[in_]
        if in_ in self.mean:
            out += self.mean[in_]
        if in_ in self.raw_scale:
            out /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            out = out[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            out = out.transpose(np.argsort(self.transpose[in_]))
        return out

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Order of the image's axes in the blob: (2, 0, 1) makes C x H x W of H x W x C."""
        if len(order) != len(self._shape(in_)) - 1:
            raise Exception(f"a transpose of '{in_}' orders {len(self._shape(in_)) - 1} axes, not {len(order)}")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Order of the channels (first axis after the transpose): (2, 1, 0) makes BGR of RGB."""
        if len(order) != self._shape(in_)[1]:
            raise Exception(f"a channel swap of '{in_}' orders {self._shape(in_)[1]} channels, not {len(order)}")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Factor before the mean is subtracted: 255 for nets trained on bytes."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """What is subtracted: one value a channel, or an image (C x H x W, or H x W), resized to the input's size."""
        channels, *size = self._shape(in_)[1:]
        if not isinstance(mean, np.ndarray):
            raise TypeError(
                f"the mean is an array, not {mean!r:.40}: np.load reads .npy, caffe.io.blobproto_to_array .binaryproto"
            )
        if mean.ndim == 1:
            if len(mean) != channels:
                raise ValueError(f"the mean has {len(mean)} channels, input '{in_}' has {channels}")
            mean = mean[:, np.newaxis, np.newaxis]
        else:
            if mean.ndim == 2:
                mean = mean[np.newaxis]
            if mean.ndim != 3:
                raise ValueError(f"a mean has 1 to 3 axes, not {mean.ndim}")
            if mean.shape[1:] != tuple(size):
                mean = resize_image(mean.transpose(1, 2, 0), size).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Factor after the mean is subtracted."""
        self._shape(in_)
        self.input_scale[in_] = scale
