"""AnnotatedData and SSD's transformations: boxes stay on what they frame, and the numbers are those of the formulas."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pysolver.component import create
from pysolver.context import Context
from pysolver.data import augmentation, object_boxes
from pysolver.data.database_writer import new_database
from pysolver.data.databases import LMDB
from pysolver.data.object_boxes import Objects
from pysolver.errors import CaffeError
from pysolver.net.net import Net
from pysolver.proto.caffe_pb2 import (
    AnnotatedDatum,
    BatchSampler,
    DistortionParameter,
    EmitConstraint,
    ExpansionParameter,
    LayerParameter,
    NetParameter,
    NoiseParameter,
    ResizeParameter,
)
from pysolver.proto.text import parse_text

GREY, RED = 90, (20, 30, 250)


def _generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def _scene(height=90, width=120, box=(0.25, 0.2, 0.5, 0.6)):
    """A grey image with one red object, and where it is."""
    image = np.full((height, width, 3), GREY, np.uint8)
    x1, y1, x2, y2 = (round(value * side) for value, side in zip(box, (width, height) * 2))
    image[y1:y2, x1:x2] = RED
    corners = np.array([[x1 / width, y1 / height, x2 / width, y2 / height]], np.float32)
    return image, Objects(np.array([3.0]), np.array([0.0]), corners, np.array([0.0]))


def _red(image):
    """The rows and columns that are red, as a box in fractions; image (height, width, 3)."""
    mask = (image[:, :, 2].astype(int) - image[:, :, 0]) > 100
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return np.array([columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height])


# ---- boxes ---------------------------------------------------------------------------------------------------


def test_view_of_objects():
    objects = Objects(
        np.array([1.0, 2, 3]),
        np.array([0.0, 0, 0]),
        np.array([[0.1, 0.1, 0.3, 0.3], [0.4, 0.5, 0.8, 0.9], [0.9, 0.9, 1, 1]], np.float32),
        np.array([0.0, 1, 0]),
    )
    view = np.array([0.2, 0.2, 0.6, 0.7], np.float32)
    seen = object_boxes.seen_in(view, objects, None)
    np.testing.assert_array_equal(seen.labels, [1, 2])
    np.testing.assert_array_equal(seen.difficult, [0, 1])
    np.testing.assert_allclose(seen.corners, [[0, 0, 0.25, 0.2], [0.5, 0.6, 1, 1]], rtol=1e-6)
    centre = object_boxes.seen_in(view, objects, EmitConstraint(emit_type="CENTER"))
    np.testing.assert_array_equal(centre.labels, [1, 2])  # the centres (0.2, 0.2) and (0.6, 0.7) lie on its edges
    covered = object_boxes.seen_in(view, objects, EmitConstraint(emit_type="MIN_OVERLAP", emit_overlap=0.24))
    np.testing.assert_array_equal(covered.labels, [1, 2])  # a quarter of each
    assert (
        len(object_boxes.seen_in(view, objects, EmitConstraint(emit_type="MIN_OVERLAP", emit_overlap=0.26)).labels) == 0
    )


@pytest.mark.parametrize(
    "bounds, least, most",
    [("min_jaccard_overlap: 0.5", 0.5, 1), ("min_jaccard_overlap: 0.1 max_jaccard_overlap: 0.3", 0.1, 0.3)],
)
def test_samples_meet_their_constraint(bounds, least, most):
    sampler = parse_text(
        "max_sample: 20 max_trials: 20000 sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 "
        f"max_aspect_ratio: 2 }} sample_constraint {{ {bounds} }}",
        BatchSampler,
    )
    _, objects = _scene()
    found = object_boxes.sample([sampler], objects, _generator())
    assert len(found) == 20
    (target,) = objects.corners
    for box in found:
        assert (box >= -1e-6).all() and (box <= 1 + 1e-6).all()
        wide, high = box[2:] - box[:2]
        assert 0.3 - 1e-5 <= (wide * high) ** 0.5 <= 1
        assert 0.5 - 1e-4 <= wide / high <= 2 + 1e-4
        shared = np.prod((np.minimum(box[2:], target[2:]) - np.maximum(box[:2], target[:2])).clip(0))
        union = wide * high + np.prod(target[2:] - target[:2]) - shared
        assert least - 1e-5 <= shared / union <= most + 1e-5


def test_a_sampler_without_bounds_takes_what_it_draws():
    sampler = parse_text("max_sample: 1 max_trials: 1", BatchSampler)
    (box,) = object_boxes.sample([sampler], _scene()[1], _generator())
    np.testing.assert_array_equal(box, [0, 0, 1, 1])


# ---- images --------------------------------------------------------------------------------------------------

RESIZE = [
    ("height: 60 width: 60", (60, 60)),
    ("height: 64 width: 48 resize_mode: FIT_SMALL_SIZE", (64, 85)),  # 120 / 90 * 64 = 85.33
    ("height: 48 width: 80 resize_mode: FIT_SMALL_SIZE", (60, 80)),
    ("height: 80 width: 60 resize_mode: FIT_LARGE_SIZE_AND_PAD", (80, 60)),
    ("height: 30 width: 80 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_mode: MIRRORED", (30, 80)),
]


@pytest.mark.parametrize("text, size", RESIZE)
def test_resized_objects_stay_in_their_boxes(text, size):
    param = parse_text(text + " interp_mode: NEAREST", ResizeParameter)
    image, objects = _scene()
    done = augmentation.resize(image, param, _generator())
    assert done.shape == (*size, 3)
    assert object_boxes.resized(image.shape[:2], param) == size
    (box,) = object_boxes.after_resize(objects, image.shape[:2], param).corners
    if "MIRRORED" not in text:  # which repeats the object
        np.testing.assert_allclose(_red(done), box, atol=1.5 / min(size))  # a pixel, and half of one for rounding


def test_padding_has_its_value():
    param = parse_text("height: 80 width: 60 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 7", ResizeParameter)
    done = augmentation.resize(_scene()[0], param, _generator())
    # 60 columns make 45 rows; of the 35 others 17 are above
    assert (done[:17] == 7).all() and (done[62:] == 7).all() and not (done[17:62] == 7).any()


def test_expansion_moves_image_and_box_alike():
    image, objects = _scene()
    param = ExpansionParameter(prob=1, max_expand_ratio=4)
    sizes = set()
    for seed in range(20):
        canvas, view = augmentation.expand(image, param, [104.0, 117.0, 123.0], _generator(seed))
        (box,) = object_boxes.seen_in(view, objects, None).corners
        np.testing.assert_allclose(_red(canvas), box, atol=1e-5)
        assert (canvas == [104, 117, 123]).all(2).sum() == canvas[:, :, 0].size - image[:, :, 0].size
        sizes.add(canvas.shape)
    assert len(sizes) > 15
    same, view = augmentation.expand(image, ExpansionParameter(prob=0, max_expand_ratio=4), [], _generator())
    assert same is image and (view == object_boxes.WHOLE).all()


def test_distortion_by_formula():
    image, _ = _scene()
    brighter = augmentation.distort(image, DistortionParameter(brightness_prob=1, brightness_delta=0), _generator())
    np.testing.assert_array_equal(brighter, image)
    twice = DistortionParameter(contrast_prob=1, contrast_lower=2, contrast_upper=2)
    np.testing.assert_array_equal(augmentation.distort(image, twice, _generator()), np.minimum(image * 2.0, 255))
    grey = DistortionParameter(saturation_prob=1, saturation_lower=0, saturation_upper=0)
    done = augmentation.distort(image, grey, _generator())
    np.testing.assert_array_equal(done, np.broadcast_to(image.max(2, keepdims=True), image.shape))  # HSV's value stays
    order = augmentation.distort(image, DistortionParameter(random_order_prob=1), _generator(1))
    np.testing.assert_array_equal(np.sort(order, 2), np.sort(image, 2))


def test_noise_by_formula():
    image, _ = _scene()

    def after(**fields):
        return augmentation.noise(image, NoiseParameter(**fields), _generator())

    np.testing.assert_array_equal(after(inverse=True), 255 - image)
    np.testing.assert_array_equal(after(posterize=True), image // 64 * 64 + 32)
    grey = np.rint(image @ np.array([0.114, 0.587, 0.299]))
    assert np.abs(after(decolorize=True) - grey[:, :, None]).max() <= 1  # OpenCV rounds its weights to 14 bits
    salted = after(saltpepper=True, saltpepper_param={"fraction": 0.1, "value": [0, 255, 1]})
    changed = (salted == [0, 255, 1]).all(2)
    assert 0.08 < changed.mean() <= 0.1  # some places are drawn twice
    np.testing.assert_array_equal(salted[~changed], image[~changed])


# ---- the source ----------------------------------------------------------------------------------------------


def _record(number, count, kind="png"):
    image, objects = _scene(90 + number, 120, (0.2 + 0.05 * number, 0.3, 0.6 + 0.05 * number, 0.7))
    record = AnnotatedDatum(type="BBOX")
    record.datum.encoded, record.datum.data = True, cv2.imencode(f".{kind}", image)[1].tobytes()
    group = record.annotation_group.add(group_label=number + 1)
    for instance in range(count):
        x1, y1, x2, y2 = objects.corners[0].tolist()
        box = {"xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2, "difficult": instance == 1}
        group.annotation.add(instance_id=instance, bbox=box)
    return record


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "boxes"
    items = [(b"%08d" % i, _record(i, count).SerializeToString()) for i, count in enumerate([1, 2, 0, 1])]
    with new_database(path, LMDB) as writer:
        writer.put(items)
    return path


def _source(database, text="", phase="TRAIN", batch=2, tops=2, **context):
    param = parse_text(
        f'name: "data" type: "AnnotatedData" phase: {phase} data_param {{ source: "{database}" batch_size: {batch} '
        f"backend: LMDB }} {text}",
        LayerParameter,
    )
    param.top.extend(["data", "label"][:tops])
    source = create(param, Context(seed=5, **context))
    source.set_up()
    return source


def test_batches_in_key_order(database):
    source = _source(database, "transform_param { resize_param { height: 30 width: 40 } mean_value: 90 scale: 0.5 }")
    assert source.top_shapes() == [(2, 3, 30, 40), (1, 1, 1, 8)]
    images, labels = source.next_batch()
    assert images.shape == (2, 3, 30, 40)
    assert images[0, :, 0, 0].tolist() == [0, 0, 0]  # grey is the mean
    rows = labels.reshape(-1, 8)
    np.testing.assert_allclose(rows[:, :3], [[0, 1, 0], [1, 2, 0], [1, 2, 1]])
    assert rows[:, 7].tolist() == [0, 0, 1]
    np.testing.assert_allclose(rows[0, 3:7], [24 / 120, 27 / 90, 72 / 120, 63 / 90], rtol=1e-5)
    images, labels = source.next_batch()
    assert labels.reshape(-1, 8)[:, :2].tolist() == [[1, 4]]  # the third image has no object
    source.close()


@pytest.mark.parametrize(("rank", "rows"), [(0, [[0, 1]]), (1, [[0, 2], [0, 2], [1, 4]])])
def test_ranks_read_every_second_record(rank, rows, database):
    """The rows' image and label: the first has records 0 and 2, which has no object, the second 1 and 3."""
    resized = "transform_param { resize_param { height: 30 width: 40 } }"
    source = _source(database, resized, rank=rank, world_size=2)
    assert source.next_batch()[1].reshape(-1, 8)[:, :2].tolist() == rows
    source.close()
    with pytest.raises(CaffeError, match="4 records for 5 processes: each needs one of its own"):
        _source(database, resized, rank=rank, world_size=5)


