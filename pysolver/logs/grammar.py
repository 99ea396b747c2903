"""The one description of Caffe's log lines: each row both writes its event and reads it back.

A row is an event type, the tag (`file:line` of BVLC Caffe) and a text with the event's fields in braces. The
fields' types say how a value is written (floats with 6 significant digits, as C++ streams do) and what a reader
accepts. Several rows of one event are its forms: the first one that has all its values is written, all are read.
Rows under DIALECTS are only read: other Caffes' words for the same things, `{*}` for what they add.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache, cached_property

from pysolver.errors import visible
from pysolver.logs import events as e
from pysolver.logs import notices

NUMBER = (
    r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?"
    r"|[nN][aA][nN](?:\(\w*\))?|[iI][nN][fF](?:inity)?|1\.#\w+)"  # the C libraries' ways to say nan and inf
)
_FIELD = re.compile(r"\{(\w+|\*)\}")
_DEVICE = re.compile(r"\s*\[\d+(?:\.\d+)?\] *")  # NVIDIA's `[0.0]`: node and device


@dataclass(frozen=True)
class Form:
    """One way to say an event. `given` holds field values that the text does not spell out."""

    event: type[e.Event]
    where: str
    text: str
    given: tuple[tuple[str, object], ...] = ()
    severity: str = "I"
    tail: bool = False  # the last field may span lines

    @property
    def file(self) -> str:
        """The source file of the tag: the part that is the same in all Caffes."""
        return self.where.partition(":")[0]

    @cached_property
    def kinds(self) -> dict[str, typing.Callable]:
        """How each field is read from text; reals leniently, `| None` left aside."""
        kinds: dict[str, typing.Callable] = {}
        for name, hint in typing.get_type_hints(self.event).items():
            kind = next(k for k in (typing.get_args(hint) or (hint,)) if k is not type(None))
            kinds[name] = real if kind is float else kind
        return kinds

    @cached_property
    def spelled(self) -> tuple[str, ...]:
        """The fields in the order of the text."""
        return tuple(name for name in _FIELD.findall(self.text) if name != "*")

    def fits(self, event: e.Event) -> bool:
        """Whether this form says all of the event."""
        given = dict(self.given)
        return all(
            getattr(event, f.name) == given[f.name]
            if f.name in given
            else (getattr(event, f.name) is not None) == (f.name in self.spelled)
            for f in fields(event)
        )

    def write(self, event: e.Event) -> str:
        """The text of the event."""
        return _FIELD.sub(lambda m: self._value(m[1], getattr(event, m[1])), self.text)

    def _value(self, name: str, value: typing.Any) -> str:
        text = number(value, self.kinds[name])
        return text if self.tail and name == self.spelled[-1] else visible(text)

    def pattern(self) -> str:
        """A regular expression of the text with one unnamed group a field, in the order of the text."""
        kinds = self.kinds
        accepts = {int: r"(-?\d{1,18})", real: f"({NUMBER})"}
        pieces = _FIELD.split(self.text)  # text, field, text, field, ..., text
        blanks = " *" if pieces[0].startswith(" ") else ""
        pattern = blanks + re.escape(pieces[0].lstrip())
        following = iter([*(kinds.get(name) for name in pieces[3::2]), None])
        for name, text in zip(pieces[1::2], pieces[2::2]):
            after = next(following)
            kind = None if name == "*" else kinds[name]
            pattern += accepts.get(kind) or (r".*?" if kind is None else _words_before(text, after, self.tail))
            pattern += re.escape(text)
        return pattern


def _words_before(text: str, after: typing.Callable | None, tail: bool) -> str:
    """A group of words that `text` ends, and `after` it a field of that kind.

    Before other words it goes up to the first `text`: else reading would take the square of the line's length. Before
    a number it may hold `text` itself, as output names hold ` = `, since at each place one look decides.
    """
    if text:
        return f"((?:(?!{re.escape(text)}).)*)" if after is str else r"(.*?)"
    return r"((?s:.*))" if tail else r"(.*)"


def number(value: typing.Any, kind: typing.Callable) -> str:
    """A value as a C++ stream writes it; float32 of numpy and torch scalars too."""
    return f"{float(value):g}" if kind is real else str(value)


def real(text: str) -> float:
    """A number in any spelling of any C library: `-nan`, `nan(ind)`, `1.#QNAN`, `-1.#INF`; ValueError if it is none."""
    try:
        return float(text)
    except ValueError:
        if re.fullmatch(NUMBER, text) is None:
            raise
        sign = -1.0 if text.startswith("-") else 1.0
        return sign * float("inf") if "INF" in text.upper() else float("nan")


class Alternatives:
    """Some forms as one regular expression. An empty group at the end of each tells which form it was."""

    def __init__(self, forms: Iterable[Form], before: str = "") -> None:
        self.forms: dict[int, tuple[Form, tuple[int, ...]]] = {}
        patterns, group = [], 1
        for form in forms:
            end = group + len(form.spelled)
            self.forms[end] = form, tuple(range(group, end))
            patterns.append(f"{form.pattern()}()")
            group = end + 1
        self.regex = re.compile(before + "(?:" + "|".join(patterns) + ")")

    def read(self, text: str) -> e.Event | None:
        """The event that the whole text says, or None."""
        match = self.regex.fullmatch(text)
        if match is None:
            return None
        form, groups = self.forms[match.lastindex]
        values = {name: form.kinds[name](match[i]) for name, i in zip(form.spelled, groups)}
        return form.event(**values, **dict(form.given))


def _say(event: type[e.Event], where: str, text: str, severity: str = "I", tail: bool = False, **given: object) -> Form:
    return Form(event, where, text, tuple(given.items()), severity, tail)


_WEIGHTED = " (* {weight} = {weighted} loss)"

FORMS: tuple[Form, ...] = (
    _say(e.UseCpu, "caffe.cpp:197", "Use CPU."),
    _say(e.Threads, "caffe.cpp:1", "Threads: {count} on {cores} cores ({why})"),
    _say(e.Overflow, "solver.cpp:1", "Overflow in iteration {iteration}: no update; the loss is scaled by {scale} now"),
    _say(e.UseGpus, "caffe.cpp:204", "Using GPUs {ids}"),
    _say(e.GpuName, "caffe.cpp:209", "GPU {index}: {name}"),
    _say(e.UseGpu, "caffe.cpp:267", "Use GPU with device ID {device}"),
    _say(e.GpuName, "caffe.cpp:271", "GPU device name: {name}"),
    _say(e.Processes, "parallel.cpp:1", "{count} processes train this net: an update takes {count} batches"),
    _say(e.InitializingSolver, "solver.cpp:45", "Initializing solver from parameters: \n{parameters}", tail=True),
    _say(
        e.CreatingTrainNet,
        "solver.cpp:88",
        "Creating training net specified in train_net_param.",
        field="train_net_param",
    ),
    _say(e.CreatingTrainNet, "solver.cpp:92", "Creating training net from train_net file: {file}", field="train_net"),
    _say(e.CreatingTrainNet, "solver.cpp:97", "Creating training net specified in net_param.", field="net_param"),
    _say(e.CreatingTrainNet, "solver.cpp:102", "Creating training net from net file: {file}", field="net"),
    _say(e.CreatingTestNet, "solver.cpp:190", "Creating test net (#{net}) specified by {source}"),
    _say(e.Finetuning, "solver.cpp:72", "Finetuning from {file}"),
    _say(e.IgnoringSourceLayer, "net.cpp:746", "Ignoring source layer {name}"),
    _say(e.ScaffoldingDone, "solver.cpp:57", "Solver scaffolding done."),
    _say(e.Resuming, "caffe.cpp:235", "Resuming from {file}"),
    _say(e.RestoringHistory, "sgd_solver.cpp:336", "SGDSolver: restoring history"),
    _say(e.StartingOptimization, "caffe.cpp:239", "Starting Optimization"),
    _say(e.Solving, "solver.cpp:289", "Solving {net}"),
    _say(e.Policy, "solver.cpp:290", "Learning Rate Policy: {name}"),
    _say(e.RestoringStatus, "solver.cpp:296", "Restoring previous solver status from {file}"),
    _say(e.Testing, "solver.cpp:347", "Iteration {iteration}, Testing net (#{net})"),
    _say(e.TestLoss, "solver.cpp:401", "Test loss: {value}"),
    _say(e.Output, "solver.cpp:414", "    Test net output #{index}: {name} = {value}" + _WEIGHTED, phase="Test"),
    _say(e.Output, "solver.cpp:414", "    Test net output #{index}: {name} = {value}", phase="Test"),
    _say(e.TestInterrupted, "solver.cpp:396", "Test interrupted."),
    _say(
        e.Display,
        "solver.cpp:239",
        "Iteration {iteration} ({speed} iter/s, {seconds}s/{interval} iters), loss = {loss}",
    ),
    _say(e.Display, "solver.cpp:327", "Iteration {iteration}, loss = {loss}"),
    _say(e.Output, "solver.cpp:258", "    Train net output #{index}: {name} = {value}" + _WEIGHTED, phase="Train"),
    _say(e.Output, "solver.cpp:258", "    Train net output #{index}: {name} = {value}", phase="Train"),
    _say(e.MultiStep, "sgd_solver.cpp:50", "MultiStep Status: Iteration {iteration}, step = {step}"),
    _say(
        e.Rate,
        "sgd_solver.cpp:112",
        "Iteration {iteration}, lr = {lr}, momentum = {momentum}, weight decay = {weight_decay}",
    ),
    _say(e.Rate, "sgd_solver.cpp:112", "Iteration {iteration}, lr = {lr}"),
    _say(
        e.Clipping,
        "sgd_solver.cpp:99",
        "Gradient clipping: scaling down gradients (L2 norm {norm} > {clip}) by scale factor {scale}",
    ),
    _say(e.Snapshot, "solver.cpp:464", "Snapshotting to binary proto file {file}", kind="model", format="binary proto"),
    _say(e.Snapshot, "solver.cpp:474", "Snapshotting to HDF5 file {file}", kind="model", format="HDF5"),
    _say(
        e.Snapshot,
        "sgd_solver.cpp:284",
        "Snapshotting solver state to binary proto file {file}",
        kind="state",
        format="binary proto",
    ),
    _say(
        e.Snapshot, "sgd_solver.cpp:296", "Snapshotting solver state to HDF5 file {file}", kind="state", format="HDF5"
    ),
    _say(e.StoppedEarly, "solver.cpp:311", "Optimization stopped early."),
    _say(e.GaveUp, "solver.cpp:1", "Gave up: {reason}"),
    _say(e.GoOn, "caffe.cpp:1", "To go on: {command}"),
    _say(e.Done, "solver.cpp:332", "Optimization Done.", by="solver"),
    _say(e.Done, "caffe.cpp:250", "Optimization Done.", by="tool"),
    _say(e.RestartingData, "data_layer.cpp:73", "Restarting data prefetching from start."),
    _say(e.WaitingForData, "blocking_queue.cpp:49", "Waiting for data"),
    # debug_info: the way and the role decide which of data and diff is told
    *(
        _say(
            e.DebugBlob,
            f"net.cpp:{line}",
            f"    [{way}] Layer {{layer}}, {role} blob {{blob}} {what}: {{value}}",
            way=way,
            role=role,
            what=what,
        )
        for line, way, role, what in (
            (593, "Forward", "top", "data"),
            (605, "Forward", "param", "data"),
            (621, "Backward", "bottom", "diff"),
            (632, "Backward", "param", "diff"),
        )
    ),
    _say(
        e.DebugTotals,
        "net.cpp:721",
        "    [Backward] All net params (data, diff): "
        "L1 norm = ({l1_data}, {l1_diff}); L2 norm = ({l2_data}, {l2_diff})",
        severity="E",
    ),
    # caffe test
    _say(e.RunningFor, "caffe.cpp:281", "Running for {iterations} iterations."),
    _say(e.BatchOutput, "caffe.cpp:304", "Batch {batch}, {name} = {value}"),
    _say(e.MeanLoss, "caffe.cpp:309", "Loss: {value}"),
    _say(e.MeanOutput, "caffe.cpp:321", "{name} = {value}" + _WEIGHTED),
    _say(e.MeanOutput, "caffe.cpp:321", "{name} = {value}"),
    # net construction
    _say(e.InitializingNet, "net.cpp:53", "Initializing net from parameters: \n{parameters}", tail=True),
    _say(e.Top, "net.cpp:369", "{layer} -> {blob} (in-place)", in_place=True),
    _say(e.Top, "net.cpp:382", "{layer} -> {blob}", in_place=False),
    _say(e.SettingUp, "net.cpp:124", "Setting up {layer}"),
    _say(e.TopShape, "net.cpp:131", "Top shape: {dims}({count})"),
    _say(e.NetReady, "net.cpp:257", "Network initialization done."),
    *(Form(row.event, row.where, row.text, (), row.severity, row.tail) for row in notices.ROWS),
)

# Read, never written: the scores of 2013's Caffe; NVIDIA's short names, seconds of the first iterations and epochs;
# Caffe before 1.0 on several GPUs; detection nets' mean average precision; the gradient norms of the paper's Caffe.
DIALECTS: tuple[Form, ...] = (
    _say(e.Display, "solver.cpp", "Iteration {iteration} ({speed} iter/s, {seconds}s/{interval} iter{*}loss = {loss}"),
    _say(e.Display, "solver.cpp", "Iteration {iteration} ({seconds} s), {*}loss = {loss}"),
    _say(e.Display, "solver.cpp", "Iteration {iteration} ({speed} iter/s, {seconds}s/{interval} iter), loss = {loss}"),
    _say(e.Rate, "sgd_solver.cpp", "Iteration {iteration}, lr = {lr}, m = {momentum}, {*}wd = {weight_decay}{*}"),
    _say(e.Rate, "sgd_solver.cpp", "Iteration {iteration}, lr = {lr}, m = {momentum}"),
    _say(e.Rate, "sgd_solver.cpp", "Iteration {iteration}, lr = {lr}, m = {momentum}{*}"),
    _say(e.Rate, "solver.cpp", "Iteration {iteration}, lr = {lr}"),
    _say(e.Output, "solver.cpp", "    Test net output mAP #{index}: {name} = {value}", phase="Test"),
    _say(e.Output, "solver.cpp", "Test score #{index}: {value}", phase="Test", name="score"),
    _say(e.StartingOptimization, "parallel.cpp", "Starting Optimization"),
    _say(e.StartingOptimization, "solver.cpp", "Starting Optimization on GPU {*}"),
    _say(e.GradientNorm, "sgd_solver.cpp", "Gradient: L2 norm {norm}"),
    _say(e.Finetuning, "caffe.cpp", "Finetuning from {file}"),
    _say(e.Done, "caffe.cpp", "Optimization Done in {*}", by="tool"),
)

_NOTICES = frozenset(row.event for row in notices.ROWS)

# What tables are made of.
FREQUENT = (e.Output, e.GradientNorm, e.Display, e.Rate, e.Testing, e.Clipping)
_UNDER_ANY_TAG = (*FREQUENT, notices.ListedImages)  # forks move these lines

# How records begin whose last field, a dump, fills the lines that follow.
DUMPS = frozenset(form.text.partition("\n")[0] for form in FORMS if form.tail and "\n" in form.text)


@cache
def _forms() -> dict[type[e.Event], list[Form]]:
    """The rows of each event."""
    forms: dict[type[e.Event], list[Form]] = {}
    for form in FORMS:
        forms.setdefault(form.event, []).append(form)
    return forms


@cache
def _alternatives(file: str | None) -> Alternatives | None:
    rows = FORMS + DIALECTS
    if file is None:  # notices are too many and too free to be told without their tag
        forms = [form for form in rows if form.event not in _NOTICES]
    else:
        forms = [form for form in rows if form.file == file]
    return Alternatives(forms) if forms else None


def is_written(event: e.Event) -> bool:
    """Whether a log has a line for such events at all."""
    return type(event) in _forms()


def form_of(event: e.Event) -> Form:
    """The row that writes this event; ValueError if none can say it."""
    for form in _forms().get(type(event), ()):
        if form.fits(event):
            return form
    raise ValueError(f"no line of a Caffe log says {event}")


def render(event: e.Event) -> tuple[str, str]:
    """The tag and the text of an event."""
    form = form_of(event)
    return form.where, form.write(event)


def parse(text: str, file: str | None = None) -> e.Event | None:
    """The event that a record's text says; `file` is the source file of its tag, if known."""
    forms = _alternatives(file)
    if forms is None:
        return None
    return forms.read(text) or (forms.read(text[device.end() :]) if (device := _DEVICE.match(text)) else None)


def under_any_tag(before: str = "") -> Alternatives:
    """The forms of FREQUENT events, and few others, after anything that `before` matches, whatever the tag."""
    return Alternatives((form for form in FORMS + DIALECTS if form.event in _UNDER_ANY_TAG), before)
