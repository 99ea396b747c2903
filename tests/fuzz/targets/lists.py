"""Lists that name images."""

from __future__ import annotations

import shutil
from pathlib import Path

from pysolver.errors import CaffeError
from tests.fuzz.mutation import mutate_text
from tests.fuzz.targets.databases import source
from tests.fuzz.targets.pictures import write_pictures
from tests.fuzz.targets.target import target


@target("image list", lambda: [b"0.png 0\n1.jpg 1\n0.png 2\n", b"1.jpg 3\r\n0.png -1\n"], mutate_text)
def _image_list(data: bytes) -> None:
    from pysolver.data.prepare.imageset import convert_imageset

    write_pictures()
    Path("list.txt").write_bytes(data)
    shutil.rmtree("out", ignore_errors=True)
    error = None
    try:
        convert_imageset("", "list.txt", "out", shuffle=len(data) % 2 == 0, seed=1)
    except CaffeError as given:
        error = given
    source('name: "d" type: "ImageData" top: "x" top: "l" '
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


@target("window file", lambda: [WINDOWS], mutate_text)
def _windows(data: bytes) -> None:
    write_pictures()
    Path("windows.txt").write_bytes(data)
    mode = ("warp", "square")[len(data) % 2]
    source('name: "d" type: "WindowData" top: "x" top: "l" transform_param { crop_size: 8 mirror: true } '
            f'window_data_param {{ source: "windows.txt" batch_size: 4 fg_fraction: 0.5 context_pad: {len(data) % 3} '
            f'fg_threshold: 0.5 bg_threshold: 0.5 crop_mode: "{mode}" }}')  # fmt: skip
