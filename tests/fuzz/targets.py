"""What is fuzzed: for each thing that is read, some good inputs, a way to change them, and the reading."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import os
import pickle
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import lmdb
import numpy as np
import plyvel

import pysolver.data  # noqa: F401  registers the sources
import pysolver.layers  # noqa: F401  registers the layers
from pysolver.component import create
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.text import parse_text, to_text
from tests.fuzz.mutation import Mutate, message_mutator, mutate_bytes, mutate_text

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT_OF_A_LOG = 40_000  # bytes of a golden log that are changed


@dataclass(frozen=True)
class Target:
    """seeds: good inputs. run: reads one, in a folder of its own. clear: the errors that a person can act on."""

    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], None]
    mutate: Mutate = mutate_bytes
    clear: tuple[type[BaseException], ...] = (CaffeError,)

    def warm_up(self) -> None:
        """What is imported and started once does not count for the first case."""
        for seed in self.seeds()[:2]:
            with contextlib.suppress(*self.clear):
                self.run(seed)


TARGETS: dict[str, Target] = {}


def _target(name: str, seeds: Callable[[], list[bytes]], mutate: Mutate = mutate_bytes, **options: Any) -> Callable:
    def add(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[name] = Target(functools.cache(seeds), run, mutate, **options)
        return run

    return add


def _both(rng_text: Mutate, by_schema: Mutate, parse: Callable[[bytes], object]) -> Mutate:
    """Half of the inputs by the schema, where the seed has none of an older form; half as text or bytes."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        if rng.random() < 0.5:
            with contextlib.suppress(CaffeError):
                return by_schema(rng, data, others)
        return rng_text(rng, data, others)

    return mutate


def _prototxt(kind: type) -> Mutate:
    def parse(data: bytes, message: Any) -> None:
        message.CopyFrom(parse_text(data.decode(), kind))

    schema = message_mutator(kind, parse, lambda message: to_text(message).encode("utf-8", "replace"))
    return _both(mutate_text, schema, parse)


def _message(kind: type) -> Mutate:
    schema = message_mutator(
        kind, lambda data, message: message.ParseFromString(data), lambda m: m.SerializePartialToString()
    )
    return _both(mutate_bytes, schema, kind.FromString)


def _text(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(GOLDEN.glob(pattern))]


# ---- prototxts -----------------------------------------------------------------------------------------------------


_INNER_NET = """
layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" loss_weight: 1 inner_product_param { num_output: 1 } }
"""
_SOLVERS = [
    """train_net_param { NET } base_lr: 0.1 momentum: 0.9 lr_policy: "triangular" max_lr: 0.4 stepsize: 3
       cyclical_momentum: 0.8 cyclical_momentum: 2 start_lr_policy: 1 max_iter: 3 display: 1""",
    """net_param { NET } base_lr: 0.1 lr_policy: "1cycle" max_lr: 1 stepsize: 2 gamma: 0.1 max_iter: 4 type: "Adam"
       clip_gradients: 1 average_loss: 2 iter_size: 2 snapshot_after_train: false""",
]


def _solvers() -> list[bytes]:
    found = _text("solvers/*/solver.prototxt", "upgrade/solver_*.prototxt")
    return found + [text.replace("NET", _INNER_NET).encode() for text in _SOLVERS]


@_target("solver prototxt", _solvers, _prototxt(caffe_pb2.SolverParameter))
def _solver(data: bytes) -> None:
    """Read, upgrade, check, the first iterations of its schedule; built and stepped if its net is inside."""
    from itertools import islice

    from pysolver import schedule
    from pysolver.disciplined.checker import check_solver
    from pysolver.proto.upgrade import read_solver
    from pysolver.solver.solver import Solver, check_parameters

    Path("solver.prototxt").write_bytes(data)
    solver = read_solver("solver.prototxt")
    check_solver(solver)
    list(islice(schedule.table(solver), 50))
    check_parameters(solver, solver.type)
    if solver.HasField("net_param") or solver.HasField("train_net_param"):
        solver.solver_mode, solver.snapshot, solver.snapshot_prefix = solver.CPU, 0, "s"
        solver.max_iter, solver.iter_size = min(solver.max_iter, 3), min(solver.iter_size, 3)
        solver.snapshot_after_train = False
        del solver.test_iter[:], solver.test_net[:]
        solver.ClearField("test_interval")
        made = Solver(solver, context=Context(allow_python_layers=False))
        made.step(2)


