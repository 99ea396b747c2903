"""ImageGtData of MS-CNN and DetectionData of Cascade R-CNN, against their rules place by place."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from pysolver.data.detection_data import _mixed
from pysolver.data.place_truth import Grid, Rules, Truth, View, at_places
from pysolver.errors import CaffeError

RNG = np.random.default_rng(3)


def common(a, b, cascade):
    """What two boxes share, by the two forks' own rules (math_functions.cpp BoxIOU, bbox_util.cpp JaccardOverlap)."""
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    if cascade:
        return 0 if x1 > x2 or y1 >= y2 else (x2 - x1 + 1) * (y2 - y1 + 1)
    return 0 if x1 >= x2 or y1 >= y2 else (x2 - x1) * (y2 - y1)


def area(box, cascade):
    return (box[2] - box[0] + cascade) * (box[3] - box[1] + cascade)


def expected(truth, view, grids, rules):
    """The maps, a place at a time."""
    cascade, maps = rules.is_cascade, []
    best, matches = {}, set()
    for number, grid in enumerate(grids):
        h, w = half_up(view.height / grid.stride), half_up(view.width / grid.stride)
        values = np.zeros((6, h, w))
        for i in range(h):
            for j in range(w):
                values[5, i, j] = 1
                top, left = half_up(view.top / grid.stride), half_up(view.left / grid.stride)
                rows, columns = half_up(view.rows / grid.stride), half_up(view.columns / grid.stride)
                if not (top <= i < top + rows and left <= j < left + columns):
                    continue
                x, y = (j + 0.5) * grid.stride, (i + 0.5) * grid.stride
                rx, ry = grid.field_width / 2, grid.field_height / 2
                field = x - rx, y - ry, x + rx, y + ry
                shown = view.left, view.top, view.left + view.columns, view.top + view.rows
                if rules.margin is not None:
                    mx, my = rules.margin * rx, rules.margin * ry
                    if field[0] < shown[0] - mx or field[2] >= shown[2] + mx:
                        continue
                    if field[1] < shown[1] - my or field[3] >= shown[3] + my:
                        continue
                elif rules.inside is not None and common(field, shown, True) / area(field, True) < rules.inside:
                    continue
                region = sum(common(field, box, cascade) / area(field, cascade) for box in truth.regions)
                if not cascade and region >= rules.region:
                    continue
                values[5, i, j] = 0
                match = None
                for index, box in enumerate(truth.boxes):
                    shared = common(box, field, cascade)
                    iou = shared / (area(box, cascade) + area(field, cascade) - shared)
                    if iou > values[5, i, j]:
                        values[5, i, j], match = iou, index
                    if iou > best.get(index, (0, 0))[0]:
                        best[index] = iou, number
                if match is not None and values[5, i, j] > rules.fg:
                    box = truth.boxes[match]
                    matches.add(match)
                    label = 0 if truth.ignored[match] else truth.labels[match]
                    values[:5, i, j] = label, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, *size(box, cascade)
                elif cascade and region >= rules.region:
                    values[5, i, j] = 1
        maps.append(values)
    for index, (iou, number) in sorted(best.items()):
        if index in matches or truth.ignored[index] or iou < rules.pickup:
            continue
        box, stride, values = truth.boxes[index], grids[number].stride, maps[number]
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        i = min(max(math.floor(y / stride), 0), values.shape[1] - 1)
        j = min(max(math.floor(x / stride), 0), values.shape[2] - 1)
        if values[0, i, j] == 0:
            values[:5, i, j] = truth.labels[index], x, y, *size(box, cascade)
            if cascade:
                values[5, i, j] = iou
    return maps


def half_up(value):
    return int(value + 0.5)


def size(box, cascade):
    return box[2] - box[0] + cascade, box[3] - box[1] + cascade