def test_no_object_at_all_is_a_row_of_minus_one(database):
    source = _source(database, "transform_param { resize_param { height: 30 width: 40 } }", batch=1)
    labels = [source.next_batch()[1] for _ in range(3)][2]
    assert labels.tolist() == [[[[-1] * 8]]]
    source.close()


AUGMENTED = """
    transform_param {
      mirror: true mean_value: 104 mean_value: 117 mean_value: 123
      resize_param { prob: 1 resize_mode: WARP height: 100 width: 100 interp_mode: NEAREST interp_mode: LINEAR }
      emit_constraint { emit_type: CENTER }
      distort_param { brightness_prob: 0.5 brightness_delta: 32 hue_prob: 0.5 hue_delta: 4 }
      expand_param { prob: 0.5 max_expand_ratio: 2 }
    }
    annotated_data_param {
      batch_sampler { max_sample: 1 max_trials: 1 }
      batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
                      sample_constraint { min_jaccard_overlap: 0.3 } max_sample: 1 max_trials: 50 }
    }"""


def test_boxes_frame_their_objects_whatever_is_done_to_the_image(database):
    source, checked = _source(database, AUGMENTED, batch=4), 0
    for _ in range(10):
        images, labels = source.next_batch()
        pixels = (images + torch.tensor([104.0, 117, 123]).reshape(-1, 1, 1)).numpy().transpose(0, 2, 3, 1)
        for number, _, _, *box, _ in labels.reshape(-1, 8).tolist():
            if (labels[0, 0, :, 0] == number).sum() == 1 and min(box[2] - box[0], box[3] - box[1]) > 0.1:
                # 2.5 pixels: rounding to pixels in the crop (one or two before it is enlarged) and in the resizing
                np.testing.assert_allclose(_red(pixels[int(number)]), box, atol=0.025 / 0.4)
                checked += 1
    assert checked > 10
    source.close()


