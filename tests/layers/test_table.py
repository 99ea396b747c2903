"""docs/layers.md is what the registry says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysolver.commands import layers
from pysolver.component import layer_types, register
from pysolver.errors import CaffeError
from pysolver.layers.base import Layer

# As BVLC Caffe 1.0 registers them.
_CAFFE = """AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss Convolution Crop Data
Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss Im2col
ImageData InfogainLoss InnerProduct Input LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss PReLU Parameter
Pooling Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence Slice Softmax
SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData"""
_FORKS = """Axpy BN ConvolutionDepthwise DetectionEvaluate DetectionOutput
Interp MultiBoxLoss Normalize PSROIPooling Permute PriorBox
ROIPooling ReLU6 ShuffleChannel SmoothL1Loss Upsample
BoxAnnotatorOHEM Convolution3D Pooling3D Reorg SmoothL1LossOHEM SoftmaxWithLossOHEM Yolov3DetectionOutput"""
OF_CAFFE, OF_FORKS = _CAFFE.split(), _FORKS.split()


def test_every_layer_of_caffe_is_there():
    assert set(OF_CAFFE + OF_FORKS) <= set(layer_types())
    assert len(OF_CAFFE) == 61


def test_the_page_is_fresh():
    page = Path(__file__).parents[2] / "docs" / "layers.md"
    assert page.read_text() == layers.table(), "run pysolver layers > docs/layers.md"


@pytest.mark.parametrize("name", sorted(layer_types()))
def test_every_layer_says_what_it_does(name: str):
    assert len(layers.summary(layer_types()[name])) > 10


def test_a_second_layer_of_a_name_is_refused():
    with pytest.raises(CaffeError, match="Layer type ReLU already registered"):
        register("ReLU")(type("Other", (Layer,), {}))
