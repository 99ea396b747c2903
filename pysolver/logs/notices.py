"""What a Caffe says beside its training: one row a message, which is its event and its line.

A row has the name of the event, the tag (line 1 where the message is ours and not Caffe's) and the text, with the
event's fields in braces: `{name}` is text, `{count:int}` and `{value:float}` are numbers, `{rest:lines}` may span
lines. They are written and read by grammar.py as all lines are; events that readers make tables of are in events.py.
"""

from __future__ import annotations

import re
from dataclasses import make_dataclass
from typing import Any, NamedTuple

from pysolver.logs.events import Event

_FIELD = re.compile(r"\{(\w+)(?::(\w+))?\}")
_KINDS = {None: str, "int": int, "float": float, "lines": str}


class Row(NamedTuple):
    """A message: its event, tag, text with plain fields, severity, and whether its last field may span lines."""

    event: type[Event]
    where: str
    text: str
    severity: str
    tail: bool


ROWS: list[Row] = []


def _notice(name: str, where: str, text: str, severity: str = "I") -> Any:
    """A new event with this one line."""
    found = _FIELD.findall(text)
    fields = [(field, _KINDS[kind or None]) for field, kind in found]
    members = {"__module__": __name__, "__doc__": text}
    event = make_dataclass(name, fields, bases=(Event,), namespace=members, frozen=True, slots=True)
    ROWS.append(Row(event, where, _FIELD.sub(r"{\1}", text), severity, any(kind == "lines" for _, kind in found)))
    return event


# A net is built
PhaseDiffers = _notice(
    "PhaseDiffers",
    "net.cpp:296",
    "The NetState phase ({phase:int}) differed from the phase ({wanted:int}) specified by a rule in layer {layer}",
)
LevelBelow = _notice(
    "LevelBelow",
    "net.cpp:306",  # the wording is Caffe's
    "The NetState level ({level:int}) is above the min_level ({limit:int}) specified by a rule in layer {layer}",
)
LevelAbove = _notice(
    "LevelAbove",
    "net.cpp:316",
    "The NetState level ({level:int}) is above the max_level ({limit:int}) specified by a rule in layer {layer}",
)
StageMissing = _notice(
    "StageMissing", "net.cpp:332", "The NetState did not contain stage '{stage}' specified by a rule in layer {layer}"
)
StageUnwanted = _notice(
    "StageUnwanted", "net.cpp:347", "The NetState contained a not_stage '{stage}' specified by a rule in layer {layer}"
)
MakingLayer = _notice("MakingLayer", "layer_factory.hpp:77", "Creating layer {layer}")
AddingLayer = _notice("AddingLayer", "net.cpp:86", "Creating Layer {layer}")
Bottom = _notice("Bottom", "net.cpp:408", "{layer} <- {blob}")
LossWeight = _notice("LossWeight", "net.cpp:134", "    with loss weight {weight:float}")
Memory = _notice("Memory", "net.cpp:139", "Memory required for data: {bytes:int}")
SharingParameters = _notice(
    "SharingParameters",
    "net.cpp:467",
    "Sharing parameters '{parameter}' owned by layer '{layer}', param index {index:int}",
)
NeedsBackward = _notice("NeedsBackward", "net.cpp:200", "{layer} needs backward computation.")
NeedsNoBackward = _notice("NeedsNoBackward", "net.cpp:202", "{layer} does not need backward computation.")
NetOutput = _notice("NetOutput", "net.cpp:244", "This network produces output {blob}")
IgnoredFields = _notice(
    "IgnoredFields", "net.cpp:1", "Ignored, as they steer only the implementation of another Caffe: {fields}"
)
SharedLossTop = _notice(
    "SharedLossTop",
    "insert_splits.cpp:1",
    "layer '{layer}' ({type}) is a loss whose top is read by another layer: its default loss_weight of 1 is kept "
    "(Caffe would lose its gradient); say loss_weight: 1, or 0, to be clear",
    "W",
)
NothingLoaded = _notice(
    "NothingLoaded",
    "net.cpp:1",
    "{file} has no layer of this net's names: no weights were loaded (the net has {wanted}; the file has {given})",
    "W",
)
PartlyLoaded = _notice(
    "PartlyLoaded",
    "net.cpp:1",
    "{file} has nothing for {count:int} of {all:int} layers with weights, which keep what they had: {layers}",
)
NoLoss = _notice("NoLoss", "solver.cpp:1", "The train net has no loss, so that nothing is learned", "W")
DatatypeClass = _notice("DatatypeClass", "hdf5.cpp:33", "Datatype class: H5T_{name}")

