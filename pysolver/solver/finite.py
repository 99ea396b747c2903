"""A loss that is not a finite number: what is said of it."""

from __future__ import annotations

import torch

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.net.net import Net


def refusal(net: Net, iteration: int, loss: float) -> CaffeError:
    """The end of a run with --stop_on_nan."""
    found = _in_data(net)
    if found:
        cause = f"Blob '{found[0]}' of the data layer '{found[1]}' holds numbers that are not finite."
    else:
        cause = "A lower base_lr or max_lr may help."
    return CaffeError(f"Iteration {iteration}: the loss is {loss}; stopped, as --stop_on_nan says. {cause}")


def tell(net: Net, iteration: int, loss: float, emit: Emit) -> None:
    """Warn, and say so if the data are to blame."""
    if found := _in_data(net):
        emit(notices.NotFiniteData(*found))
    emit(notices.NotFinite(iteration, loss))


def _in_data(net: Net) -> tuple[str, str] | None:
    """Blob and layer of the present batch's first data that are not finite; on a GPU the batch may be a later one."""
    for node in net.nodes:
        if node.layer.name in net.sources:
            for name, blob in zip(node.top_names, node.tops):
                if not torch.isfinite(blob.value).all():
                    return name, node.layer.name
    return None