@pytest.mark.parametrize(
    "rules",
    [
        Rules(False, 0.5),
        Rules(True, 0.5),
        Rules(True, 0.4, region=0.3, pickup=0.3, margin=0.5),
        Rules(True, 0.6, inside=0.8),
    ],
)
def test_the_truth_of_each_place(rules):
    """Boxes in whole and half pixels, so that some touch."""
    seen = 0
    for _ in range(6):
        low = RNG.integers(-10, 60, (7, 2))
        boxes = np.concatenate([low, low + RNG.integers(4, 40, (7, 2))], 1).astype(np.float32)
        truth = Truth(RNG.integers(1, 4, 5), RNG.integers(0, 2, 5), boxes[:5], boxes[5:])
        view = View(64, 80, *((8, 16, 40, 56) if RNG.random() < 0.5 else (0, 0, 64, 80)))
        grids = [Grid(8, 16, 16), Grid(8, 24, 12), Grid(16, 32, 40)]
        found = at_places(truth, view, grids, rules)
        for got, wanted in zip(found, expected(truth, view, grids, rules), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=2e-6)  # float32
            seen += int((wanted[0] > 0).sum())
    assert seen > 5


def test_a_place_by_hand():
    """A field of 16 x 16 at 8..24 and an object at 8..24 x 8..16: MS-CNN 128 / 256, Cascade R-CNN 17 x 9 / 17^2."""
    truth = Truth(np.array([2]), np.array([0]), np.array([[8, 8, 24, 16]], np.float32), np.zeros((0, 4), np.float32))
    for cascade, overlap in ((False, 0.5), (True, 9 / 17)):
        (values,) = at_places(truth, View(32, 32, 0, 0, 32, 32), [Grid(32, 16, 16)], Rules(cascade, 0.45))
        np.testing.assert_allclose(values[:, 0, 0], [2, 16, 12, 16 + cascade, 8 + cascade, overlap], rtol=1e-6)


def test_groups_in_turns():
    groups = [np.arange(5), np.arange(10, 13)]
    assert _mixed(groups, 2).tolist() == [0, 1, 10, 11, 2, 3, 12, 4]


# ---- the sources ---------------------------------------------------------------------------------------------------

OBJECTS = [(2, 0, 1, 20, 16, 59, 47), (1, 1, 0, 60, 8, 75, 30)]  # label, ignored, difficult, box
REGION = (0, 40, 30, 63)
TRANSFORM = "transform_param { mean_value: 100 mean_value: 110 mean_value: 120 %s }"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three images, 64 x 96, 64 x 96 and 96 x 64; the last has no object."""
    monkeypatch.chdir(tmp_path)
    cascade, mscnn = [], []
    for number, shape in enumerate([(64, 96), (64, 96), (96, 64)]):
        cv2.imwrite(f"{number}.png", RNG.integers(0, 256, (*shape, 3)).astype(np.uint8))
        objects, head = OBJECTS if number < 2 else [], f"# {number}\n{number}.png\n3 {shape[0]} {shape[1]}\n"
        region = f"1\n{' '.join(map(str, REGION))}\n"
        for file, rows in ((cascade, objects), (mscnn, [(*row[:2], *row[3:]) for row in objects])):
            lines = [" ".join(map(str, row)) for row in rows]
            file.append(head + "\n".join([str(len(rows)), *lines]) + "\n" + region)
    (tmp_path / "cascade.txt").write_text("".join(cascade))
    (tmp_path / "mscnn.txt").write_text("".join(mscnn))
    return tmp_path


def mscnn(extra="", transform="", tops=3):
    names = " ".join(f'top: "t{number}"' for number in range(tops))
    return f"""name: "d" type: "ImageGtData" {names} {TRANSFORM % transform}
        image_gt_data_param {{ source: "mscnn.txt" batch_size: 1 output_gt_boxes: true
            downsample_rate: 8 field_h: 32 field_w: 40 {extra} }}"""


def cascade(extra="", transform="", tops=3):
    names = " ".join(f'top: "t{number}"' for number in range(tops))
    return f"""name: "d" type: "DetectionData" {names} {TRANSFORM % transform}
        detection_data_param {{ source: "cascade.txt" batch_size: 1 output_gt_boxes: true
            stride: 8 field_h: 32 field_w: 40 {extra} }}"""


def pixels_of(path):
    return cv2.imread(path).transpose(2, 0, 1) - np.array([100, 110, 120]).reshape(3, 1, 1)


@pytest.mark.parametrize(
    "text", [mscnn("resize_width: 96 resize_height: 64"), cascade("crop_width: 96 crop_height: 64")]
)
def test_an_image_as_it_is(text, folder, make_source):
    """The canvas has the image's size, so nothing moves; the second object is ignored."""
    source = make_source(text)
    data, places, objects = (top.numpy() for top in source.next_batch())
    np.testing.assert_array_equal(data[0], pixels_of("0.png"))
    is_cascade = "Detection" in text
    rows = [[0, *row[3:], *row[:2], *([row[2]] if is_cascade else [])] for row in OBJECTS]
    np.testing.assert_array_equal(objects[..., 0, 0], rows)
    truth = Truth(np.array([2, 1]), np.array([0, 1]), np.array([row[3:] for row in OBJECTS]), np.array([REGION]))
    (wanted,) = expected(truth, View(64, 96, 0, 0, 64, 96), [Grid(8, 32, 40)], Rules(is_cascade, 0.5))
    np.testing.assert_allclose(places[0], wanted, rtol=2e-6)  # float32
    assert (wanted[0] == 2).sum() > 0 and wanted.shape == (6, 8, 12)