# Layers
SkippingFillers = _notice("SkippingFillers", "layer.hpp:1", "Skipping parameter initialization")
RecurrentInput = _notice(
    "RecurrentInput",
    "recurrent_layer.cpp:20",
    "Initializing recurrent layer: assuming input batch contains {steps:int} timesteps of {streams:int} "
    "independent streams.",
)
RecurrentParameter = _notice("RecurrentParameter", "recurrent_layer.cpp:150", "Adding parameter {index:int}: {name}")
NanScores = _notice(
    "NanScores", "accuracy_layer.cpp:1", "{layer}: the scores are NaN, which counts as a right answer", "W"
)
NotShown = _notice("NotShown", "detection_output_layer.cpp:1", "{layer}: visualize is not carried out", "W")
NoResultFiles = _notice(
    "NoResultFiles", "detection_output_layer.cpp:1", "Provide {field} if output results to files.", "W"
)
NothingDetected = _notice("NothingDetected", "detection_output_layer.cpp:1", "Couldn't find any detections")
OwnPythonLayer = _notice(
    "OwnPythonLayer",
    "python_layer.hpp:1",
    "{layer}: {what} is computed here, with the configuration of py-faster-rcnn's end-to-end training",
)
SavingHdf5 = _notice("SavingHdf5", "hdf5_output_layer.cpp:33", "Saving HDF5 file {file}")
SavedRows = _notice("SavedRows", "hdf5_output_layer.cpp:38", "Successfully saved {rows:int} rows")

# Data
DataSize = _notice("DataSize", "data_layer.cpp:45", "output data size: {shape}")
UnreadField = _notice(
    "UnreadField", "data_layer.cpp:1", "layer '{layer}': data_param.{field} is not read by a Data layer", "W"
)
ForcedColour = _notice(
    "ForcedColour", "data_transformer.cpp:1", "force_color and force_gray only for encoded datum", "E"
)
LoadingMean = _notice("LoadingMean", "data_transformer.cpp:25", "Loading mean file from: {file}")
AnnotatedSize = _notice("AnnotatedSize", "annotated_data_layer.cpp:61", "output data size: {shape}")
OpenedLmdb = _notice("OpenedLmdb", "db_lmdb.cpp:35", "Opened lmdb {folder}")
OpenedLeveldb = _notice("OpenedLeveldb", "db_leveldb.cpp:18", "Opened leveldb {folder}")
LoadingHdf5List = _notice("LoadingHdf5List", "hdf5_data_layer.cpp:81", "Loading list of HDF5 filenames from: {file}")
Hdf5Files = _notice("Hdf5Files", "hdf5_data_layer.cpp:95", "Number of HDF5 files: {count:int}")
OddLabels = _notice(
    "OddLabels",
    "image_data_layer.cpp:1",
    "{file}:{line:int}: no blank with a number behind it ends '{text}': the label is 0, as in Caffe; lines like it: "
    "{count:int}",
    "W",
)
OpeningImageList = _notice("OpeningImageList", "image_data_layer.cpp:38", "Opening file {file}")
ShufflingImages = _notice("ShufflingImages", "image_data_layer.cpp:53", "Shuffling data")
ListedImages = _notice("ListedImages", "image_data_layer.cpp:63", "A total of {count:int} images.")
SkippingImages = _notice("SkippingImages", "image_data_layer.cpp:70", "Skipping first {count:int} data points.")
ImageSize = _notice("ImageSize", "image_data_layer.cpp:90", "output data size: {shape}")
MemoryNotTransformed = _notice(
    "MemoryNotTransformed", "memory_data_layer.cpp:90", "MemoryData does not transform array data on Reset()", "W"
)
Windows = _notice(
    "Windows",
    "window_data_layer.cpp:42",
    "Window data layer:\n  foreground (object) overlap threshold: {foreground:float}\n"
    "  background (non-object) overlap threshold: {background:float}\n"
    "  foreground sampling fraction: {fraction:float}\n  cache_images: {cache:int}\n  root_folder: {folder}",
)
WindowImage = _notice(
    "WindowImage",
    "window_data_layer.cpp:140",
    "num: {index:int} {path} {channels:int} {height:int} {width:int} windows to process: {windows:int}",
)
WindowImages = _notice("WindowImages", "window_data_layer.cpp:151", "Number of images: {count:int}")
WindowClass = _notice("WindowClass", "window_data_layer.cpp:155", "class {label:int} has {count:int} samples")
WindowPadding = _notice("WindowPadding", "window_data_layer.cpp:158", "Amount of context padding: {pixels:int}")
WindowCrop = _notice("WindowCrop", "window_data_layer.cpp:160", "Crop mode: {mode}")
WindowSize = _notice("WindowSize", "window_data_layer.cpp:180", "output data size: {shape}")

