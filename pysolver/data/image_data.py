"""ImageData: batches from image files named in a list (src/caffe/layers/image_data_layer.cpp)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.data import images
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.extras import require
from pysolver.data.image_lists import read_image_list
from pysolver.data.parallel import usable_cores
from pysolver.data.transformer import Transformer
from pysolver.errors import CaffeError
from pysolver.layers.base import exactly, register
from pysolver.logs import glog