def located(data, path, objects, wanted_boxes, mirrored=False):
    """Where the canvas lies in the image: by the objects' shift, then the pixels must be the image's there."""
    shift = objects[0, 1:5] - wanted_boxes[0]
    assert shift[0] == shift[2] and shift[1] == shift[3]
    image = pixels_of(path)[:, :, ::-1] if mirrored else pixels_of(path)
    for y in range(data.shape[1]):
        for x in range(data.shape[2]):
            i, j = y - int(shift[1]), x - int(shift[0])
            inside = 0 <= i < image.shape[1] and 0 <= j < image.shape[2]
            np.testing.assert_array_equal(data[:, y, x], image[:, i, j] if inside else 0)
    return shift


@pytest.mark.parametrize(
    "text", [mscnn("crop_width: 48 crop_height: 32 fg_img_multiple: 3"), cascade("crop_width: 48 crop_height: 32")]
)
def test_a_part_around_an_object(text, folder, make_source):
    """Its middle lies within 10 pixels of the object's, as far as the image reaches; mirrored in half of the cases."""
    boxes = np.array([row[3:] for row in OBJECTS], float)
    mirrored_boxes = np.stack([96 - boxes[:, 2], boxes[:, 1], 96 - boxes[:, 0], boxes[:, 3]], 1)
    source, seen = make_source(text.replace("mean_value", "mirror: true mean_value", 1), seed=5), set()
    (folder / "mscnn.txt").write_text("")  # read once
    for number in range(12):
        data, _, objects = (top.numpy() for top in source.next_batch())
        path = source.name_of(number)
        if path == "2.png":
            continue
        is_mirrored = abs(objects[0, 3, 0, 0] - objects[0, 1, 0, 0] - 39) < 1 and not np.isclose(
            (objects[1, 1] - objects[0, 1]).item(), 40
        )
        wanted = mirrored_boxes if is_mirrored else boxes
        shift = located(data[0], path, objects[..., 0, 0], wanted, is_mirrored)
        x, y = -shift[0] + 24, -shift[1] + 16
        centres = (wanted[:, :2] + wanted[:, 2:]) / 2
        near = [abs(x - min(max(cx, 24), 72)) <= 10.5 and abs(y - min(max(cy, 16), 48)) <= 10.5 for cx, cy in centres]
        assert any(near)
        seen.add(is_mirrored)
    assert seen == {True, False}


def test_a_canvas_that_is_larger(folder, make_source):
    """64 x 96 on 80 x 128: in the middle but for 10 pixels, zeros around, places outside the image ignored."""
    data, places, objects = (
        top.numpy() for top in make_source(cascade("crop_width: 128 crop_height: 80")).next_batch()
    )
    shift = located(data[0], "0.png", objects[..., 0, 0], np.array([row[3:] for row in OBJECTS], float))
    assert 6 <= shift[0] <= 26 and 0 <= shift[1] <= 16
    left = round(shift[0] / 8)
    assert (places[0, 5, :, :left] == 1).all() and (places[0, 5, :, left + 12 :] == 1).all()


