"""torch.compile takes the layers of training nets whole, without a break in the graph."""

from __future__ import annotations

import pytest
import torch

X = (2, 4, 6, 6)
LAYERS = {
    "Convolution": ("convolution_param { num_output: 3 kernel_size: 3 }", [X]),
    "Pooling": ("pooling_param { kernel_size: 3 stride: 2 pad: 2 }", [X]),
    "LRN": ("", [X]),
    "BatchNorm": ("", [X]),
    "Scale": ("scale_param { bias_term: true }", [X]),
    "Reshape": ("reshape_param { shape { dim: 0 dim: -1 } }", [X]),
    "Accuracy": ("", [(2, 4), (2,)]),
    "SoftmaxWithLoss": ("", [(2, 4), (2,)]),
    "LSTM": ("recurrent_param { num_output: 3 }", [(3, 2, 4), (3, 2)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_is_one_graph(make, name: str):
    text, shapes = LAYERS[name]
    layer = make(f'type: "{name}" {text}', *shapes)
    bottoms = [torch.ones(shape) if len(shape) < len(shapes[0]) else torch.randn(shape) for shape in shapes]
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(*bottoms)
    layer.carried = None  # the state that LSTM would continue from
    tops = layer(*bottoms)
    for ours, expected in zip(*((t if isinstance(t, tuple) else (t,)) for t in (compiled, tops))):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
