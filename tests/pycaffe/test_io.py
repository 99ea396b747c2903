"""caffe.io: arrays in protobuf, images, and the Transformer's order of steps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pysolver.proto import caffe_pb2
from pysolver.pycaffe import io


class TestProtobuf:
    def test_blobproto_shapes(self):
        values = np.arange(6.0)
        legacy = caffe_pb2.BlobProto(num=1, channels=1, height=2, width=3, data=values)
        assert io.blobproto_to_array(legacy).shape == (1, 1, 2, 3)
        legacy.shape.dim.extend([6])  # ignored where a legacy field is
        assert io.blobproto_to_array(legacy).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]
        assert io.blobproto_to_array(caffe_pb2.BlobProto(data=[7])) == 7
        with pytest.raises(ValueError, match="reshape"):
            io.blobproto_to_array(caffe_pb2.BlobProto(data=values))

    def test_blobproto_round_trip(self):
        data, diff = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 1)).astype(np.float32)
        blob = caffe_pb2.BlobProto.FromString(io.array_to_blobproto(data, diff).SerializeToString())
        assert list(blob.shape.dim) == [2, 3, 4, 1]
        np.testing.assert_array_equal(io.blobproto_to_array(blob), data)
        np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), diff)

    def test_blobprotovector_round_trip(self):
        arrays = [np.ones((2, 3)), np.zeros(4)]
        back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(arrays))
        assert [array.tolist() for array in back] == [array.tolist() for array in arrays]

    def test_datum_of_bytes(self):
        image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        datum = io.array_to_datum(image, 5)
        assert (datum.channels, datum.height, datum.width, datum.label) == (2, 3, 4, 5)
        assert datum.data == bytes(range(24)) and not datum.float_data
        back = io.datum_to_array(datum)
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, image)
        assert not io.array_to_datum(image).HasField("label")

    def test_datum_of_floats(self):
        image = np.linspace(-1, 1, 8).reshape(2, 2, 2).astype(np.float32)
        datum = io.array_to_datum(image)
        assert not datum.data
        np.testing.assert_array_equal(io.datum_to_array(datum), image)
        with pytest.raises(ValueError, match="3 axes"):
            io.array_to_datum(image[0])


class TestResize:
    def test_bilinear_by_hand(self):
        """Twice as wide: new centres lie a quarter left and right of the old ones; outside is the minimum, 0."""
        image = np.array([[0.0, 4.0]])[:, :, np.newaxis]
        np.testing.assert_allclose(io.resize_image(image, (1, 4)).ravel(), [0, 1, 3, 3])

    def test_many_channels_keep_their_corners(self):
        image = np.arange(6.0).reshape(3, 1, 2)
        np.testing.assert_allclose(io.resize_image(image, (5, 1))[:, 0, 0], [0, 1, 2, 3, 4])

    @pytest.mark.parametrize("channels", [1, 2, 3, 5])
    @pytest.mark.parametrize("size", [(7, 9), (20, 30), (13, 17), (1, 5)])
    @pytest.mark.parametrize("order", [0, 1, 3])
    def test_as_the_libraries_that_caffe_calls(self, channels, size, order):
        transform = pytest.importorskip("skimage.transform")
        ndimage = pytest.importorskip("scipy.ndimage")
        image = np.random.default_rng(0).normal(size=(13, 17, channels))
        if channels in (1, 3):
            low, span = image.min(), np.ptp(image)
            scaled = (image - low) / span
            want = transform.resize(scaled, size, order=order, mode="constant", anti_aliasing=False) * span + low
        else:
            want = ndimage.zoom(image, (size[0] / 13, size[1] / 17, 1), order=order)
        got = io.resize_image(image, size, order)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=1e-5)

    def test_constant_image(self):
        assert np.all(io.resize_image(np.full((3, 3, 3), 0.5), (2, 8)) == np.float32(0.5))


def test_oversample():
    image = np.arange(5 * 6).reshape(5, 6, 1)
    crops = io.oversample([image, -image], (3, 2))
    assert crops.shape == (20, 3, 2, 1) and crops.dtype == np.float32
    assert crops[:5, 0, 0, 0].tolist() == [0, 4, 12, 16, 8]  # corners and centre: their first pixels
    np.testing.assert_array_equal(crops[5:10], crops[:5, :, ::-1])
    np.testing.assert_array_equal(crops[10:], -crops[:10])


class TestLoadImage:
    @pytest.fixture
    def save(self, tmp_path):
        cv2 = pytest.importorskip("cv2")

        def save(array):
            file = str(tmp_path / "image.png")
            assert cv2.imwrite(file, array)
            return file

        return save

    def test_color(self, save):
        bgr = np.zeros((2, 3, 3), np.uint8)
        bgr[0, 1] = [0, 51, 255]
        image = io.load_image(save(bgr))
        assert image.shape == (2, 3, 3) and image.dtype == np.float32
        np.testing.assert_allclose(image[0, 1], [1, 0.2, 0])
        gray = io.load_image(save(bgr), color=False)
        assert gray.shape == (2, 3, 1)
        np.testing.assert_allclose(gray[0, 1, 0], 0.2125 + 0.7154 * 0.2, rtol=1e-6)

    def test_gray_alpha_and_16_bits(self, save):
        gray = io.load_image(save(np.full((2, 2), 51, np.uint8)))
        assert gray.shape == (2, 2, 3)
        np.testing.assert_allclose(gray, 0.2)
        assert io.load_image(save(np.zeros((2, 2, 4), np.uint8))).shape == (2, 2, 3)
        np.testing.assert_allclose(io.load_image(save(np.full((1, 1), 65535, np.uint16)), color=False), [[[1]]])

    def test_no_image(self, tmp_path):
        pytest.importorskip("cv2")
        with pytest.raises(OSError, match="nothing.png"):
            io.load_image(tmp_path / "nothing.png")

    def test_half_an_image(self, save, tmp_path):
        """Of a JPEG the rest came in grey, for a PNG OpenCV took the memory that a chunk of it claims."""
        whole = Path(save(np.zeros((64, 64, 3), np.uint8))).read_bytes()
        (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(OSError, match="Could not load .*half.png: the PNG is cut short"):
            io.load_image(tmp_path / "half.png")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'pysolver\[images\]'"):
        io.load_image("x.png")


class TestTransformer:
    def transformer(self, shape=(1, 3, 2, 2)):
        return io.Transformer({"data": shape})

    def test_order_of_steps(self):
        """(value * raw_scale - mean) * input_scale, channels already swapped."""
        transformer = self.transformer()
        transformer.set_transpose("data", (2, 0, 1))
        transformer.set_channel_swap("data", (2, 1, 0))
        transformer.set_raw_scale("data", 10)
        transformer.set_mean("data", np.array([1, 2, 3]))
        transformer.set_input_scale("data", 0.5)
        image = np.array([0.1, 0.2, 0.3]) * np.ones((2, 2, 1))
        before = image.astype(np.float32)
        out = transformer.preprocess("data", before)
        assert out.shape == (3, 2, 2) and out.dtype == np.float32
        np.testing.assert_allclose(out[:, 0, 0], [(3 - 1) / 2, 0, (1 - 3) / 2], atol=1e-6)
        np.testing.assert_array_equal(before, image.astype(np.float32))  # the caller's image is untouched
        np.testing.assert_allclose(transformer.deprocess("data", out[np.newaxis]), image, atol=1e-6)

    def test_one_channel_there_and_back(self):
        transformer = self.transformer((1, 1, 2, 3))
        transformer.set_transpose("data", (2, 0, 1))
        transformer.set_channel_swap("data", (0,))
        image = np.arange(6.0).reshape(2, 3, 1)
        np.testing.assert_array_equal(transformer.deprocess("data", transformer.preprocess("data", image)), image)

    def test_resizes_to_the_input(self):
        transformer = self.transformer((7, 3, 4, 6))
        transformer.set_transpose("data", (2, 0, 1))
        assert transformer.preprocess("data", np.zeros((9, 9, 3))).shape == (3, 4, 6)

    def test_means(self):
        transformer = self.transformer()
        transformer.set_transpose("data", (2, 0, 1))
        mean = np.arange(12.0).reshape(3, 2, 2)
        transformer.set_mean("data", mean)
        np.testing.assert_array_equal(transformer.preprocess("data", np.zeros((2, 2, 3))), -mean)
        transformer.set_mean("data", np.full((3, 5, 5), 4.0))
        assert transformer.mean["data"].shape == (3, 2, 2)
        np.testing.assert_allclose(transformer.mean["data"], 4)
        transformer.set_mean("data", np.ones((2, 2)))
        assert transformer.mean["data"].shape == (1, 2, 2)
        with pytest.raises(ValueError, match="2 channels"):
            transformer.set_mean("data", np.ones(2))
        with pytest.raises(ValueError, match="4"):
            transformer.set_mean("data", np.ones((1, 3, 2, 2)))

    def test_a_mean_that_is_a_path(self):
        with pytest.raises(TypeError, match="the mean is an array, not 'mean.binaryproto': np.load reads .npy"):
            io.Transformer({"data": (1, 3, 2, 2)}).set_mean("data", "mean.binaryproto")

    def test_unknown_input_and_wrong_orders(self):
        transformer = self.transformer()
        for call in (transformer.preprocess, transformer.deprocess, transformer.set_mean, transformer.set_raw_scale):
            with pytest.raises(Exception, match="'image' is not one of the net's inputs: data"):
                call("image", np.zeros(3))
        with pytest.raises(Exception, match="3 axes"):
            transformer.set_transpose("data", (1, 0))
        with pytest.raises(Exception, match="3 channels"):
            transformer.set_channel_swap("data", (1, 0))