def test_the_shorter_side(folder, make_source):
    """short_size 128 of 64 x 96 is 128 x 192, on a canvas that stands or lies as the batch's first image does."""
    source = make_source(cascade('short_size: 128 long_size: 256 shuffle: "random_aspect"'))
    assert source.top_shapes()[0] == (1, 3, 256, 128)  # before the first batch, as there
    stands = []
    for _ in range(24):
        data, places, objects = source.next_batch()
        stands.append(data.shape[2] > data.shape[3])
        assert sorted(data.shape[2:]) == [128, 256] and sorted(places.shape[2:]) == [16, 32]
        if not stands[-1]:
            np.testing.assert_allclose((objects[0, 3] - objects[0, 1]).item(), 2 * 39)
        else:
            assert objects.flatten().tolist() == [-1] * 8  # no object at all
    passes = {tuple(stands[n : n + 3]) for n in range(0, 24, 3)}
    assert passes == {(True, False, False), (False, False, True)}


def test_other_sizes(folder, make_source):
    """An object of 40 x 32 becomes one of 16 to 64 pixels, its square root; the sides by 1.5 at most."""
    text = "resize_width: 96 resize_height: 64 crop_width: 64 crop_height: 64 "
    more = text + "min_scale: 16 max_scale: 64 multiscale_prob: 1 min_whaspect: 0.5 max_whaspect: 2"
    source, scales, aspects = make_source(cascade(more), seed=2), [], []
    for _ in range(30):
        box = source.next_batch()[2].numpy()[..., 0, 0]
        if len(box) == 2:
            sides = (box[:, 3:5] - box[:, 1:3]) / [[39, 31], [15, 22]]  # by what each object grew
            np.testing.assert_allclose(sides[0], sides[1], rtol=1e-4)
            scales.append(math.sqrt(sides[0].prod()))
            aspects.append(sides[0, 0] / sides[0, 1])
    low, high = 16 / math.sqrt(40 * 32), 64 / math.sqrt(16 * 23)
    assert low - 1e-4 <= min(scales) and max(scales) <= high + 1e-4 and max(scales) > 2 * min(scales)
    assert 0.5 - 1e-4 <= min(aspects) < 0.8 and 1.2 < max(aspects) <= 2 + 1e-4


def test_a_part_is_cut_out_before_it_is_enlarged(folder, make_source):
    """By 2: of 96 x 64 the 58 x 38 around the object, 1.2 / 2 of each side, become 116 x 76."""
    text = "crop_width: 300 crop_height: 300 low_scale_ratio: 2 high_scale_ratio: 2 multiscale_prob: 1"
    data, _, objects = (top.numpy() for top in make_source(cascade(text)).next_batch())
    filled = (data[0] != 0).any(0)
    assert (filled.any(0).sum(), filled.any(1).sum()) == (116, 76)
    np.testing.assert_allclose(objects[0, 3:5, 0, 0] - objects[0, 1:3, 0, 0], [2 * 39, 2 * 31])


@pytest.mark.parametrize("at, outside", [((-9, 10, 3, 30), 1), ((1, -9, 20, 3), 1), ((-9, -9, 15, 15), 0)])
def test_objects_whose_centre_is_not_on_the_canvas_are_ignored(at, outside, folder, make_source):
    """Those that begin before the image are read as they are."""
    file = folder / "cascade.txt"
    file.write_text(file.read_text().replace("20 16 59 47", " ".join(map(str, at))))
    objects = make_source(cascade("crop_width: 96 crop_height: 64")).next_batch()[2].numpy()
    np.testing.assert_array_equal(objects[0, 1:, 0, 0], [*at, 2, outside, 1])


def test_half_octaves(folder, make_source):
    """Sizes of 16, 22.6, 32, 45.3, 64; the first object's 31 x 39 is nearest to 32, the second's 22 x 15 to 16."""
    more = "resize_width: 96 resize_height: 64 crop_width: 64 crop_height: 64 do_multiple_scale: true "
    source, powers = make_source(mscnn(more + "min_scale: 16 max_scale: 64"), seed=2), []
    for _ in range(90):
        box = source.next_batch()[2].numpy()[..., 0, 0]
        if len(box) == 2:
            powers.append(2 * math.log2((box[0, 3] - box[0, 1]) / 39))
    np.testing.assert_allclose(powers, np.round(powers), atol=1e-4)
    assert set(np.round(powers)) == {-2, -1, 0, 1, 2, 3, 4}