def test_a_resumed_source_goes_on_alike(database):
    one = _source(database, AUGMENTED)
    batches = [one.next_batch() for _ in range(4)]
    two = _source(database, AUGMENTED)
    two.next_batch()
    state = two.state()
    three = _source(database, AUGMENTED)
    three.load_state(state)
    for expected in batches[1:]:
        for a, b in zip(expected, three.next_batch(), strict=True):
            assert torch.equal(a, b)
    for source in (one, two, three):
        source.close()


@pytest.mark.parametrize(
    "text, error",
    [
        ("transform_param { resize_param { height: 30 } }", "resize_param needs a positive height and width"),
        ("annotated_data_param { batch_sampler { sampler { max_scale: 2 } } }", "max_scale <= 1"),
        (
            "transform_param { resize_param { height: 3 width: 3 resize_mode: FIT_SMALL_SIZE } }",
            "batch_size must be 1",
        ),
    ],
)
def test_errors(database, text, error):
    with pytest.raises(CaffeError, match=rf"layer 'data' \(AnnotatedData\): .*{error}"):
        _source(database, text)


def test_a_net_takes_batches_with_any_number_of_objects(database):
    text = f"""
    layer {{ name: "data" type: "AnnotatedData" top: "data" top: "label"
             data_param {{ source: "{database}" batch_size: 1 backend: LMDB }}
             transform_param {{ resize_param {{ height: 20 width: 20 }} }} }}
    layer {{ name: "silence" type: "Silence" bottom: "data" bottom: "label" }}
    """
    param = parse_text(text, NetParameter)
    net = Net(param)
    found = []
    for _ in range(4):
        net.forward()
        found.append(net.blobs["label"].shape[2])
    assert found == [1, 2, 1, 1]
    net.close()


