"""The Data layer: which records a batch holds, in which order, for whom, and after a resume."""

from __future__ import annotations

import itertools
import multiprocessing

import cv2
import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pysolver.data.databases import LMDB, open_database
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2

from .conftest import raw_record

DATA = 'name: "d" type: "Data" top: "data" top: "label" {} data_param {{ source: "db" backend: LMDB batch_size: {} }}'


def labels_of(source, batches: int) -> list[list[int]]:
    return [source.next_batch()[1].int().tolist() for _ in range(batches)]


def endless_labels(folder: str):
    """An independent reader: a cursor over the keys, for ever."""
    with lmdb.open(folder, readonly=True, lock=False) as environment, environment.begin() as transaction:
        labels = [caffe_pb2.Datum.FromString(value).label for _, value in transaction.cursor()]
    return itertools.cycle(labels)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=12, unique=True),
    batch=st.integers(1, 15),
    ranks=st.integers(1, 4),
    cached=st.booleans(),
)
def test_order_wrap_around_and_ranks(tmp_path_factory, monkeypatch, make_source, keys, batch, ranks, cached) -> None:
    """Rank r takes the records k of an endless cursor with k % ranks == r, whatever the keys are."""
    assume(len(keys) >= ranks)
    folder = tmp_path_factory.mktemp("order")
    monkeypatch.chdir(folder)
    with lmdb.open("db", map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for label, key in enumerate(keys):
            transaction.put(key, raw_record(np.full((1, 2, 3), label, np.uint8), label))
    wanted = list(itertools.islice(endless_labels("db"), 5 * batch * ranks))
    for rank in range(ranks):
        context = {"rank": rank, "world_size": ranks, "cache_bytes": 1 << 20 if cached else 0}
        source = make_source(DATA.format("", batch), **context)
        got = list(itertools.chain(*labels_of(source, 5)))
        assert got == wanted[rank::ranks]
        source.close()


def test_in_the_test_phase_every_rank_reads_everything(counted_lmdb, make_source) -> None:
    counted_lmdb(5)
    source = make_source(DATA.format("", 3), phase="TEST", rank=1, world_size=2)
    assert labels_of(source, 3) == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


@pytest.mark.parametrize("batches, lines", [(1, 0), (2, 1), (5, 3)])
def test_each_end_of_the_database_is_logged(counted_lmdb, make_source, capfd, batches, lines) -> None:
    counted_lmdb(5)
    source = make_source(DATA.format("", 3))
    for index in range(batches):
        source.make_batch(index)
    assert capfd.readouterr().err.count("data_layer.cpp:73] Restarting data prefetching from start.") == lines


def test_records_passed_over_count_for_the_end_of_the_database(counted_lmdb, make_source, capfd) -> None:
    """Ranks 0 and 1 of 2 both pass the end of 4 records in every other batch of one."""
    counted_lmdb(4)
    for rank in range(2):
        source = make_source(DATA.format("", 1), rank=rank, world_size=2)
        for index in range(4):
            source.make_batch(index)
    log = capfd.readouterr().err  # rank 0 takes 0 2 4 6: it passes 3 on the way to 4; only rank 0 logs
    assert log.count("Restarting data prefetching") == 1


def test_log_of_the_set_up(counted_lmdb, make_source, capfd) -> None:
    counted_lmdb(5)
    make_source(DATA.format("", 3))
    log = capfd.readouterr().err
    assert "db_lmdb.cpp:35] Opened lmdb db\n" in log
    assert "data_layer.cpp:45] output data size: 3,1,2,2\n" in log


def test_one_top_gets_no_labels(counted_lmdb, make_source) -> None:
    counted_lmdb(5)
    source = make_source(DATA.replace('top: "label" ', "").format("", 3))
    assert source.top_shapes() == [(3, 1, 2, 2)]
    assert len(source.next_batch()) == 1


RANDOM = "transform_param { mirror: true crop_size: 5 }"


@pytest.mark.parametrize("seed", [7, None])
@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_a_resumed_stream_is_the_undisturbed_one(write_lmdb, make_source, seed, ahead) -> None:
    """State is what was handed out, however much was read ahead; without random_seed it carries the seed."""
    rng = np.random.default_rng(0)
    write_lmdb("db", (raw_record(rng.integers(0, 256, (3, 8, 9), np.uint8), i) for i in range(10)))
    text = DATA.format(RANDOM, 4)
    source = make_source(text, seed=seed)
    for _ in range(ahead):
        source.next_batch()
    state = source.state()
    assert all(isinstance(value, int) for value in state.values())
    wanted = [[top.clone() for top in source.next_batch()] for _ in range(4)]
    resumed = make_source(text, seed=None)
    resumed.next_batch()
    resumed.load_state(state)
    assert resumed.state() == state
    for batch in wanted:
        for top, again in zip(batch, resumed.next_batch()):
            assert top.equal(again)


def test_caching_and_reading_ahead_change_no_number(write_lmdb, make_source) -> None:
    rng = np.random.default_rng(0)
    write_lmdb("db", (raw_record(rng.integers(0, 256, (3, 8, 9), np.uint8), i) for i in range(10)))
    text = DATA.format(RANDOM, 4)
    variants = [
        make_source(text),
        make_source(text, cache_bytes=0),
        make_source(text.replace("batch_size", "prefetch: 1 batch_size")),
    ]
    for _ in range(6):
        first, *others = ([top.clone() for top in source.next_batch()] for source in variants)
        for other in others:
            assert all(a.equal(b) for a, b in zip(first, other))


def test_a_batch_does_not_share_memory_with_the_cache(counted_lmdb, make_source) -> None:
    counted_lmdb(3)
    source = make_source(DATA.format("", 3))
    for _ in range(3):
        data, label = source.next_batch()
        assert label.tolist() == [0, 1, 2]
        assert data[:, 0, 0, 0].tolist() == [0, 1, 2]
        data.fill_(9), label.fill_(9)


def test_float_records_are_handed_out_as_copies_too(write_lmdb, make_source) -> None:
    write_lmdb("db", [raw_record(np.full((1, 1, 1), 0.5, np.float32), 1)])
    source = make_source(DATA.format("", 1))
    for _ in range(3):
        data, _ = source.next_batch()
        assert data.item() == 0.5
        data.fill_(9)


def test_images_of_several_sizes(write_lmdb, make_source) -> None:
    """Allowed with batches of one, or with a crop that fits all; the top follows the first record of the batch."""
    sizes = [(6, 7), (5, 9), (8, 5)]
    images = [np.random.default_rng(i).integers(0, 256, (2, *size), np.uint8) for i, size in enumerate(sizes)]
    write_lmdb("db", map(raw_record, images))
    source = make_source(DATA.format("", 1))
    for image in images:
        np.testing.assert_array_equal(source.next_batch()[0].numpy(), image[None])
    source = make_source(DATA.format("transform_param { crop_size: 4 }", 3), phase="TEST")
    centres = [image[:, (h - 4) // 2 :, (w - 4) // 2 :][:, :4, :4] for image, (h, w) in zip(images, sizes)]
    np.testing.assert_array_equal(source.next_batch()[0].numpy(), np.stack(centres))
    source = make_source(DATA.format("", 3))
    with pytest.raises(CaffeError, match="record '00000001': an image of 2 x 5 x 9 in a batch .* 2 x 6 x 7"):
        source.next_batch()


def encoded(image: np.ndarray, kind: str = ".png") -> bytes:
    return caffe_pb2.Datum(data=cv2.imencode(kind, image)[1].tobytes(), encoded=True, label=3).SerializeToString()


def test_encoded_records_and_the_force_flags(write_lmdb, make_source) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    grey = colour[..., 0]
    write_lmdb("db", [encoded(colour)])
    as_stored = make_source(DATA.format("", 1)).next_batch()[0].numpy()
    np.testing.assert_array_equal(as_stored[0], colour.transpose(2, 0, 1))  # B, G, R
    made_grey = make_source(DATA.format("transform_param { force_gray: true }", 1)).next_batch()[0].numpy()
    assert made_grey.shape == (1, 1, 4, 5)
    luma = colour @ np.array([0.114, 0.587, 0.299])
    assert np.abs(made_grey[0, 0] - luma).max() < 1.01  # libpng rounds down
    write_lmdb("grey", [encoded(grey)])
    tripled = make_source(DATA.format("transform_param { force_color: true }", 1).replace('"db"', '"grey"'))
    np.testing.assert_array_equal(tripled.next_batch()[0].numpy()[0], np.stack([grey] * 3))


def _labels(_: None) -> list[int]:
    return [caffe_pb2.Datum.FromString(value).label for _, value in open_database("db", LMDB).items()]


def test_two_processes_read_one_lmdb(counted_lmdb, tmp_path, monkeypatch) -> None:
    counted_lmdb(50)
    monkeypatch.chdir(tmp_path)
    mine = open_database("db", LMDB).items()
    next(mine)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(_labels, [None]) == [list(range(50))]
    assert len(list(mine)) == 49


# ---- bad input -------------------------------------------------------------------------------------------------


def test_the_wrong_backend_is_named(counted_lmdb, make_source, golden_folder) -> None:
    with pytest.raises(CaffeError, match="this is an LMDB: set backend: LMDB"):
        make_source(DATA.format("", 1).replace('"db" backend: LMDB', '"cifar40_lmdb"'))
    with pytest.raises(CaffeError, match="this is a LEVELDB: set backend: LEVELDB"):
        make_source(DATA.format("", 1).replace('"db"', '"gray_leveldb"'))


BAD_PARAMETERS = [
    ("", 'source: "nowhere"', "layer 'd' .Data.: nowhere: no such database"),
    ("", 'source: "."', "not a database: a folder with data.mdb"),
    ("", "", "data_param.source is missing"),
    ("", 'source: "db" batch_size: 0', "batch_size must be positive, not 0"),
    ("transform_param { crop_size: 3 }", 'source: "db"', r"crop_size 3 is larger than the image \(2 x 2\)"),
    ('transform_param { mean_value: 1 mean_file: "m" }', 'source: "db"', "mean_file and mean_value at the same time"),
    ("transform_param { mean_value: 1 mean_value: 2 }", 'source: "db"', "as many as channels: 1, not 2"),
    ('transform_param { mean_file: "nowhere" }', 'source: "db"', "nowhere: file not found"),
    ("transform_param { force_color: true force_gray: true }", 'source: "db"', "cannot set both force_color"),
]


@pytest.mark.parametrize("transform, data, message", BAD_PARAMETERS)
def test_bad_parameters(counted_lmdb, make_source, transform: str, data: str, message: str) -> None:
    counted_lmdb(2)
    size = "" if "batch_size" in data else "batch_size: 1"
    with pytest.raises(CaffeError, match=message):
        make_source(f'name: "d" type: "Data" top: "data" {transform} data_param {{ {data} {size} backend: LMDB }}')


def test_a_mean_of_another_shape(counted_lmdb, make_source, tmp_path) -> None:
    counted_lmdb(2)
    mean = caffe_pb2.BlobProto(num=1, channels=1, height=3, width=2, data=[0] * 6)
    (tmp_path / "mean.binaryproto").write_bytes(mean.SerializeToString())
    with pytest.raises(CaffeError, match="mean.binaryproto has the shape 1 x 3 x 2, the uncropped image 1 x 2 x 2"):
        make_source(DATA.format('transform_param { mean_file: "mean.binaryproto" }', 1))


def test_an_empty_database(write_lmdb, make_source) -> None:
    write_lmdb("db", [])
    with pytest.raises(CaffeError, match="db: the database is empty"):
        make_source(DATA.format("", 1))


GOOD = raw_record(np.zeros((1, 2, 2), np.uint8))
BAD_RECORDS = {
    "garbage": (b"\xff\xff\xff garbage", "not a Datum"),
    "nothing": (b"", "0 values do not make an image of 0 x 0 x 0"),
    "too few bytes": (caffe_pb2.Datum(channels=1, height=2, width=2, data=b"abc").SerializeToString(), "3 values"),
    "negative": (caffe_pb2.Datum(channels=-1, height=-2, width=2, data=b"abcd").SerializeToString(), "4 values do not"),
    "another shape": (raw_record(np.zeros((1, 3, 2), np.uint8)), "an image of 1 x 3 x 2 in a batch"),
    "not an image": (caffe_pb2.Datum(data=b"no image", encoded=True).SerializeToString(), "not an image that OpenCV"),
    "no bytes": (caffe_pb2.Datum(data=b"", encoded=True).SerializeToString(), "not an image"),
    "16 bits": (encoded(np.zeros((2, 2), np.uint16)), "16 bits: set force_color or force_gray"),
    "alpha": (encoded(np.zeros((2, 2, 4), np.uint8)), "4 channels with 8 bits: set force_color or force_gray"),
    "cut short": (
        caffe_pb2.Datum(data=cv2.imencode(".jpg", np.zeros((40, 40, 3)))[1].tobytes()[:-30], encoded=True)
        .SerializeToString(),
        "the JPEG is cut short",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_named_by_its_key(write_lmdb, make_source, name: str, cache_bytes: int) -> None:
    record, message = BAD_RECORDS[name]
    write_lmdb("db", [GOOD, GOOD, record])
    source = make_source(DATA.format("", 3), cache_bytes=cache_bytes)
    for _ in range(2):  # and again: a failed source does not hang or go on
        with pytest.raises(CaffeError, match=f"layer 'd' .Data.: db: record '00000002': .*{message}"):
            source.next_batch()
    write_lmdb("first", [record])
    if name != "another shape":
        with pytest.raises(CaffeError, match=f"first: record '00000000': .*{message}"):
            make_source(DATA.format("", 1).replace('"db"', '"first"'))


def test_a_database_file_cut_short(counted_lmdb, make_source, tmp_path) -> None:
    """Reading on would be a bus error."""
    counted_lmdb(500)
    file = tmp_path / "db" / "data.mdb"
    file.write_bytes(file.read_bytes()[:-9000])
    with pytest.raises(CaffeError, match="db/data.mdb is cut short"):
        make_source(DATA.format("", 1))
    file.write_bytes(b"not a database")
    with pytest.raises(CaffeError, match="db/data.mdb: not an LMDB: 14 bytes"):
        make_source(DATA.format("", 1))


def test_fields_that_no_data_layer_reads_are_pointed_out(counted_lmdb, make_source, capfd) -> None:
    counted_lmdb(2)
    make_source(DATA.format("", "1 rand_skip: 5 scale: 0.5"))
    log = capfd.readouterr().err
    assert "data_param.rand_skip is not read" in log
    assert "data_param.scale is not read" in log


@pytest.mark.parametrize(
    "cached, field", [(True, "shuffle: true"), (False, "shuffle: true"), (False, "shuffle_pool_size: 2")]
)
def test_shuffled_records(tmp_path, monkeypatch, make_source, counted_lmdb, cached, field) -> None:
    """data_param.shuffle: each pass holds every record once, in its own order; the ranks share a pass among them."""
    counted_lmdb(12)
    text = DATA.format("", 3).replace("batch_size: 3", f"batch_size: 3 {field}")
    context = {"cache_bytes": 1 << 20 if cached else 0, "seed": 7}
    source = make_source(text, **context)
    passes = [list(itertools.chain(*labels_of(source, 4))) for _ in range(3)]
    for labels in passes:
        assert sorted(labels) == list(range(12))
        assert labels != list(range(12))
    assert passes[0] != passes[1] != passes[2]
    source.close()
    ranks = [make_source(text, rank=rank, world_size=2, cache_bytes=0, seed=7 + rank) for rank in range(2)]
    shares = [list(itertools.chain(*labels_of(one, 2))) for one in ranks]
    assert [label for pair in zip(*shares, strict=True) for label in pair] == passes[0]
    for one in ranks:
        one.close()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_later_image_that_is_smaller_than_the_crop(write_lmdb, make_source, cache_bytes) -> None:
    write_lmdb("db", [raw_record(np.zeros(shape, np.uint8), 0) for shape in ((1, 5, 5), (1, 3, 6))])
    source = make_source(DATA.format("transform_param { crop_size: 4 }", 2), cache_bytes=cache_bytes)
    with pytest.raises(CaffeError, match=r"'d'.*: an image of 1 x 3 x 6 .* is smaller than the crop of 4 x 4"):
        source.next_batch()


@pytest.mark.parametrize("fields", ["crop_h: 3 crop_w: 5", "crop_height: 3 crop_width: 5"])
def test_a_crop_that_is_no_square(fields, write_lmdb, make_source) -> None:
    """SSD's and Cysu's: in TEST from the middle."""
    image = np.arange(2 * 8 * 9, dtype=np.uint8).reshape(2, 8, 9)
    write_lmdb("db", [raw_record(image)])
    text = f"""name: "d" type: "Data" top: "data" data_param {{ source: "db" batch_size: 1 backend: LMDB }}
               transform_param {{ {fields} }}"""
    (data,) = make_source(text, "TEST").next_batch()
    np.testing.assert_array_equal(data[0], image[:, 2:5, 2:7])