def _nets() -> list[bytes]:
    small = [str(np.load(path)["prototxt"]).encode() for path in sorted(GOLDEN.glob("layers*/*.npz"))]
    return small + _text("upgrade/v*.prototxt")


_HEAVY = 1 << 22  # values of a blob: above that a forward takes its time, as it may


@_target("net prototxt", _nets, _prototxt(caffe_pb2.NetParameter))
def _net(data: bytes) -> None:
    """Read, upgrade, filter, build, one forward and backward."""
    from pysolver.net.filter import read_net_for
    from pysolver.net.net import Net

    Path("net.prototxt").write_bytes(data)
    net = Net(
        read_net_for("net.prototxt", len(data) % 2), Context(seed=1, allow_python_layers=False, cache_bytes=1 << 20)
    )
    if sum(blob.count for blob in net.blobs.values()) < _HEAVY:
        net.forward()
        net.backward()


# ---- weights and states --------------------------------------------------------------------------------------------

NET = """
name: "n" layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4 } }
layer { name: "a/b" type: "InnerProduct" bottom: "y" top: "z" loss_weight: 1 inner_product_param { num_output: 2 } }
"""


@functools.cache
def _small_net() -> Any:
    from pysolver.net.net import Net

    return Net(parse_text(NET, caffe_pb2.NetParameter), Context(seed=1))