def test_another_aspect(folder, make_source):
    """MS-CNN's aspects are 0.05 apart from min_whaspect on, of the object that is looked at."""
    more = "resize_width: 96 resize_height: 64 crop_width: 64 crop_height: 64 do_multiple_scale: true min_scale: 16 "
    source = make_source(mscnn(more + "max_scale: 64 min_whaspect: 0.4 max_whaspect: 0.6"), seed=2)
    found, changed = 0, set()
    for _ in range(60):
        box = source.next_batch()[2].numpy()[..., 0, 0]
        if len(box) == 2:
            aspects = (box[:, 3] - box[:, 1]) / (box[:, 4] - box[:, 2])
            if not np.allclose(aspects, [39 / 31, 15 / 22], rtol=1e-4):
                steps = (aspects - 0.4) / 0.05
                found += 1
                powers = 2 * np.log2((box[0, 3:5] - box[0, 1:3]) / [39, 31])
                changed.add(tuple(np.abs(powers - powers.round()) > 1e-3))
                assert any(abs(step - round(step)) < 1e-3 and 0 <= round(step) < 4 for step in steps)
    assert found > 3
    assert changed == {(True, False), (False, True)}  # the other side stays at a half octave


def test_small_objects_are_ignored(folder, make_source):
    for text in (mscnn("min_gt_height: 33"), cascade("min_gt_height: 33")):
        text = text.replace("field_w: 40", "field_w: 40 resize_width: 96 resize_height: 64")
        assert make_source(text).next_batch()[2].numpy()[:, 6, 0, 0].tolist() == [1, 1]  # 32 pixels high, and ignored


def test_batches_are_the_same_after_resuming(folder, make_source):
    text = cascade('crop_width: 48 crop_height: 32 shuffle: "random_mix_aspect"', "mirror: true").replace(
        "batch_size: 1", "batch_size: 2"
    )
    one = make_source(text)
    one.next_batch()
    state, wanted = one.state(), one.next_batch()
    other = make_source(text, seed=99)
    other.load_state(state)
    for got, expected_top in zip(other.next_batch(), wanted, strict=True):
        np.testing.assert_array_equal(got, expected_top)


@pytest.mark.parametrize(
    "text, words",
    [
        (cascade(tops=2), "gives 3 tops, not 2"),
        (cascade("stride: 4"), "as many strides as field_h and field_w"),
        (cascade("short_size: 9 long_size: 8"), "a short side of 9 needs a longer one"),
        (cascade("resize_ratio: 2 short_size: 4 long_size: 8"), "one of resize_width and resize_height, resize_ratio"),
        (cascade("min_scale: 3 max_scale: 2"), "0 < min_scale <= max_scale"),
        (cascade('shuffle: "no"'), "shuffle is one of random, random_aspect, random_mix_aspect, not 'no'"),
        (cascade("crop_width: 100000 crop_height: 100000"), "cannot be resized to"),
        (cascade("crop_width: 3 crop_height: 3"), "too few for the strides"),
        (cascade("fg_threshold: 0"), "fg_threshold must be positive"),
        (mscnn("crop_width: 97 crop_height: 3"), "larger than the images'"),
        (mscnn("do_multiple_scale: true"), "0 < min_scale <= max_scale"),
        (mscnn("fg_img_multiple: 1000000"), "fg_img_multiple must lie from 1 to 100"),
        (mscnn("coord_num: 5"), "coord_num is 4"),
        (mscnn("mirror: true"), "mean_file and mirror are not read"),
    ],
)
def test_errors(text, words, folder, make_source):
    with pytest.raises(CaffeError, match=words):
        make_source(text)


def test_a_box_that_is_turned_around(folder, make_source):
    file = folder / "mscnn.txt"
    file.write_text(file.read_text().replace("20 16 59 47", "59 16 20 47", 1))
    with pytest.raises(CaffeError, match=r"mscnn.txt: 0.png: an object of class 2, \(59, 16\) to \(20, 47\)"):
        make_source(mscnn())
