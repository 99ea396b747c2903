"""MemoryData: the caller's arrays, batch by batch."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.errors import CaffeError

MEMORY = """name: "d" type: "MemoryData" top: "data" top: "label"
memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 }"""


def arrays(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(rows * 3, dtype=np.float32).reshape(rows, 1, 1, 3), np.arange(rows, dtype=np.float32)


def test_batches_go_round_and_the_arrays_are_not_copied(make_source) -> None:
    source = make_source(MEMORY)
    assert source.top_shapes() == [(2, 1, 1, 3), (2,)]
    data, labels = arrays(4)
    source.set_input_arrays(data, labels)
    labels[3] = 7  # seen, since the arrays are used as they are
    seen = [source.next_batch() for _ in range(3)]
    assert [label.flatten().tolist() for _, label in seen] == [[0, 1], [2, 7], [0, 1]]
    assert [tuple(label.shape) for _, label in seen] == [(2, 1, 1, 1)] * 3
    assert seen[1][0].flatten().tolist() == list(range(6, 12))
    seen[0][0].fill_(-1)  # a blob's memory is not the caller's
    assert data[0, 0, 0, 1] == 1


def test_new_arrays_start_at_their_first_row_and_a_state_at_its_own(make_source) -> None:
    source = make_source(MEMORY)
    source.set_input_arrays(*arrays(6))
    source.next_batch()
    state = source.state()
    second = source.next_batch()[1].flatten().tolist()
    source.set_input_arrays(*arrays(6))
    assert source.next_batch()[1].flatten().tolist() == [0, 1]
    source.load_state(state)
    assert source.next_batch()[1].flatten().tolist() == second


DATA, LABELS = arrays(4)
BAD = [
    (DATA.astype(np.float64), LABELS, "data array must be float32, not float64"),
    (DATA[:, :, :, ::-1], LABELS, "data array must be C contiguous"),
    (DATA[:, 0], LABELS, "data array must be 4-D, not 3-D"),
    (DATA.reshape(4, 3, 1, 1), LABELS, r"data array must have rows of \(1, 1, 3\)"),
    (DATA[:3], LABELS[:3], r"the first dimension .3. must be a multiple of the batch size .2."),
    (DATA[:0], LABELS[:0], "must be a multiple of the batch size"),
    (DATA, LABELS[:2], "the same first dimension, not 4 and 2"),
    (DATA, np.zeros((4, 2, 1, 1), np.float32), r"labels array must have rows of \(1, 1, 1\)"),
]


@pytest.mark.parametrize("data, labels, message", BAD)
def test_arrays_that_do_not_fit(make_source, data, labels, message) -> None:
    with pytest.raises(RuntimeError, match=message):
        make_source(MEMORY).set_input_arrays(data, labels)


def test_other_errors(make_source) -> None:
    with pytest.raises(CaffeError, match="layer 'd' .MemoryData.: needs to be initialized"):
        make_source(MEMORY).next_batch()
    with pytest.raises(CaffeError, match="must be specified and positive in memory_data_param"):
        make_source(MEMORY.replace("height: 1", ""))