# A solver
NoGpu = _notice("NoGpu", "caffe.cpp:1", "solver_mode is GPU, but {reason} here: running on the CPU", "W")
NothingToResume = _notice("NothingToResume", "caffe.cpp:1", "No intact snapshot of {prefix}: starting at iteration 0")
PassingOver = _notice("PassingOver", "solver.cpp:1", "Passing over a snapshot: {why:lines}", "W")
Continuing = _notice(
    "Continuing",
    "solver.cpp:1",
    "Continuing exactly: data, random numbers and smoothed loss go on where the snapshot was taken.",
)
DataStartOver = _notice(
    "DataStartOver", "solver.cpp:1", "A snapshot without data positions, as Caffe writes them: the data start over."
)
Returning = _notice(
    "Returning",
    "solver.cpp:1",
    "Returning to an earlier point, since newer snapshots of this run exist: the data start over.",
)
OtherProcesses = _notice(
    "OtherProcesses",
    "solver.cpp:1",
    "A snapshot of {had:int} processes, this run has {has:int}: weights, history and schedule go on, the data, "
    "random numbers and smoothed loss start over, and the batch of an update is another.",
)
OtherSources = _notice(
    "OtherSources", "solver.cpp:1", "The {net} has other sources than in the snapshot: its data start over.", "W"
)
PlateauStep = _notice(
    "PlateauStep", "sgd_solver.cpp:149", "Plateau Status: Iteration {iteration:int}, step = {step:int}"
)
ClassPrecision = _notice("ClassPrecision", "solver.cpp:540", "class{label:int}: {precision:float}")
PlateauMinimum = _notice(
    "PlateauMinimum",
    "sgd_solver.cpp:156",
    "Plateau Status: Iteration {iteration:int}, current minimum_loss = {loss:float}",
)
NotFiniteData = _notice(
    "NotFiniteData", "solver.cpp:1", "Blob '{blob}' of the data layer '{layer}' holds numbers that are not finite", "W"
)
NotFinite = _notice(
    "NotFinite",
    "solver.cpp:1",
    "Iteration {iteration:int}: the loss is {loss:float}; training goes on (--stop_on_nan ends it)",
    "W",
)
Advice = _notice("Advice", "solver.cpp:1", "Advice: {advice:lines}", "W")