YOLO = """
    transform_param { mean_value: 90 emit_constraint { emit_type: CENTER }
      resize_param { prob: 0.5 height: 96 width: 96 } resize_param { prob: 0.5 height: 48 width: 64 } }
    annotated_data_param { yolo_data_type: 1 yolo_data_jitter: 0.4 }"""


def test_rows_of_yolo(database):
    """The first of four records, whole: label from 0 on, centre and size; and nothing of the difficult ones."""
    text = "transform_param { resize_param { height: 30 width: 40 } } annotated_data_param { yolo_data_type: 1 "
    source = _source(database, text + "yolo_data_jitter: 0 train_diffcult: false }")
    assert source.top_shapes() == [(2, 3, 30, 40), (2, 1, 300, 5)]
    labels = source.next_batch()[1]
    np.testing.assert_allclose(labels[0, 0, 0], [0, 48 / 120, 45 / 90, 48 / 120, 36 / 90], rtol=1e-5)
    assert not labels[0, 0, 1:].any()
    assert labels[1, 0, :2, 0].tolist() == [1, 0]  # its second object is difficult
    assert not labels[1, 0, 1].any()
    source.close()


def test_parts_for_yolo_frame_their_objects(database):
    source, sizes, checked = _source(database, YOLO, batch=4), [], 0
    for _ in range(40):
        images, labels = source.next_batch()
        sizes.append(tuple(images.shape[2:]))
        for image, rows in zip((images.numpy() + 90).transpose(0, 2, 3, 1), labels[:, 0].numpy()):
            rows = rows[rows[:, 3] > 0]
            if len(rows) == 1 and rows[0, 3:].min() > 0.1:
                _, x, y, width, height = rows[0]
                box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
                np.testing.assert_allclose(_red(image), box, atol=0.05)  # 2.5 pixels of 48: rounding, interpolation
                checked += 1
    assert checked > 20
    tens = [set(sizes[i : i + 10]) for i in range(0, 40, 10)]
    assert all(len(ten) == 1 for ten in tens)  # one size for ten batches
    assert set.union(*tens) == {(96, 96), (48, 64)}
    source.close()


