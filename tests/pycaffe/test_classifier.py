"""Classifier and Detector on nets whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

import pysolver as caffe

# The scores are the means of the three channels: what the net sees of the image can be read off.
MEANS = """
input: "data" input_shape { dim: 3 dim: 3 dim: 4 dim: 4 }
layer { name: "mean" type: "Pooling" bottom: "data" top: "prob" pooling_param { pool: AVE global_pooling: true } }
"""


@pytest.fixture
def files(write, tmp_path):
    model, weights = write(MEANS), str(tmp_path / "w.caffemodel")
    caffe.Net(model, caffe.TEST).save(weights)
    return model, weights


def _image(height, width, color=(0.1, 0.2, 0.3)):
    return np.ones((height, width, 1), np.float32) * np.array(color, np.float32)


class TestClassifier:
    def test_preprocessing(self, files):
        classifier = caffe.Classifier(
            *files, mean=np.array([1.0, 2.0, 3.0]), raw_scale=10, input_scale=0.5, channel_swap=(2, 1, 0)
        )
        predictions = classifier.predict([_image(4, 4), _image(9, 6)], oversample=False)
        assert predictions.shape == (2, 3, 1, 1)
        np.testing.assert_allclose(predictions[0].ravel(), [(3 - 1) / 2, 0, (1 - 3) / 2], atol=1e-6)

    def test_oversampling_is_the_mean_over_ten_crops(self, files):
        classifier = caffe.Classifier(*files, image_dims=(6, 8))
        image = np.random.default_rng(0).uniform(size=(6, 8, 3)).astype(np.float32)
        crops = [image[y : y + 4, x : x + 4] for y, x in [(0, 0), (0, 4), (2, 0), (2, 4), (1, 2)]]
        means = np.array([crop.mean((0, 1)) for crop in crops])  # mirroring does not change them
        for count in (1, 2):
            predictions = classifier.predict([image] * count)
            assert predictions.shape == (count, 3)
            np.testing.assert_allclose(predictions, [means.mean(0)] * count, rtol=1e-5)
        centre = classifier.predict([image], oversample=False)
        np.testing.assert_allclose(centre.ravel(), means[4], rtol=1e-5)

    def test_image_dims_default_to_the_input(self, files):
        assert caffe.Classifier(*files).image_dims.tolist() == [4, 4]


class TestDetector:
    @pytest.fixture
    def picture(self, tmp_path):
        """10 x 12 pixels: red on the left half, green on the right."""
        cv2 = pytest.importorskip("cv2")
        bgr = np.zeros((10, 12, 3), np.uint8)
        bgr[:, :6, 2] = 255
        bgr[:, 6:, 1] = 255
        assert cv2.imwrite(str(tmp_path / "picture.png"), bgr)
        return str(tmp_path / "picture.png")

    def test_windows(self, files, picture):
        detector = caffe.Detector(*files)
        windows = np.array([[0, 0, 10, 6], [2, 6, 8, 12], [0, 0, 10, 12], [3, 0, 7, 4]])
        found = detector.detect_windows([(picture, windows)])
        assert [entry["filename"] for entry in found] == [picture] * 4
        assert [entry["window"].tolist() for entry in found] == windows.tolist()
        scores = np.array([entry["prediction"].ravel() for entry in found])
        np.testing.assert_allclose(scores, [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [1, 0, 0]], atol=1e-6)
        assert detector.detect_windows([]) == []

    def test_context(self, files):
        """A window at the corner: with 1 of 4 pixels of context on each side it grows to twice its size."""
        detector = caffe.Detector(*files, mean=np.array([10.0, 20.0, 30.0]), raw_scale=10, context_pad=1)
        np.testing.assert_allclose(detector.crop_mean, np.broadcast_to([1, 2, 3], (4, 4, 3)))
        crop = detector.crop(_image(20, 20, (5, 5, 5)), np.array([0, 0, 7, 7]))
        # rows -4..12 of the image: 17 pixels become 4, so the first 4 * 4/17 = 1 pixel lies outside
        assert crop.shape == (4, 4, 3)
        np.testing.assert_allclose(crop[0], [[1, 2, 3]] * 4)
        np.testing.assert_allclose(crop[:, 0], [[1, 2, 3]] * 4)
        np.testing.assert_allclose(crop[1:, 1:], 5)
        inside = detector.crop(_image(20, 20, (5, 5, 5)), [8, 8, 11, 11])
        np.testing.assert_allclose(inside, 5)
        with pytest.raises(ValueError, match="outside the image"):
            detector.crop(_image(20, 20), [100, 100, 110, 110])

    def test_channel_swap_of_the_mean(self, files):
        detector = caffe.Detector(*files, mean=np.array([1.0, 2.0, 3.0]), channel_swap=(2, 1, 0), context_pad=1)
        assert detector.crop_mean[0, 0].tolist() == [3, 2, 1]