# Old files
_UPGRADE = "upgrade_proto.cpp"
Upgrading = _notice(
    "Upgrading", f"{_UPGRADE}:28", "Attempting to upgrade input file specified using deprecated {what}: {source}"
)
Upgraded = _notice("Upgraded", f"{_UPGRADE}:36", "Successfully upgraded file specified using deprecated {what}")
UpgradeProblem = _notice(
    "UpgradeProblem",
    f"{_UPGRADE}:33",
    "Warning: had one or more problems upgrading {what} (see above); continuing anyway.",
    "E",
)
FutureReleases = _notice("FutureReleases", f"{_UPGRADE}:39", "Note that future Caffe releases will {change}", "W")
UpgradingBatchNorm = _notice(
    "UpgradingBatchNorm",
    f"{_UPGRADE}:79",
    "Attempting to upgrade batch norm layers using deprecated params: {source}",
)
UpgradedBatchNorm = _notice(
    "UpgradedBatchNorm", f"{_UPGRADE}:82", "Successfully upgraded batch norm layers using deprecated params."
)
UnknownV0Parameter = _notice(
    "UnknownV0Parameter", f"{_UPGRADE}:237", "Unknown parameter {field} for layer type {type}", "E"
)
V0InsideV1 = _notice("V0InsideV1", f"{_UPGRADE}:870", "Input NetParameter has V0 layer -- ignoring.", "E")
PrefixSet = _notice("PrefixSet", f"{_UPGRADE}:1108", "snapshot_prefix was not specified and is set to {prefix}")
PrefixCompleted = _notice(
    "PrefixCompleted", f"{_UPGRADE}:1113", "snapshot_prefix was a directory and is replaced to {prefix}"
)
ParseFailed = _notice(
    "ParseFailed", "upgrade_net_proto_text.cpp:30", "Failed to parse input {form} file as {message}: {source}", "E"
)
AlreadyLatest = _notice(
    "AlreadyLatest", "upgrade_net_proto_text.cpp:43", "File already in latest proto format: {source}", "E"
)
UpgradeErrors = _notice(
    "UpgradeErrors",
    "upgrade_net_proto_text.cpp:39",
    "Encountered error(s) while upgrading prototxt; see details above.",
    "E",
)
WroteUpgraded = _notice(
    "WroteUpgraded", "upgrade_net_proto_text.cpp:49", "Wrote upgraded {message} {form} proto to {target}"
)
ForeignSettings = _notice(
    "ForeignSettings",
    "upgrade_proto.cpp:1",
    "{path}: its settings are of another Caffe and are not read; names and blobs are",
    "W",
)
TakenOut = _notice("TakenOut", "upgrade_net_proto_text.cpp:1", "Taken out: {fields}")
NotOfBvlc = _notice("NotOfBvlc", "upgrade_net_proto_text.cpp:1", "BVLC's Caffe has nothing for: {fields}", "E")
UnreadableProto = _notice("UnreadableProto", "upgrade_net_proto_text.cpp:30", "{error:lines}", "E")

