"""SSD300, a detector."""

from __future__ import annotations

from pieces import TEST, TRAIN, conv, inputs, max_pool, vgg_body

from pysolver.proto.net_spec import NetSpec, Top
from pysolver.proto.net_spec import layers as L
from pysolver.proto.net_spec import params as P

# source, its channels' norm, ratios, smallest and largest size in pixels of 300, pixels from place to place
SSD_SOURCES = [
    ("conv4_3_norm", [2], 30, 60, 8),
    ("relu7", [2, 3], 60, 111, 16),
    ("conv6_2_relu", [2, 3], 111, 162, 32),
    ("conv7_2_relu", [2, 3], 162, 213, 64),
    ("conv8_2_relu", [2], 213, 264, 100),
    ("conv9_2_relu", [2], 264, 315, 300),
]


def ssd_heads(n: NetSpec, classes: int) -> tuple[Top, Top, Top]:
    """Locations, scores and priors of all sources, side by side."""
    parts: dict[str, list[Top]] = {"loc": [], "conf": [], "priorbox": []}
    for source, ratios, smallest, largest, step in SSD_SOURCES:
        name = source.removesuffix("_relu").replace("relu7", "fc7")
        boxes = 2 + 2 * len(ratios)
        for kind, outputs in (("loc", 4 * boxes), ("conf", classes * boxes)):
            head = conv(n, f"{name}_mbox_{kind}", n[source], outputs, 3, pad=1)
            n[f"{name}_mbox_{kind}_perm"] = L.Permute(head, order=[0, 2, 3, 1])
            n[f"{name}_mbox_{kind}_flat"] = L.Flatten(n[f"{name}_mbox_{kind}_perm"])
            parts[kind].append(n[f"{name}_mbox_{kind}_flat"])
        n[f"{name}_mbox_priorbox"] = L.PriorBox(
            n[source],
            n.data,
            min_size=smallest,
            max_size=largest,
            aspect_ratio=ratios,
            flip=True,
            clip=False,
            variance=[0.1, 0.1, 0.2, 0.2],
            step=step,
            offset=0.5,
        )
        parts["priorbox"].append(n[f"{name}_mbox_priorbox"])
    for kind, tops in parts.items():
        n[f"mbox_{kind}"] = L.Concat(*tops, axis=2 if kind == "priorbox" else 1)
    return n.mbox_loc, n.mbox_conf, n.mbox_priorbox


def ssd300() -> NetSpec:
    """Liu et al., 2016, for the 20 classes of PASCAL VOC. label: rows of objects, as MultiBoxLoss takes them."""
    n, classes = NetSpec(), 21
    inputs(n, data=[1, 3, 300, 300], label=[1, 1, 8, 8])
    body = vgg_body(n)
    scale = {"type": "constant", "value": 20}
    # named, since a fork has a field normalize_param too
    n.conv4_3_norm = L.Normalize(
        body["conv4_3"], norm_param={"across_spatial": False, "channel_shared": False, "scale_filler": scale}
    )
    top = max_pool(n, "pool5", body["conv5_3"], 3, 1, 1)
    top = conv(n, "fc6", top, 1024, 3, "relu6", pad=6, dilation=6)
    top = conv(n, "fc7", top, 1024, 1, "relu7")
    for stage, width, pad, stride in ((6, 256, 1, 2), (7, 128, 1, 2), (8, 128, 0, 1), (9, 128, 0, 1)):
        top = conv(n, f"conv{stage}_1", top, width, 1, f"conv{stage}_1_relu")
        top = conv(n, f"conv{stage}_2", top, 2 * width, 3, f"conv{stage}_2_relu", pad=pad, stride=stride)
    locations, scores, priors = ssd_heads(n, classes)
    n.mbox_loss = L.MultiBoxLoss(
        locations,
        scores,
        priors,
        n.label,
        include=TRAIN,
        propagate_down=[True, True, False, False],
        loss_param={"normalization": P.Loss.VALID},
        multibox_loss_param={
            "num_classes": classes,
            "overlap_threshold": 0.5,
            "use_difficult_gt": True,
            "neg_pos_ratio": 3,
            "neg_overlap": 0.5,
            "code_type": P.PriorBox.CENTER_SIZE,
            "mining_type": P.MultiBoxLoss.MAX_NEGATIVE,
        },
    )
    n.mbox_conf_reshape = L.Reshape(scores, shape={"dim": [0, -1, classes]}, include=TEST)
    n.mbox_conf_softmax = L.Softmax(n.mbox_conf_reshape, axis=2, include=TEST)
    n.mbox_conf_flatten = L.Flatten(n.mbox_conf_softmax, include=TEST)
    n.detection_out = L.DetectionOutput(
        locations,
        n.mbox_conf_flatten,
        priors,
        include=TEST,
        detection_output_param={
            "num_classes": classes,
            "nms_param": {"nms_threshold": 0.45, "top_k": 400},
            "code_type": P.PriorBox.CENTER_SIZE,
            "keep_top_k": 200,
            "confidence_threshold": 0.01,
        },
    )
    n.detection_eval = L.DetectionEvaluate(
        n.detection_out,
        n.label,
        include=TEST,
        detection_evaluate_param={"num_classes": classes, "background_label_id": 0, "evaluate_difficult_gt": False},
    )
    return n
