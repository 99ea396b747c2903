"""CPU seconds to build each net of examples/nets, its layers and parameters with their first values.

python benchmarks/build_nets.py
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pysolver as caffe

NETS = Path(__file__).resolve().parent.parent / "examples" / "nets"


def main() -> None:
    os.environ["GLOG_minloglevel"] = "2"
    caffe.Net(str(NETS / "siamese_mnist.prototxt"), caffe.TRAIN)  # imports what there is to import
    for path in sorted(NETS.glob("*.prototxt")):
        start = time.process_time()
        caffe.Net(str(path), caffe.TRAIN)
        print(f"{path.stem:20} {time.process_time() - start:6.2f} s")


if __name__ == "__main__":
    main()
