"""The nearest file that BVLC's Caffe reads: without what only steers another Caffe, and in BVLC's words."""

from __future__ import annotations

from collections import Counter

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pysolver.proto import dialects
from pysolver.proto.bvlc_types import BVLC_TYPES
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter

_ENGINES = {"MKL2017", "MKLDNN"}
# Types that compute what a type of BVLC's computes, under the same fields or those that _renamed sets.
TYPES = {"DepthwiseConvolution": "Convolution", "ConvolutionDepthwise": "Convolution", "ReLU6": "Clip"}


def convert(net: NetParameter) -> tuple[Counter[str], Counter[str]]:
    """Change the net in place; the numbers of what was taken out, and of what BVLC cannot say and is still there."""
    taken, left = Counter[str](), Counter[str]()
    dialects.hand_on_fillers(net)
    _strip(net, "", taken, left)
    for index in reversed(range(len(net.layer))):
        layer = net.layer[index]
        _rename(layer)
        if layer.HasField("pooling_param"):
            _round(layer.pooling_param)
        for behind in reversed(_unfused(layer)):
            net.layer.insert(index + 1, behind)
    for layer in net.layer:
        _strip(layer, "", taken, left)
        if layer.type not in BVLC_TYPES:
            left[f"type {layer.type}"] += 1
    return taken, left


def _rename(layer: LayerParameter) -> None:
    if layer.type == "ReLU6" and layer.relu6_param.negative_slope:
        return
    if layer.type == "ReLU6":
        layer.ClearField("relu6_param")
        layer.clip_param.min, layer.clip_param.max = 0, 6
    if layer.type == "ConvolutionDepthwise":
        layer.convolution_param.group = layer.convolution_param.num_output
    layer.type = TYPES.get(layer.type, layer.type)


def _round(pooling: PoolingParameter) -> None:
    if pooling.HasField("ceil_mode"):
        if not pooling.ceil_mode:
            pooling.round_mode = pooling.FLOOR
        pooling.ClearField("ceil_mode")


def _unfused(layer: LayerParameter) -> list[LayerParameter]:
    """The layers that say apart, in place on its top, what another Caffe computes in this one."""
    found = []
    norm = layer.batch_norm_param
    if layer.type == "BatchNorm" and (norm.scale_bias or norm.HasField("scale_filler") or norm.HasField("bias_filler")):
        scale = LayerParameter(name=f"{layer.name}/scale", type="Scale", bottom=layer.top, top=layer.top)
        scale.scale_param.bias_term = True
        if norm.HasField("scale_filler"):
            scale.scale_param.filler.CopyFrom(norm.scale_filler)
        if norm.HasField("bias_filler"):
            scale.scale_param.bias_filler.CopyFrom(norm.bias_filler)
        for field in ("scale_bias", "scale_filler", "bias_filler", "use_global_stats"):  # the last is not read there
            norm.ClearField(field)
        if norm.eps < 1e-5:
            norm.eps = 1e-5
        del layer.param[3:]
        for spec in layer.param:
            spec.lr_mult = 0  # nor is theirs; BVLC takes no other
        found.append(scale)
    for name in ("convolution_param", "inner_product_param"):
        fused = getattr(layer, name)
        if layer.HasField(name) and fused.relu:
            relu = LayerParameter(name=f"{layer.name}/relu", type="ReLU", bottom=layer.top, top=layer.top)
            if fused.negative_slope:
                relu.relu_param.negative_slope = fused.negative_slope
            fused.ClearField("relu")
            fused.ClearField("negative_slope")
            found.append(relu)
    return found


def _strip(message: Message, where: str, taken: Counter[str], left: Counter[str]) -> None:
    for field, value in message.ListFields():
        key = f"{field.containing_type.name}.{field.name}"
        if field.name in ("layer", "layers", "blobs"):
            continue
        if field.name == "foreign_text":
            left.update(dialects.foreign_names(message))
            continue
        is_foreign = dialects.is_foreign(key)
        says_nothing = is_foreign and dialects.is_default(field, value)
        if dialects.steers(key) or _is_foreign_engine(field, value) or says_nothing:
            taken[where + field.name] += 1
            message.ClearField(field.name)
        elif is_foreign:
            left[where + field.name] += 1
        elif field.message_type:
            for inner in value if field.is_repeated else [value]:
                _strip(inner, f"{where}{field.name}.", taken, left)


def _is_foreign_engine(field: FieldDescriptor, value: object) -> bool:
    return field.name == "engine" and bool(field.enum_type) and field.enum_type.values_by_number[value].name in _ENGINES