def _written(save: Callable[[str], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/file.h5"
        save(path)
        return Path(path).read_bytes()


def _caffemodels() -> list[bytes]:
    """Ours, and the same without the seal, as Caffe writes it."""
    from pysolver.net import weights

    net = _small_net()
    return [weights.to_bytes(net), weights.to_bytes(net, with_diff=True), weights.to_proto(net).SerializeToString()]


@_target("caffemodel", _caffemodels, _message(caffe_pb2.NetParameter))
def _caffemodel(data: bytes) -> None:
    Path("w.caffemodel").write_bytes(data)
    _small_net().copy_trained_layers_from("w.caffemodel")


def _unsealed_hdf5(data: bytes) -> bytes:
    return data[:-19]


def _caffemodels_h5() -> list[bytes]:
    from pysolver.net import weights_hdf5

    sealed = _written(lambda path: weights_hdf5.save(_small_net(), path))
    return [_unsealed_hdf5(sealed), sealed]


@_target("caffemodel HDF5", _caffemodels_h5)
def _caffemodel_h5(data: bytes) -> None:
    Path("w.caffemodel.h5").write_bytes(data)
    _small_net().copy_trained_layers_from("w.caffemodel.h5")


def _state(hdf5: bool) -> bytes:
    from pysolver.solver import state_file

    history = [np.ones((4, 3), np.float32), np.ones(4, np.float32)]
    return state_file.to_bytes(state_file.State(7, "w.caffemodel", 1, history), hdf5)


def _states() -> list[bytes]:
    plain = caffe_pb2.SolverState(iter=7, learned_net="w.caffemodel", current_step=1)
    plain.history.append(blobproto.from_array(np.ones((4, 3), np.float32)))
    return [_state(hdf5=False), plain.SerializeToString()]


@_target("solverstate", _states, _message(caffe_pb2.SolverState))
def _solverstate(data: bytes) -> None:
    from pysolver.solver import state_file

    Path("s.solverstate").write_bytes(data)
    state_file.read("s.solverstate")


@_target("solverstate HDF5", lambda: [_unsealed_hdf5(_state(hdf5=True)), _state(hdf5=True)])
def _solverstate_h5(data: bytes) -> None:
    from pysolver.solver import state_file

    Path("s.solverstate.h5").write_bytes(data)
    state_file.read("s.solverstate.h5")


class Undetected(AssertionError):
    """A sealed file was changed, and read all the same."""


def _sealed() -> list[bytes]:
    from pysolver.net import weights, weights_hdf5

    net = _small_net()
    return [weights.to_bytes(net), _written(lambda path: weights_hdf5.save(net, path)), _state(False), _state(True)]


def _damage(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """What a disk does: bits, a block of zeros, an end cut off."""
    changed = bytearray(data)
    kind = rng.randrange(3)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        start = rng.randrange(len(changed))
        end = min(start + rng.choice((1, 4, 16, 512)), len(changed))
        changed[start:end] = bytes(end - start)
    else:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


@_target("checksums", _sealed, _damage)
def _checksums(data: bytes) -> None:
    from pysolver.solver import state_file

    if data in TARGETS["checksums"].seeds():
        raise CaffeError("not changed at all")
    hdf5 = max(TARGETS["checksums"].seeds()[1::2], key=lambda seed: sum(a == b for a, b in zip(seed, data)))
    is_hdf5 = sum(a == b for a, b in zip(hdf5, data)) > 0.9 * len(data) and len(data) > 16
    names = ("w.h5", "s.solverstate.h5") if is_hdf5 else ("w.caffemodel", "s.solverstate")
    before = [blob.detach().clone() for layer in _small_net().layers for blob in layer.blobs]
    errors = 0
    for name, read in zip(names, (_small_net().copy_trained_layers_from, state_file.read)):
        Path(name).write_bytes(data)
        try:
            read(name)
        except CaffeError:
            errors += 1
    after = [blob.detach().clone() for layer in _small_net().layers for blob in layer.blobs]
    if errors < 2 and not (errors == 1 and all((a == b).all() for a, b in zip(before, after)) and not data):
        raise Undetected(names[0])
    raise CaffeError("noticed")


def _blobs() -> list[bytes]:
    legacy = caffe_pb2.BlobProto(num=1, channels=3, height=2, width=2, data=range(12))
    return [blobproto.from_array(np.ones((3, 2, 2))).SerializeToString(), legacy.SerializeToString()]


@_target("binaryproto", _blobs, _message(caffe_pb2.BlobProto))
def _binaryproto(data: bytes) -> None:
    Path("mean.binaryproto").write_bytes(data)
    _source('name: "d" type: "Data" top: "x" transform_param { mean_file: "mean.binaryproto" } '
            f'data_param {{ source: "{_color_lmdb()}" batch_size: 2 backend: LMDB }}')  # fmt: skip


# ---- databases -----------------------------------------------------------------------------------------------------


@functools.cache
def _color_lmdb() -> str:
    folder = tempfile.mkdtemp(prefix="fuzz_lmdb_")
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _write_lmdb(folder, [_datum().SerializeToString()] * 3)
    return folder


def _datum() -> Any:
    return caffe_pb2.Datum(channels=3, height=2, width=2, data=bytes(range(12)), label=1)


def _datums() -> list[bytes]:
    floats = caffe_pb2.Datum(channels=1, height=2, width=2, float_data=[1, 2, 3, 4], label=2)
    picture = caffe_pb2.Datum(data=_pictures()[0], encoded=True, label=3)
    return [datum.SerializeToString() for datum in (_datum(), floats, picture)]


def _write_lmdb(folder: str, values: Sequence[bytes]) -> None:
    with lmdb.open(folder, map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(b"%08d" % number, value)
    os.unlink(f"{folder}/lock.mdb")


def _source(text: str, batches: int = 2, **context: Any) -> None:
    param = parse_text(text, caffe_pb2.LayerParameter)
    param.phase = caffe_pb2.TRAIN
    source = create(param, Context(**{"seed": 1, "cache_bytes": 1 << 20, **context}))
    try:
        source.set_up()
        source.top_shapes()
        for index in range(batches):
            source.make_batch(index)
    finally:
        source.close()


_TRANSFORMS = ["crop_size: 2", "mirror: true scale: 0.5", "force_color: true", "force_gray: true", "mean_value: 1"]


def _data_layer(folder: str, backend: str, number: int) -> None:
    transform = _TRANSFORMS[number % len(_TRANSFORMS)]
    data = f'data_param {{ source: "{folder}" batch_size: 2 backend: {backend} }}'
    layer = f'name: "d" type: "Data" top: "x" top: "l" transform_param {{ {transform} }} {data}'
    _source(layer, cache_bytes=number % 2 << 20)


@contextlib.contextmanager
def _folder(name: str) -> Iterator[Path]:
    shutil.rmtree(name, ignore_errors=True)
    path = Path(name)
    path.mkdir()
    yield path


@_target("datum in LMDB", _datums, _message(caffe_pb2.Datum))
def _datum_lmdb(data: bytes) -> None:
    with _folder("db") as folder:
        _write_lmdb(str(folder), [_datums()[len(data) % 3], data, data][: 1 + len(data) % 3] + [data])
        _data_layer("db", "LMDB", len(data))


@_target("datum in LevelDB", _datums, _message(caffe_pb2.Datum))
def _datum_leveldb(data: bytes) -> None:
    with _folder("db") as folder:
        database = plyvel.DB(str(folder), create_if_missing=True)
        database.put(b"0", data)
        database.put(b"1", _datums()[len(data) % 3])
        database.close()
        _data_layer("db", "LEVELDB", len(data))


def _data_mdbs() -> list[bytes]:
    """A tree of one level, one of two, and one whose values have pages of their own."""
    made = []
    for values in ([_datum().SerializeToString()] * 3, [_datum().SerializeToString()] * 300, [bytes(9000)] * 5):
        with tempfile.TemporaryDirectory() as folder:
            _write_lmdb(folder, values)
            made.append(Path(folder, "data.mdb").read_bytes())
    return made


@_target("data.mdb", _data_mdbs)
def _data_mdb(data: bytes) -> None:
    with _folder("db") as folder:
        (folder / "data.mdb").write_bytes(data)
        _data_layer("db", "LMDB", len(data))


def _leveldb_files() -> list[bytes]:
    """All files of a LevelDB, one behind the other: the table, the log, the manifest."""
    with tempfile.TemporaryDirectory() as folder:
        database = plyvel.DB(folder, create_if_missing=True)
        for number in range(50):
            database.put(b"%08d" % number, _datum().SerializeToString())
        database.compact_range()
        database.put(b"99999999", _datum().SerializeToString())
        database.close()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in sorted(Path(folder).iterdir()):
                tar.add(path, path.name)
        return [archive.getvalue()]


def _mutate_member(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One file of an archive changed."""
    source, target = tarfile.open(fileobj=io.BytesIO(data)), io.BytesIO()  # noqa: SIM115
    members = [member for member in source if member.isfile()]
    chosen = rng.choice([member for member in members if member.size])
    with tarfile.open(fileobj=target, mode="w") as tar:
        for member in members:
            content = source.extractfile(member).read()
            content = mutate_bytes(rng, content, others) if member is chosen else content
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


@_target("LevelDB files", _leveldb_files, _mutate_member)
def _leveldb(data: bytes) -> None:
    with _folder("db") as folder, tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")
        _data_layer("db", "LEVELDB", len(data))


# ---- other data ----------------------------------------------------------------------------------------------------


def _hdf5_data_files() -> list[bytes]:
    def write(path: str, **options: Any) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.arange(60, dtype=np.float32).reshape(10, 6), **options)
            file.create_dataset("l", data=np.arange(10))

    return [_written(write), _written(lambda path: write(path, chunks=(2, 6), compression="gzip", shuffle=True)),
            *[path.read_bytes() for path in sorted((GOLDEN / "transforms" / "h5").iterdir())][:1]]  # fmt: skip


@_target("HDF5 data", _hdf5_data_files)
def _hdf5_data(data: bytes) -> None:
    Path("d.h5").write_bytes(data)
    Path("list.txt").write_text("d.h5\n")
    _source('name: "d" type: "HDF5Data" top: "x" top: "l" hdf5_data_param { source: "list.txt" batch_size: 3 }')


@functools.cache
def _pictures() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    kinds = [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"]
    grey = [
        cv2.imencode(".png", image[..., 0])[1].tobytes(),
        cv2.imencode(".png", image.astype(np.uint16))[1].tobytes(),
    ]
    return [cv2.imencode(kind, image)[1].tobytes() for kind in kinds] + grey


@_target("image bytes", _pictures)
def _image(data: bytes) -> None:
    from pysolver.data import images

    for colour in images.Colour:
        with contextlib.suppress(CaffeError):
            images.decode(data, colour)
    images.decode(data, images.Colour.COLOR, 5, 6)


def _write_pictures() -> None:
    if not Path("0.png").exists():
        for name, content in zip(("0.png", "1.jpg"), _pictures()):
            Path(name).write_bytes(content)


@_target("image list", lambda: [b"0.png 0\n1.jpg 1\n0.png 2\n", b"1.jpg 3\r\n0.png -1\n"], mutate_text)
def _image_list(data: bytes) -> None:
    from pysolver.data.prepare.imageset import convert_imageset

    _write_pictures()
    Path("list.txt").write_bytes(data)
    shutil.rmtree("out", ignore_errors=True)
    error = None
    try:
        convert_imageset("", "list.txt", "out", shuffle=len(data) % 2 == 0, seed=1)
    except CaffeError as given:
        error = given
    _source('name: "d" type: "ImageData" top: "x" top: "l" '
            'image_data_param { source: "list.txt" batch_size: 3 new_height: 5 new_width: 5 }')  # fmt: skip
    if error:
        raise error


WINDOWS = b"""# 0
0.png
3
12
10
3
1 0.9 0 0 5 5
2 0.8 1 1 8 9
0 0.1 2 2 9 11
# 1
1.jpg
3 12 10
1
3 0.7 0 0 9 11
"""


@_target("window file", lambda: [WINDOWS], mutate_text)
def _windows(data: bytes) -> None:
    _write_pictures()
    Path("windows.txt").write_bytes(data)
    mode = ("warp", "square")[len(data) % 2]
    _source('name: "d" type: "WindowData" top: "x" top: "l" transform_param { crop_size: 8 mirror: true } '
            f'window_data_param {{ source: "windows.txt" batch_size: 4 fg_fraction: 0.5 context_pad: {len(data) % 3} '
            f'fg_threshold: 0.5 bg_threshold: 0.5 crop_mode: "{mode}" }}')  # fmt: skip


def _cifar_batches() -> list[bytes]:
    images = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    python = {b"data": images, b"labels": [1, 2, 3], b"fine_labels": [1, 2, 3], b"batch_label": b"x"}
    binary = np.column_stack([np.array([1, 2, 3], np.uint8), images]).tobytes()
    return [pickle.dumps(python, protocol=2), pickle.dumps(python, protocol=3), binary]


@_target("CIFAR", _cifar_batches)
def _cifar(data: bytes) -> None:
    from pysolver.data.prepare import cifar

    binary = data[:1] != b"\x80"
    with _folder("in") as folder:
        for kind in (cifar._CIFAR10, cifar._CIFAR100):
            for name in kind.binary_names if binary else kind.train + kind.test:
                (folder / name).write_bytes(data)
        error = None
        try:
            cifar.load_cifar100(folder)
        except CaffeError as given:
            error = given
        cifar.load_cifar10(folder)
        if error:
            raise error


def _archives() -> list[bytes]:
    made = []
    for mode in ("w", "w:gz"):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode=mode) as tar:
            for number in range(1, 7):
                name = f"data_batch_{number}.bin" if number < 6 else "test_batch.bin"
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = 3073
                tar.addfile(member, io.BytesIO(bytes(3073)))
        made.append(archive.getvalue())
    return made


@_target("tar", _archives)
def _tar(data: bytes) -> None:
    from pysolver.data.prepare import cifar

    with _folder("in") as folder:
        (folder / "cifar-10-binary.tar.gz").write_bytes(data)
        cifar.load_cifar10(folder)


def _idx_files() -> list[bytes]:
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3])
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, *range(8)])
    return [labels, images, gzip.compress(labels), gzip.compress(images)]


@_target("IDX", _idx_files)
def _idx(data: bytes) -> None:
    from pysolver.data.prepare.mnist import read_idx

    path = Path("idx.gz" if data[:1] == b"\x1f" else "idx")
    path.write_bytes(data)
    with contextlib.suppress(CaffeError):
        read_idx(path, 1)
    read_idx(path, 3)


# ---- logs ----------------------------------------------------------------------------------------------------------


def _logs() -> list[bytes]:
    made = []
    for path in sorted((GOLDEN / "logs").glob("*.log.gz")):
        text = gzip.decompress(path.read_bytes())
        made += [text[:TEXT_OF_A_LOG], text[-TEXT_OF_A_LOG:]]
    return made


def _read_log(path: str) -> None:
    from pysolver.logs.export import to_json, write_csv
    from pysolver.logs.reader import read_log

    run = read_log(path)
    run.summary()
    to_json(run)
    write_csv(run, ".", ",")


@_target("log", _logs, mutate_text)
def _log(data: bytes) -> None:
    Path("caffe.log").write_bytes(data)
    _read_log("caffe.log")


@_target("log, gzipped", lambda: [gzip.compress(text) for text in _logs()])
def _log_gz(data: bytes) -> None:
    Path("caffe.log.gz").write_bytes(data)
    _read_log("caffe.log.gz")


# ---- a Caffe tree and the command line -----------------------------------------------------------------------------


def _trees() -> list[bytes]:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "caffe_patch"))
    import stand_in

    made = []
    for line in stand_in.LINES:
        with tempfile.TemporaryDirectory() as folder:
            stand_in.build(Path(folder), line)
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w") as tar:
                for path in sorted(Path(folder).rglob("*")):
                    tar.add(path, str(path.relative_to(folder)), recursive=False)
            made.append(archive.getvalue())
    return made


def _mutate_source_file(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    source, target = tarfile.open(fileobj=io.BytesIO(data)), io.BytesIO()  # noqa: SIM115
    members = list(source)
    chosen = rng.choice([member for member in members if member.size])
    contents = {member.name: source.extractfile(member).read() for member in members if member.isfile()}
    with tarfile.open(fileobj=target, mode="w") as tar:
        for member in members:
            if member.isfile():
                content = contents[member.name]
                content = mutate_text(rng, content, list(contents.values())) if member is chosen else content
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                tar.addfile(member)
    return target.getvalue()


def _files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@_target("Caffe tree", _trees, _mutate_source_file)
def _tree(data: bytes) -> None:
    """apply then revert: refused, or the very bytes that were there."""
    from caffe_patch.cli import main

    with _folder("caffe") as folder:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(folder, filter="data")
        before = _files_below(folder)
        if main(["apply", "caffe"]) != 0:
            if _files_below(folder) != before:
                raise AssertionError("refused, but something was changed")
            raise CaffeError("refused")
        if main(["check", "caffe"]) or main(["diff", "caffe"]) or main(["revert", "caffe"]):
            raise AssertionError("applied, but not taken out again")
        if _files_below(folder) != before:
            raise AssertionError("not as it was")


COMMANDS = [
    "train -solver solver.prototxt --gpu 0 --snapshot=auto --keep 2",
    "train --solver=solver.prototxt --weights=w.caffemodel --sigint_effect=stop --no-progress",
    "test -model net.prototxt -weights w.caffemodel -iterations 2",
    "time --model=net.prototxt --iterations=1 --phase TEST --level 1 --stage a,b",
    "schedule --solver=solver.prototxt --csv - --every 3",
    "device_query -gpu all",
    "upgrade_net_proto_text net.prototxt out.prototxt",
    "upgrade_solver_proto_text solver.prototxt out.prototxt",
    "upgrade_net_proto_binary w.caffemodel out.caffemodel",
    "compute_image_mean db mean.binaryproto --backend lmdb",
    "convert_imageset ./ list.txt out --gray --resize_width 3 --resize_height=4 --encode_type png",
    "extract_features w.caffemodel net.prototxt y feat 1 lmdb CPU 0",
    "data digits out --from nowhere --force",
    "parse_log caffe.log . --json -v",
    "plot_log caffe.log -o out.png",
    "check_solver solver.prototxt caffe.log",
    "diagnose_log caffe.log",
    "--version",
]


_ODD_WORDS = ["", "-1", "0", "x" * 300, "1e9", "99999999999999999999", "-", "--", "=", "a=b", ",", "1,2", "all", "."]
_ODD_WORDS += ["net.prototxt", "w.caffemodel", "/dev/null", "\udcff", "ü", "list.txt"]


def _mutate_words(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    words = data.decode().split(" ")
    more = [word for other in others for word in other.decode().split(" ")]
    for _ in range(1 << rng.randrange(3)):
        at = rng.randrange(len(words) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            words.insert(at, rng.choice(more))
        elif kind == 1:
            del words[at : at + 1]
        else:
            words[at : at + 1] = [rng.choice(_ODD_WORDS)]
    return " ".join(words).encode("utf-8", "surrogateescape")


@_target("arguments", lambda: [line.encode() for line in COMMANDS], _mutate_words)
def _arguments(data: bytes) -> None:
    """Status 0, 1 or 2, and an error in one line without the words that only a bare exception gets."""
    import sys

    words = data.decode("utf-8", "surrogateescape").split(" ")
    if "digits" in words or "run" in words or "mnist" in " ".join(words):
        return  # long, or code of one's own
    _write_pictures()
    Path("net.prototxt").write_text(NET)
    solver = 'net: "net.prototxt" max_iter: 1 base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "snap" solver_mode: CPU'
    Path("solver.prototxt").write_text(solver)
    Path("list.txt").write_text("0.png 0\n")
    Path("caffe.log").write_bytes(_logs()[0])
    Path("w.caffemodel").write_bytes(_caffemodels()[0])
    for path in ("out", "feat"):
        shutil.rmtree(path, ignore_errors=True)
    said, sys.stderr = sys.stderr, io.StringIO()
    try:
        status = _main(words)
        text = sys.stderr.getvalue()
    finally:
        sys.stderr = said
    if "--debug shows where" in text or "Traceback" in text or status not in (0, 1, 2, None):
        raise AssertionError(f"status {status}: {text[-2000:]}")
    if status:
        raise CaffeError(f"status {status}")


def _main(words: Sequence[str]) -> int | None:
    from pysolver.commands import main

    try:
        return main(words)
    except SystemExit as end:  # argparse
        return end.code
