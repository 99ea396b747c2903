"""Nets of 2014, `layers { type: CONVOLUTION }`, to the present form. Caffe: src/caffe/util/upgrade_proto.cpp."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.proto.bvlc_types import BVLC_TYPES
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter, V1LayerParameter

TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
    # Of forks:
    "BN": "BN",
    "CONVOLUTION3D": "Convolution3D",
    "CROP": "Crop",
    "DECONVOLUTION3D": "Deconvolution3D",
    "DENSE_IMAGE_DATA": "DenseImageData",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INTERP": "Interp",
    "L1_LOSS": "L1Loss",
    "MAT_READ": "MatRead",
    "MAT_WRITE": "MatWrite",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield",
    "PADDING": "Padding",
    "POOLING3D": "Pooling3D",
    "RELU6": "ReLU6",
    "SEG_ACCURACY": "SegAccuracy",
    "UPSAMPLE": "Upsample",
    "VIDEO_DATA": "VideoData",
    "VIDEO_SEGMENTATION_DATA": "VideoSegmentationData",
    "VIDEO_WITH_VOXEL_TRUTH_DATA": "VideoWithVoxelTruthData",
    "VOXEL_SOFTMAX": "VoxelSoftmax",
    "VOXEL_SOFTMAX_LOSS": "VoxelSoftmaxWithLoss",
}

# Entry i of each of these lists belongs to parameter blob i: now fields of one ParamSpec.
_PER_BLOB = {"param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult", "weight_decay": "decay_mult"}

_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
_DATA = {
    V1LayerParameter.DATA: "data_param",
    V1LayerParameter.IMAGE_DATA: "image_data_param",
    V1LayerParameter.WINDOW_DATA: "window_data_param",
}


def transform_needed(net: NetParameter) -> bool:
    """Does a data layer have the fields that are in transform_param now?"""
    parameters = [getattr(layer, _DATA[layer.type]) for layer in net.layers if layer.type in _DATA]
    return any(parameter.HasField(field) for parameter in parameters for field in _TRANSFORM)


def upgrade_transform(net: NetParameter) -> None:
    """Move scale, mean_file, crop_size and mirror of the data layers to transform_param, in place."""
    for layer in net.layers:
        if layer.type not in _DATA:
            continue
        parameter = getattr(layer, _DATA[layer.type])
        parameter.SetInParent()  # Caffe leaves both messages behind, empty or not
        layer.transform_param.SetInParent()
        for field in _TRANSFORM:
            if parameter.HasField(field):
                setattr(layer.transform_param, field, getattr(parameter, field))
                parameter.ClearField(field)


def needed(net: NetParameter) -> bool:
    """Is any layer of this kind?"""
    return len(net.layers) > 0


def upgrade(net: NetParameter, emit: Emit) -> tuple[NetParameter, bool]:
    """The net with present layers, and whether every field had a place."""
    upgraded = NetParameter()
    upgraded.CopyFrom(net)
    upgraded.ClearField("layers")
    clean = True
    for layer in net.layers:
        clean &= _upgrade_layer(layer, upgraded.layer.add(), emit)
    return upgraded, clean


def _upgrade_layer(old: V1LayerParameter, new: LayerParameter, emit: Emit) -> bool:
    clean = True
    for field, value in old.ListFields():
        if field.name in _PER_BLOB:
            for index, entry in enumerate(value):
                while len(new.param) <= index:
                    new.param.add()
                setattr(new.param[index], _PER_BLOB[field.name], entry)
        elif field.name == "present":
            new.MergeFrom(value)
        elif field.name == "foreign_type":
            new.type = _present_name(value)
        elif field.name == "type":
            new.type = TYPES[V1LayerParameter.LayerType.Name(value)]
        elif field.name == "layer":
            emit(notices.V0InsideV1())
            clean = False
        elif not _has_place(field):
            raise CaffeError(f"layer '{old.name}': {field.name} has no place in the present form of a layer")
        elif field.is_repeated:
            getattr(new, field.name).extend(value)
        elif field.message_type:
            getattr(new, field.name).CopyFrom(value)
        else:
            setattr(new, field.name, value)
    return clean


def _present_name(old: str) -> str:
    """Of a type that only another Caffe has had: BVLC's, or by the rule IMAGE_DATA: ImageData."""
    known = {name.lower(): name for name in BVLC_TYPES}
    return known.get(old.lower().replace("_", "")) or "".join(word.capitalize() for word in old.split("_"))


def _has_place(field: FieldDescriptor) -> bool:
    """Whether the present form has a field of this name and of this message."""
    place = LayerParameter.DESCRIPTOR.fields_by_name.get(field.name)
    messages = [each.message_type and each.message_type.full_name for each in (field, place or field)]
    return place is not None and messages[0] == messages[1]


def refuse_both_forms(net: NetParameter, source: str) -> None:
    """CaffeError for a net with `layer` and `layers`: their order among each other is lost."""
    if net.layer and net.layers:
        raise CaffeError(
            f"{source}: Refusing to upgrade inconsistent NetParameter input; it has both 'layer' and 'layers' fields. "
            'Write all of them in the present form: layer { type: "Convolution" ... }, not layers { type: CONVOLUTION }'
        )