# Commands
QueryingGpus = _notice("QueryingGpus", "caffe.cpp:120", "Querying GPUs {ids}")
GpuProperty = _notice("GpuProperty", "common.cpp:178", "{property}:{value}")
PerformingForward = _notice("PerformingForward", "caffe.cpp:351", "Performing Forward")
InitialLoss = _notice("InitialLoss", "caffe.cpp:356", "Initial loss: {loss:float}")
PerformingBackward = _notice("PerformingBackward", "caffe.cpp:357", "Performing Backward")
BenchmarkBegins = _notice("BenchmarkBegins", "caffe.cpp:365", "*** Benchmark begins ***")
TimingFor = _notice("TimingFor", "caffe.cpp:366", "Testing for {iterations:int} iterations.")
TimedIteration = _notice(
    "TimedIteration", "caffe.cpp:394", "Iteration: {iteration:int} forward-backward time: {ms:float} ms."
)
TimesPerLayer = _notice("TimesPerLayer", "caffe.cpp:397", "Average time per layer: ")
LayerTime = _notice("LayerTime", "caffe.cpp:400", "{layer}\t{way}: {ms:float} ms.")
ForwardTime = _notice("ForwardTime", "caffe.cpp:408", "Average Forward pass: {ms:float} ms.")
BackwardTime = _notice("BackwardTime", "caffe.cpp:410", "Average Backward pass: {ms:float} ms.")
BothTime = _notice("BothTime", "caffe.cpp:412", "Average Forward-Backward: {ms:float} ms.")
TotalTime = _notice("TotalTime", "caffe.cpp:414", "Total Time: {ms:float} ms.")
BenchmarkEnds = _notice("BenchmarkEnds", "caffe.cpp:415", "*** Benchmark ends ***")
PeakSpeed = _notice(
    "PeakSpeed",
    "caffe.cpp:1",
    "Peak of this machine: {gflops:int} GFLOP/s, by a product of {rows:int} x {columns:int} matrices",
)
LayerSpeed = _notice(
    "LayerSpeed",
    "caffe.cpp:1",
    "{layer}\t{gflop:float} GFLOP at {speed:float} GFLOP/s, {part} of peak",
)
FunctionTime = _notice(
    "FunctionTime", "caffe.cpp:1", "As one function, as train runs it: {ms:float} ms an iteration{memory}"
)
LimitedBy = _notice("LimitedBy", "caffe.cpp:1", "Limited by {kind}")
RanksTime = _notice(
    "RanksTime",
    "parallel.cpp:1",
    "{count:int} processes at once: {ms:float} ms an iteration each, {wait:float} ms of it ({share}) waiting for the "
    "others' gradients; {factor:float} times the batches of one process",
)
RanksExchange = _notice("RanksExchange", "parallel.cpp:1", "Gradients are exchanged in parts: {buckets}")
WroteTrace = _notice("WroteTrace", "caffe.cpp:1", "Wrote {file}: open it in chrome://tracing or ui.perfetto.dev")
NotCompiled = _notice(
    "NotCompiled",
    "caffe.cpp:1",
    "--compile: compiled nets are slower on a CPU, this one goes on uncompiled",
    "W",
)
NotRecorded = _notice(
    "NotRecorded",
    "net.cpp:1",
    "--compile: no CUDA graphs, since layer '{layer}' keeps its state from one pass to the next",
    "W",
)
HalfPrecision = _notice(
    "HalfPrecision", "caffe.cpp:1", "Precision: {name}; parameters, gradients and history stay in float32"
)
ExtractingOnCpu = _notice("ExtractingOnCpu", "extract_features.cpp:59", "Using CPU", "E")
ExtractingOnGpu = _notice("ExtractingOnGpu", "extract_features.cpp:52", "Using Device_id={device:int}", "E")
Extracting = _notice("Extracting", "extract_features.cpp:126", "Extracting Features", "E")
Extracted = _notice(
    "Extracted",
    "extract_features.cpp:158",
    "Extracted features of {count:int} query images for feature blob {blob}",
    "E",
)
ExtractionDone = _notice("ExtractionDone", "extract_features.cpp:179", "Successfully extracted the features!", "E")
WritingMean = _notice("WritingMean", "compute_image_mean.cpp:101", "Write to {file}")
MeanChannels = _notice("MeanChannels", "compute_image_mean.cpp:107", "Number of channels: {count:int}")
MeanValue = _notice("MeanValue", "compute_image_mean.cpp:113", "mean_value channel [{channel:int}]: {value:float}")
ShufflingList = _notice("ShufflingList", "convert_imageset.cpp:91", "Shuffling data")
ConvertingImages = _notice("ConvertingImages", "convert_imageset.cpp:94", "A total of {count:int} images.")
Converted = _notice("Converted", "convert_imageset.cpp:155", "Processed {count:int} files.")
UnreadableImage = _notice("UnreadableImage", "io.cpp:80", "{error:lines}", "E")

# pycaffe
NoCudaDevice = _notice(
    "NoCudaDevice", "_caffe.cpp:1", "set_mode_gpu: there is no CUDA device here, nets run on the CPU", "W"
)
DeprecatedNet = _notice(
    "DeprecatedNet", "_caffe.cpp:137", "DEPRECATION WARNING - deprecated use of Python interface", "W"
)
NetInstead = _notice("NetInstead", "_caffe.cpp:138", 'Use this instead (with the named "weights" parameter):', "W")
NetCall = _notice("NetCall", "_caffe.cpp:140", "Net('{file}', {phase:int}, weights='{weights}')", "W")
ScriptLog = _notice("ScriptLog", "_caffe.cpp:69", "{text:lines}")
