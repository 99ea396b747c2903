"""MultiBoxLoss of SSD: which prior answers for which object, and what that costs (Liu et al., 2016)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import exactly, register
from pysolver.layers.forks import boxes
from pysolver.layers.forks.boxes import Match, Priors
from pysolver.layers.forks.detection import check_predictions
from pysolver.layers.losses import Loss, normalisation_mode, passing
from pysolver.logs import notices
from pysolver.proto import caffe_pb2

_P = caffe_pb2.MultiBoxLossParameter


class Objects(NamedTuple):
    """The objects of one image."""

    labels: Tensor  # (G)
    corners: Tensor  # (G, 4)


class Positives(NamedTuple):
    """M pairs of a prior and its object in one image: what location loss is about."""

    priors: Tensor  # (M)
    slots: Tensor  # (M): which location class predicts
    targets: Tensor  # (M, 4): the object's code
    factors: Tensor  # (M, 4): times the prediction, to compare
    counted: Tensor  # (M, 4): 1, or 0 for a coordinate that costs nothing

    def where(self, keep: Tensor) -> Positives:
        """Those whose prior is in the mask (P)."""
        return Positives(*(part[keep[self.priors]] for part in self))


class Answer(NamedTuple):
    """What one image contributes to the loss."""

    classes: Tensor  # (P): the class every prior should predict
    counted: Tensor  # (P): whether it counts
    positives: Positives


@register("MultiBoxLoss")
class MultiBoxLoss(Loss):
    """(loc_weight * location loss + confidence loss) / normaliser (multibox_loss_layer.cpp).

    Bottoms: locations (N, P 4), or (N, P classes 4) without share_location; scores (N, P classes); priors of
    PriorBox; objects (1, 1, G, 8): image, label, instance, xmin, ymin, xmax, ymax, difficult.
    Priors (or, without use_prior_for_matching, the decoded predictions) are matched to objects. Location loss:
    smooth L1, or half the squares (L2), of predictions minus encoded objects over all matches. Confidence loss:
    softmax or logistic over the matched priors, and, by mining_type, over all others (NONE), or over the
    neg_pos_ratio times as many worst ones with an overlap below neg_overlap (MAX_NEGATIVE); HARD_EXAMPLE takes the
    sample_size worst of all. Images without objects count only under NONE. Normaliser: VALID the matches, BATCH_SIZE
    N, FULL N P, at least 1.
    Errors: num_classes missing; predictions that do not match the priors; mining without share_location; an object
    of the background's or of no class.
    """

    bottoms = exactly(4)
    no_gradient_bottoms = frozenset({2, 3})
    deviations = "LOGISTIC: every prior without an object has the background as target, under NONE too"

    def set_up(self, locations: Shape, scores: Shape, priors: Shape, truth: Shape) -> None:
        p = self.p = self.param.multibox_loss_param
        self.check(p.HasField("num_classes") and p.num_classes >= 1, "Must provide num_classes, at least 1.")
        self.mines = p.mining_type != _P.NONE
        self.check(
            not p.HasField("do_neg_mining") or p.do_neg_mining == self.mines,
            "do_neg_mining is deprecated and contradicts mining_type",
        )
        self.check(
            not self.mines or p.share_location, "Currently only support negative mining if share_location is true."
        )
        self.softmax = p.conf_loss_type == _P.SOFTMAX
        self.check(
            not self.softmax or p.background_label_id < p.num_classes,
            "background_label_id should be within [0, num_classes) for Softmax.",
        )
        self.mode = normalisation_mode(self, caffe_pb2.LossParameter.VALID)
        self.slots = 1 if p.share_location else p.num_classes
        if not self.param.propagate_down:  # saved with the net
            self.param.propagate_down.extend([True, True, False, False])
        location = "smooth_L1_loc" if p.loc_loss_type == _P.SMOOTH_L1 else "l2_loc"
        for inner in (location, *(["softmax_conf"] * 2 if self.softmax else ["logistic_conf"])):
            self.context.emit(notices.MakingLayer(f"{self.name}_{inner}"))

    def top_shapes(self, locations: Shape, scores: Shape, priors: Shape, truth: Shape) -> list[Shape]:
        check_predictions(self, locations, scores, priors, self.p.num_classes, self.slots)
        if self._object_count(truth) * 8 > math.prod(truth):
            self.fail(f"needs objects (1, 1, G, 8), not {list(truth)}")
        return [()]

    @staticmethod
    def _object_count(truth: Shape) -> int:
        """Caffe takes the third axis for the number of objects, whatever the others are."""
        return truth[2] if len(truth) > 2 else 1

    def forward(self, locations: Tensor, scores: Tensor, priors: Tensor, truth: Tensor) -> Tensor:
        corners, variances = priors.detach().cpu().reshape(2, -1, 4)
        known = Priors(corners, variances, self.p.code_type, self.p.encode_variance_in_target)
        items, count = len(locations), len(known.corners)
        locations = locations.reshape(items, count, self.slots, 4)
        costs = self._costs(scores.reshape(items, count, self.p.num_classes))
        rows = truth.detach().cpu().flatten()[: 8 * self._object_count(tuple(truth.shape))].reshape(-1, 8)
        objects = self._objects(rows, items)
        loss, matches = scores.new_zeros(()), 0
        for i in range(items):
            answer = self._answer(objects[i], locations[i].detach().cpu(), costs[i].detach().cpu(), known)
            classes, counted = answer.classes.to(scores.device), answer.counted.to(scores.device)
            loss = loss + costs[i].gather(1, classes.unsqueeze(1))[counted].sum()
            loss = loss + self.p.loc_weight * self._location_losses(locations[i], answer.positives).sum()
            matches += len(answer.positives.priors)
        p = caffe_pb2.LossParameter
        divisors: dict[int, int] = {p.FULL: items * count, p.VALID: matches, p.BATCH_SIZE: items, p.NONE: 1}
        return loss / max(1, divisors[self.mode])

    def _objects(self, rows: Tensor, items: int) -> list[Objects]:
        """The objects of each image; rows of image -1 are filling."""
        p = self.p
        rows = rows[rows[:, 0].long() != -1]
        for label in rows[:, 1].long().unique().tolist():
            if label == p.background_label_id or not 0 <= label < p.num_classes:
                self.fail(f"object label {label} is the background's or outside [0, {p.num_classes})")
        if not p.use_difficult_gt:
            rows = rows[rows[:, 7] == 0]
        if p.map_object_to_agnostic:
            rows = rows.index_fill(1, torch.tensor([1]), p.background_label_id + 1)
        by_image = [rows[rows[:, 0].long() == image] for image in range(items)]
        return [Objects(own[:, 1].long(), own[:, 3:7]) for own in by_image]

    def _costs(self, scores: Tensor) -> Tensor:
        """(N, P, classes): what each prior would cost if its target were that class."""
        if self.softmax:
            return -F.log_softmax(scores, 2)
        return F.softplus(scores).sum(2, keepdim=True) - scores

    def _answer(self, objects: Objects, predictions: Tensor, costs: Tensor, priors: Priors) -> Answer:
        """What counts in one image. predictions (P, slots, 4), costs (P, classes)."""
        classes = torch.full((len(costs),), self.p.background_label_id)
        counted = torch.full((len(costs),), not self.mines)
        found = []
        for slot, match in self._matches(objects, predictions, priors).items():
            positive = match.objects > boxes.UNMATCHED
            classes[positive] = objects.labels[match.objects[positive]]
            positives = self._positives(slot, match, positive, objects, predictions, priors)
            if self.mines:
                cost = costs.gather(1, classes.unsqueeze(1)).squeeze(1)
                positive, negative = self._mine(match, positives, cost, predictions, priors)
                positives, counted = positives.where(positive), positive | negative
            found.append(positives)
        if not found:
            nobody = torch.zeros(0, dtype=torch.long)
            found.append(Positives(nobody, nobody, *[priors.corners[:0]] * 3))
        return Answer(classes, counted, Positives(*(torch.cat(parts) for parts in zip(*found, strict=True))))

    def _matches(self, objects: Objects, predictions: Tensor, priors: Priors) -> dict[int, Match]:
        """Location slot (0, or the class without share_location) -> match of every prior. Empty without objects."""
        p = self.p
        rule = (p.overlap_threshold, p.match_type == _P.PER_PREDICTION, p.ignore_cross_boundary_bbox)
        matches = {}
        for slot in range(self.slots) if len(objects.labels) else ():
            if not p.share_location and slot == p.background_label_id:
                continue
            mine = objects.labels == slot if not p.share_location else torch.ones_like(objects.labels, dtype=torch.bool)
            if p.use_prior_for_matching:
                match = boxes.match(priors.corners, objects.corners, *rule)
                others = (match.objects > boxes.UNMATCHED) & ~mine[match.objects.clamp(min=0)]
                match.objects[others] = boxes.UNMATCHED
            else:
                match = boxes.match(priors.decode(predictions[:, slot]), objects.corners[mine], *rule)
                taken = match.objects > boxes.UNMATCHED
                match.objects[taken] = mine.nonzero().flatten()[match.objects[taken]]
            matches[slot] = match
        return matches

    def _positives(
        self, slot: int, match: Match, positive: Tensor, objects: Objects, predictions: Tensor, priors: Priors
    ) -> Positives:
        index = positive.nonzero().flatten()
        near = priors.at(index)
        target = near.encode(objects.corners[match.objects[index]])
        counted = torch.ones_like(target)
        if self.p.bp_inside:
            where = near.corners if self.p.use_prior_for_matching else near.decode(predictions[index, slot])
            counted = ((where >= 0) & (where <= 1)).to(target.dtype)
        return Positives(index, torch.full_like(index, slot), target, near.factors, counted)

    def _mine(
        self, match: Match, positives: Positives, cost: Tensor, predictions: Tensor, priors: Priors
    ) -> tuple[Tensor, Tensor]:
        """Masks (P) of the positive and the negative priors that count (MineHardExamples)."""
        p, positive = self.p, match.objects > boxes.UNMATCHED
        unmatched = match.objects == boxes.UNMATCHED
        if p.mining_type == _P.HARD_EXAMPLE:
            cost = cost.index_add(0, positives.priors, self._location_losses(predictions, positives).sum(1))
            eligible, count = torch.arange(len(cost)), p.sample_size
        else:
            eligible = (unmatched & (match.overlaps < p.neg_overlap)).nonzero().flatten()
            count = int(int(positive.sum()) * p.neg_pos_ratio)
        order = cost[eligible].argsort(descending=True, stable=True)
        if p.HasField("nms_param") and p.nms_param.nms_threshold > 0:
            found = (priors.corners if p.use_prior_for_nms else priors.decode(predictions[:, 0]))[eligible]
            order = boxes.suppress(found, cost[eligible], p.nms_param.nms_threshold, p.nms_param.top_k or -1)
        selected = torch.zeros_like(unmatched)
        selected[eligible[order[:count]]] = True
        return positive & selected if p.mining_type == _P.HARD_EXAMPLE else positive, unmatched & selected

    def _location_losses(self, predictions: Tensor, positives: Positives) -> Tensor:
        """(M, 4): what each coordinate costs. The gradient leaves the factors out, as Caffe's does."""
        priors, slots, targets, factors, counted = (part.to(predictions.device) for part in positives)
        chosen = predictions[priors, slots]
        difference = (passing(chosen * factors, chosen) - targets) * counted
        if self.p.loc_loss_type == _P.SMOOTH_L1:
            return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        return difference.square() / 2