@pytest.mark.parametrize("keeps_aspect", [False, True])
def test_jitter(keeps_aspect):
    generator = _generator()
    drawn = np.array([object_boxes.jittered(0.4, keeps_aspect, generator) for _ in range(2000)])
    whole = (drawn == [0, 0, 1, 1]).all(1)
    assert abs(whole.mean() - 0.2) < 0.03  # three standard deviations of 2000 draws
    sides = drawn[:, 2:] - drawn[:, :2]
    assert 0.6 <= sides.min() < 0.61
    assert (drawn >= 0).all()
    assert (drawn <= 1 + 1e-6).all()
    assert np.allclose(sides[:, 0], sides[:, 1], atol=1e-6) == keeps_aspect


def test_odds_of_sizes_that_do_not_add_up(database):
    with pytest.raises(CaffeError, match="the prob of the 2 resize_param must add up to 1, not 1.3"):
        _source(database, YOLO.replace("prob: 0.5 height: 96", "prob: 0.8 height: 96"))


@pytest.mark.parametrize(
    "text, error",
    [
        (
            "transform_param { resize_param { height: 60000 width: 60000 } }",
            "an image cannot be resized to 60000 x 60000",
        ),
        ("transform_param { expand_param { prob: 1 max_expand_ratio: 1e6 } }", "an image cannot be resized to"),
        ("transform_param { expand_param { prob: 1 max_expand_ratio: 0.5 } }", "max_expand_ratio is 0.5: it must be"),
    ],
)
def test_no_more_memory_than_an_image_may_take(database, text, error):
    source = _source(database, text)
    with pytest.raises(CaffeError, match=rf"layer 'data' \(AnnotatedData\): .*{error}"):
        source.next_batch()
    source.close()
