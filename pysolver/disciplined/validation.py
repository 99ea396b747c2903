"""Records of the training set set aside to decide on, so that the test set is touched once, at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pysolver.data.database_writer import new_database, write_all
from pysolver.data.databases import LMDB, open_database
from pysolver.disciplined.data_sets import data_layers
from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import TEST, TRAIN, NetParameter, NetState

SEED = 1803_09820


def split(net: NetParameter, states: Mapping[int, NetState], count: int, folder: Path) -> tuple[NetParameter, int]:
    """The net on the rest of its training set, tested on `count` of its records; and how many that rest is.

    Both parts are databases in `folder`, written once; which records go where depends on the two numbers alone.
    states: of the net, by phase.
    CaffeError if the net does not read its training set from an LMDB of more than `count` records.
    """
    (train,), (test,) = (list(data_layers(net, phase, states[phase])) for phase in (TRAIN, TEST))
    if train == test:
        raise CaffeError(f"layer '{train.name}': serves both phases; --validation needs one for each")
    if train.type != "Data" or test.type != "Data" or train.data_param.backend != LMDB:
        raise CaffeError(f"layer '{train.name}': a validation set can be taken out of an LMDB only")
    source = open_database(train.data_param.source, LMDB)
    if not 0 < count < source.entries:
        raise CaffeError(f"--validation {count}: {train.data_param.source} has {source.entries} records")
    places = np.random.default_rng(SEED).permutation(source.entries)[:count]
    aside = np.zeros(source.entries, bool)
    aside[places] = True
    parts = {folder / f"train_without_{count}_lmdb": ~aside, folder / f"validation_{count}_lmdb": aside}
    folder.mkdir(parents=True, exist_ok=True)
    for path, chosen in parts.items():
        if not path.exists():
            with new_database(path, LMDB) as database:
                write_all(
                    database, ((bytes(key), bytes(value)) for (key, value), mine in zip(source.items(), chosen) if mine)
                )
    made = NetParameter()
    made.CopyFrom(net)
    for phase, path in zip((TRAIN, TEST), parts):
        next(data_layers(made, phase, states[phase])).data_param.source = str(path)
    return made, int((~aside).sum())
