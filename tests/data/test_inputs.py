"""Input and DummyData."""

from __future__ import annotations

import pytest
import torch

from pysolver.errors import CaffeError

DUMMY = 'name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param {{ {} }}'


def test_input_leaves_its_blobs_alone(make_source) -> None:
    shapes = "shape { dim: 2 dim: 3 } shape { dim: 4 }"
    source = make_source(f'name: "i" type: "Input" top: "a" top: "b" input_param {{ {shapes} }}')
    assert source.top_shapes() == [(2, 3), (4,)]
    assert source.next_batch() == [None, None]
    both = make_source('name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 } }')
    assert both.top_shapes() == [(2,), (2,)]
    with pytest.raises(CaffeError, match="Must specify 'shape' once"):
        make_source(f'name: "i" type: "Input" top: "a" top: "b" top: "c" input_param {{ {shapes} }}')


def test_constants_are_filled_once_and_the_others_anew(make_source) -> None:
    source = make_source(
        DUMMY.format("""shape { dim: 3 dim: 2 } shape { dim: 1000 }
        data_filler { type: 'constant' value: 4 } data_filler { type: 'gaussian' mean: 5 std: 2 }""")
    )
    first = source.initial_tops()
    assert first[0].tolist() == [[4, 4]] * 3
    batches = [source.next_batch() for _ in range(2)]
    assert batches[0][0] is None and batches[1][0] is None
    drawn = [first[1], batches[0][1], batches[1][1]]
    assert len({tuple(values.tolist()) for values in drawn}) == 3
    for values in drawn:
        assert abs(values.mean().item() - 5) < 5 * 2 / 1000**0.5
        assert abs(values.std().item() - 2) < 0.25


def test_old_dimensions_and_the_default_filler(make_source) -> None:
    source = make_source(DUMMY.format("num: 2 num: 3 channels: 4 height: 5 height: 6 width: 1"))
    assert source.top_shapes() == [(2, 4, 5, 1), (3, 4, 6, 1)]
    assert not any(top.any() for top in source.initial_tops())
    assert source.next_batch() == [None, None]


def test_a_resumed_stream_is_the_undisturbed_one_and_other_draws_do_not_matter(make_source) -> None:
    text = DUMMY.format("shape { dim: 5 } data_filler { type: 'uniform' }")
    source = make_source(text)
    torch.manual_seed(3)
    source.next_batch()
    undisturbed = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == undisturbed  # the global generator is left as it was
    state = source.state()
    wanted = source.next_batch()
    resumed = make_source(text, seed=9)
    resumed.load_state(state)
    assert all(a.equal(b) for a, b in zip(wanted, resumed.next_batch()))


@pytest.mark.parametrize(
    "param, message",
    [
        ("shape { dim: 1 } data_filler {} data_filler {} data_filler {}", "Number of data fillers must be 0, 1 or"),
        ("", "Must specify 'shape' once, or once per top blob .2., not 0 times"),
        ("num: 1 channels: 1 height: 1", "Must specify 'num', 'channels', 'height' and 'width' once each"),
        ("num: 1 shape { dim: 1 }", "give either shape or num"),
    ],
)
def test_bad_parameters(make_source, param, message) -> None:
    with pytest.raises(CaffeError, match=message):
        make_source(DUMMY.format(param))


def test_an_unknown_filler_is_said_with_the_layer(make_source) -> None:
    source = make_source(DUMMY.format("shape { dim: 1 } data_filler { type: 'nonsense' }"))
    with pytest.raises(CaffeError, match="layer 'd' .DummyData.: Unknown filler name: nonsense"):
        source.initial_tops()
