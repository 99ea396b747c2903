"""HDF5Data: rows over file ends, shuffling, ranks, and what is wrong with files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from pysolver.errors import CaffeError

HDF5 = 'name: "d" type: "HDF5Data" top: "data" top: "label" {} hdf5_data_param {{ source: "list.txt" batch_size: {} }}'


@pytest.fixture
def write_files(tmp_path):
    """write_files(3, 4): files of that many rows, data (n, 2) and label (n) counting on through all files."""

    def write(*rows: int) -> None:
        start = 0
        for number, count in enumerate(rows):
            values = np.arange(start, start + count)
            with h5py.File(tmp_path / f"{number}.h5", "w") as file:
                file["data"] = np.stack([values, -values], axis=1).astype(np.float64)
                file["label"] = values
            start += count
        (tmp_path / "list.txt").write_text(" ".join(f"{number}.h5" for number in range(len(rows))))

    return write


def labels_of(source, batches: int) -> list[int]:
    found = []
    for _ in range(batches):
        data, label = source.next_batch()
        assert data.tolist() == [[row, -row] for row in label.tolist()]
        found += label.int().tolist()
    return found


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("files", [(7,), (3, 4), (1, 0, 2, 4), (2, 2, 3)])
def test_rows_in_order_for_ever(write_files, make_source, files, cache_bytes) -> None:
    write_files(*files)
    wanted = [row % 7 for row in range(60)]
    source = make_source(HDF5.format("", 5), cache_bytes=cache_bytes)
    assert labels_of(source, 12) == wanted
    for rank in range(3):
        source = make_source(HDF5.format("", 5), cache_bytes=cache_bytes, rank=rank, world_size=3)
        assert labels_of(source, 4) == wanted[rank::3]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_shuffling_mixes_files_and_the_rows_in_each(write_files, make_source, cache_bytes) -> None:
    write_files(4, 4, 4)
    source = make_source(HDF5.format("", "5 shuffle: true"), cache_bytes=cache_bytes)
    epochs = np.array(labels_of(source, 60)).reshape(25, 3, 4)
    file_orders = {tuple(epoch[:, 0] // 4) for epoch in epochs}
    assert len(file_orders) == 6  # of 3! orders; chance to miss one in 25 epochs: 6 %, but the seed is fixed
    for epoch in epochs:
        assert all(len(set(rows // 4)) == 1 for rows in epoch)  # rows of different files never mix
        assert sorted(epoch.ravel()) == list(range(12))
    assert len({tuple(rows) for rows in epochs.reshape(-1, 4)}) > 40


def test_a_resumed_stream_is_the_undisturbed_one(write_files, make_source) -> None:
    write_files(4, 3, 5)
    source = make_source(HDF5.format("", "5 shuffle: true"), seed=None)
    labels_of(source, 3)
    state = source.state()
    wanted = labels_of(source, 8)
    resumed = make_source(HDF5.format("", "5 shuffle: true"), seed=None)
    labels_of(resumed, 1)
    resumed.load_state(state)
    assert labels_of(resumed, 8) == wanted


def test_scalars_a_row_and_many_axes(tmp_path, make_source) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"] = np.arange(120, dtype=np.uint8).reshape(2, 3, 4, 5)
        file["label"] = np.array([1.5, 2.5], np.float16)
    (tmp_path / "list.txt").write_text("0.h5\n")
    source = make_source(HDF5.format("", 3))
    assert source.top_shapes() == [(3, 3, 4, 5), (3,)]
    data, label = source.next_batch()
    np.testing.assert_array_equal(data.numpy(), np.arange(120).reshape(2, 3, 4, 5)[[0, 1, 0]])
    assert label.tolist() == [1.5, 2.5, 1.5]


# ---- bad input -------------------------------------------------------------------------------------------------


def test_bad_lists_and_parameters(write_files, make_source, tmp_path) -> None:
    write_files(3)
    cases = {
        'source: "nowhere" batch_size: 1': "Failed to open source file: nowhere",
        'source: "empty" batch_size: 1': "empty: the list is empty",
        'source: "list.txt"': "batch_size must be positive, not 0",
        "batch_size: 1": "hdf5_data_param.source is missing",
        'source: "gone" batch_size: 1': "Failed opening HDF5 file: gone.h5",
        'source: "text" batch_size: 1': "list.txt: damaged, or not a readable HDF5 file: ",
    }
    for name, text in {"empty": " \n", "gone": "gone.h5", "text": "list.txt"}.items():
        (tmp_path / name).write_text(text)
    for param, message in cases.items():
        with pytest.raises(CaffeError, match=f"layer 'd' .HDF5Data.: {message}"):
            make_source(f'name: "d" type: "HDF5Data" top: "data" hdf5_data_param {{ {param} }}')
    with pytest.raises(CaffeError, match="does not transform data"):
        make_source(HDF5.format("transform_param { scale: 2 }", 1))


@pytest.mark.parametrize(
    "data, label, message",
    [
        (np.zeros((2, 2)), None, "0.h5: Failed to find HDF5 dataset label .there are: data."),
        (np.zeros((2, 2)), np.zeros(3), "0.h5: dataset 'label' has 3 rows, 'data' has 2: they must agree"),
        (np.zeros((2, 2)), np.array([b"a", b"b"]), "0.h5: dataset 'label' is of type .S1, not of floats or integers"),
        (np.zeros((2, 2)), np.float32(1), "0.h5: dataset 'label' has no axis"),
        (np.zeros((0, 2)), np.zeros(0), "list.txt: no file holds a row"),
    ],
)
def test_bad_files(make_source, tmp_path, data, label, message) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"] = data
        if label is not None:
            file["label"] = label
    (tmp_path / "list.txt").write_text("0.h5")
    with pytest.raises(CaffeError, match=message):
        make_source(HDF5.format("", 1))


def test_a_later_file_with_other_rows(write_files, make_source, tmp_path) -> None:
    write_files(2, 2)
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["data"], file["label"] = np.zeros((2, 3)), np.zeros(2)
    with pytest.raises(CaffeError, match="1.h5: the rows of dataset 'data' are 3, those of 0.h5 2"):
        make_source(HDF5.format("", 1))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_file_that_changes_while_it_is_read(rows, write_files, make_source) -> None:
    write_files(2, 2)
    source = make_source(HDF5.format("", 2), cache_bytes=0)
    write_files(2, rows)
    with pytest.raises(CaffeError, match="1.h5: its datasets have changed since the file was first opened"):
        for _ in range(4):
            source.next_batch()
