"""Which loss a client trains on: named by what it called, and held against the gradient at the logits.

The name alone can mislead: a second term, a weight by example or a mask does not show in it. The slope of
the loss in the logits does show them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fl_audit.core.losses import CROSS_ENTROPY, known_loss, words_of
from fl_audit.federation._calls import Call
from fl_audit.federation._losses import SeenLoss
from fl_audit.models.app_model import OneLogit, two_logits

CLOSE = 2e-3
"""Relative distance at which two slopes are the same."""

CLOSE_IN_HALF = 0.02
"""The same for logits in half precision: bfloat16 rounds by 0.004."""


NO_CLASSES = "of targets that are not one class for each image"
"""How the words for a loss end whose targets are numbers, images, masks or several classes at once."""


def one_logit(call: Call) -> OneLogit | None:
    """Whether the model has a single output for two classes, and of which kind."""
    loss, out = call.loss, call.logits
    if loss is None or out is None or out.values is None or out.shape[1:] not in ((), (1,)):
        return None
    if loss.name == "binary_cross_entropy_with_logits":
        return "logit"
    if loss.name == "binary_cross_entropy":
        return "probability" if loss.given.data_ptr() == out.pointer else "logit"
    return None


def loss_of(calls: Sequence[Call]) -> str | None:
    """The loss of one step: as `known_loss` reads it, or in words where it is none of those; None: unseen."""
    seen = calls[0].loss
    if seen is None:
        return _own(calls)
    if seen.labels() is None:
        return f"{seen.words} {NO_CLASSES}"
    texts = list(_texts(calls[0], seen))
    slopes, close = _slopes(calls), _close(calls)
    if not texts or slopes is None:
        return texts[0] if texts and seen.settings.get("reduction", "mean") != "none" else seen.words
    logits, labels, found = slopes
    alike = []
    for text in texts:
        far, scale = _distance(text, logits, labels, found)
        if far < close:
            if abs(scale - 1) < close:
                return text
            alike.append(text)
    if alike:  # only scaled, e.g. for gradients in half precision
        return alike[0]
    return f"{seen.words} with more to it: the gradient at the logits is not that of this loss alone"


def _close(calls: Sequence[Call]) -> float:
    kept = [call.logits.values for call in calls if call.logits is not None]
    single = all(values is not None and values.dtype in (torch.float32, torch.float64) for values in kept)
    return CLOSE if single else CLOSE_IN_HALF


def _own(calls: Sequence[Call]) -> str | None:
    """A loss that is written out in the app: cross-entropy, or none that is known."""
    slopes = _slopes(calls)
    if slopes is None:
        return None
    far, scale = _distance(CROSS_ENTROPY, *slopes)
    if max(far, abs(scale - 1)) < _close(calls):
        return CROSS_ENTROPY
    return "written by the app itself, and not cross-entropy by its gradient at the logits"


def _texts(call: Call, seen: SeenLoss) -> Iterator[str]:
    """What it can be, likeliest first."""
    told = dict(seen.settings)
    reduction = told.pop("reduction", "mean")
    # Sums are divided by hand and means multiplied: the scale of the slopes tells which it was in the end.
    reductions = tuple(dict.fromkeys((*(() if reduction == "none" else (reduction,)), "mean", "sum")))
    weight = _listed(told.get("weight"))
    if seen.name in ("cross_entropy", "nll_loss"):
        smoothing = float(told.get("label_smoothing", 0.0))
        for how in (*reductions, "batchmean") if weight else reductions:
            yield words_of(CROSS_ENTROPY, label_smoothing=smoothing, weight=weight, reduction=how)
    elif one_logit(call) is not None:
        more = _listed(told.get("pos_weight"))
        for how in reductions:
            batch = "batchmean" if how == "mean" else how
            plain = more is None
            weights = None if more is None else [1.0, more[0]]
            if weight is None:
                yield words_of(CROSS_ENTROPY, weight=weights, reduction=how if plain else batch)
    elif seen.name.startswith("binary_cross_entropy"):
        for how in reductions:
            yield words_of(
                "binary-cross-entropy",
                weight=weight,
                pos_weight=_listed(told.get("pos_weight")),
                reduction=how,
            )
    elif seen.name == "mse_loss":
        for of in ("logits", "softmax", "sigmoid"):
            for how in reductions:
                yield words_of("squared-error", of=of, reduction=how)
    elif seen.name == "multi_margin_loss" and weight is None:
        for how in reductions:
            yield words_of("multi-margin", reduction=how)


def _listed(value: Any) -> list[float] | None:
    if not isinstance(value, Tensor):
        return None
    return [float(f"{number:.7g}") for number in value.detach().cpu().flatten().tolist()]


def _slopes(calls: Sequence[Call]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Logits ``(N, K)``, labels and the slope in the logits of all calls of a step, if all are known."""
    logits, labels, slopes = [], [], []
    for call in calls:
        out = call.logits
        if out is None or out.values is None or out.slope is None or call.labels is None:
            return None
        values, slope = out.values.cpu().float(), out.slope.cpu().float()
        kind = one_logit(call)
        if kind is not None:
            # By the chain rule in reverse: only the second of the two logits moves.
            values = two_logits(values, kind)
            slope = slope.flatten()
            if kind == "probability":
                chance = values[:, 1].exp()
                slope = slope * chance * (1 - chance)  # in the logit
                values = torch.stack([torch.zeros_like(slope), values[:, 1] - values[:, 0]], 1)
            slope = torch.stack([-slope, slope], 1)
        if values.ndim != 2:
            return None
        logits.append(values)
        labels.append(call.labels)
        slopes.append(slope)
    if len({values.shape[1] for values in logits}) > 1 or int(torch.cat(labels).max()) >= logits[0].shape[1]:
        return None
    return torch.cat(logits), torch.cat(labels), torch.cat(slopes)


def _distance(text: str, logits: Tensor, labels: Tensor, slopes: Tensor) -> tuple[float, float]:
    """How far ``slopes`` are from a multiple of those of the loss, and that multiple."""
    loss = known_loss(text)
    if loss is None:
        return float("inf"), 0.0
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        try:
            (own,) = torch.autograd.grad(loss(leaf, labels), leaf)
        except (RuntimeError, IndexError, ValueError):
            return float("inf"), 0.0
    own, slopes = _through_log_softmax(own, logits), _through_log_softmax(slopes, logits)
    size = float(own.square().sum())
    scale = float((own * slopes).sum()) / size if size else 0.0
    total = float(slopes.norm())
    return (float((slopes - scale * own).norm()) / total if total else float("inf")), scale


def _through_log_softmax(slopes: Tensor, logits: Tensor) -> Tensor:
    """Slopes before a log-softmax that the model ends in, where they are comparable; else as they are."""
    if float(logits.logsumexp(1).abs().max()) > CLOSE_IN_HALF:
        return slopes
    return slopes - logits.exp() * slopes.sum(1, keepdim=True)
