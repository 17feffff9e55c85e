"""From maxima to an estimate: which classes are asked for, what the fit says of each, and what makes it doubtful."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.types import Estimate, ThreatModel
from robustscope.estimates.weibull import Fit, fit
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier, Scores

LEVEL = 0.05
"""Below this p-value a fit is called bad."""
FAR = 2.0
"""A location beyond this many times the largest value is called far."""
ROUNDING = 64
"""Maxima within so many units of rounding of each other are equal."""


@dataclass(frozen=True)
class Question:
    """What is to be estimated: the samples that are classified correctly, and the classes that they could turn into.

    Args:
        rows: int64 (b,), positions of these samples in the batch.
        rivals: int64 (b, C), classes considered.
        margin: float64 (b, C), logit of the true class minus that of each rival, none below 0.
        probabilities: bool (B,), whether the outputs look like probabilities.
    """

    rows: Tensor
    rivals: Tensor
    margin: Tensor
    probabilities: Tensor


def ask(model: Classifier, x: Tensor, y: Tensor, targets: Tensor | None, rivals: int | None) -> Question:
    """Look at the logits of the inputs, one forward row each, and choose the classes to consider.

    Args:
        model: the classifier.
        x: (B, *S).
        y: int64 (B,), true classes.
        targets: int64 (B,), the only class to consider; None considers the others.
        rivals: how many of the others, those of the largest logits; None means all.

    Raises:
        InvalidValue: for fewer than one rival.
    """
    if rivals is not None and rivals < 1:
        raise InvalidValue(
            f"rivals={rivals} was given", "an integer >= 1, or None for all classes, is allowed", "Leave it out."
        )
    logits = model.logits(x)
    others = logits.scatter(1, y[:, None], -torch.inf) if len(y) else logits
    count = logits.shape[1] - 1 if rivals is None else min(rivals, logits.shape[1] - 1)
    chosen = others.topk(count, 1).indices if targets is None else targets[:, None]
    scores = logits.double()
    margin = scores.gather(1, y[:, None]) - scores.gather(1, chosen)
    alive = ~is_adversarial(logits, y, targets) & (margin >= 0).all(1)
    unlike = (logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < 1e-3)
    rows = alive.nonzero()[:, 0]
    return Question(rows, chosen[rows], margin[rows], unlike)


def margins(y: Tensor, rivals: Tensor, owners: Tensor) -> Scores:
    """Return the scores Z_y - Z_j (b, C) of points for the rivals j of the samples that they belong to.

    Args:
        y: int64 (B,), true classes.
        rivals: int64 (B, C).
        owners: int64 (m,), the sample of each point.
    """

    def scores(logits: Tensor, part: Tensor) -> Tensor:
        own = owners[part]
        return logits.gather(1, y[own][:, None]) - logits.gather(1, rivals[own])

    return scores


@dataclass(frozen=True)
class Extrapolation:
    """What the maxima of each sample and class say: every tensor float64 (b, C)."""

    location: Tensor
    fit: Fit
    constant: Tensor
    largest: Tensor


def extrapolate(maxima: Tensor, dtype: torch.dtype, shape_penalty: float) -> Extrapolation:
    """Fit the maxima of each sample and class; where they are all equal, that constant is the exact answer.

    Args:
        maxima: float64 (b, C, N), on any device.
        dtype: in which they were computed; says which differences are rounding.
        shape_penalty: see :func:`robustscope.estimates.weibull.fit`.
    """
    flat = maxima.flatten(0, 1)
    largest, smallest = flat.amax(1), flat.amin(1)
    rounding = ROUNDING * torch.finfo(dtype).eps * flat.abs().amax(1)
    constant = largest - smallest <= rounding
    found = torch.full((5, len(flat)), torch.nan, dtype=torch.float64, device=flat.device)
    varied = ~constant
    if varied.any():
        fitted = fit(flat[varied], shape_penalty)
        parts = (fitted.shape, fitted.location, fitted.scale, fitted.statistic, fitted.p_value)
        found[:, varied] = torch.stack(parts)
    located = torch.where(found[1].isnan(), largest, found[1])
    form = maxima.shape[:2]
    figures = Fit(*(part.view(form) for part in found))
    return Extrapolation(located.view(form), figures, constant.view(form), largest.view(form))


def conclude(
    question: Question,
    threat: ThreatModel,
    x: Tensor,
    maxima: Tensor,
    shares: Tensor,
    shape_penalty: float,
    radius_of: Callable[[Tensor], Tensor],
    rows: tuple[int, int],
) -> Estimate:
    """Return the estimate of each sample: the smallest over its classes, capped at the sampling radius.

    Args:
        question: what was asked.
        threat: norm and sampling radius.
        x: (B, *S).
        maxima: float64 (b, C, N).
        shares: float64 (b, C), share of points that measured exactly 0.
        shape_penalty: see :func:`robustscope.estimates.weibull.fit`.
        radius_of: locations, float64 (b, C) -> radii, float64 (b, C), perhaps infinite.
        rows: rows forward and backward that each correctly classified sample sent; the others sent one forward.
    """
    said = extrapolate(maxima, x.dtype, shape_penalty)
    cap = threat.radius(x.new_empty(len(x), dtype=torch.float64))[question.rows]
    uncapped = radius_of(said.location)
    best = uncapped.argmin(1, keepdim=True)

    def spread(own: Tensor, gap: float | bool) -> Tensor:
        """Put the rows of (b, *T) where they belong, ``gap`` elsewhere: (B, *T)."""
        return own.new_full((len(x), *own.shape[1:]), gap).index_copy(0, question.rows, own)

    def decided(values: Tensor, gap: float = torch.nan) -> Tensor:
        return spread(values.gather(1, best)[:, 0], gap)

    radii = torch.minimum(uncapped, cap[:, None])
    fitted = said.fit
    ordered = maxima.take_along_dim(best[:, :, None], 1)[:, 0]
    flags = {
        "misclassified": spread(torch.ones_like(question.rows), 0) == 0,
        "capped": spread(uncapped.gather(1, best)[:, 0] >= cap, False),
        "zero_gradients": decided(shares) > 0,
        **{code: spread(flag, False) for code, flag in _doubts(said, best, ordered).items()},
        "probabilities": question.probabilities,
    }
    codes = tuple(tuple(code for code, flag in flags.items() if flag[i]) for i in range(len(x)))
    return Estimate(
        radius=decided(radii, 0.0),
        margin=decided(question.margin),
        rival=decided(question.rivals, -1),
        location=decided(said.location),
        shape=decided(fitted.shape),
        scale=decided(fitted.scale),
        statistic=decided(fitted.statistic),
        p_value=decided(fitted.p_value),
        capped=flags["capped"],
        zero_share=decided(shares),
        warnings=codes,
        maxima=spread(ordered, torch.nan),
        rivals=spread(question.rivals, -1),
        radii=spread(radii, 0.0),
        forward=spread(torch.full_like(question.rows, rows[0]), 1),
        backward=spread(torch.full_like(question.rows, rows[1]), 0),
    )


def _doubts(said: Extrapolation, best: Tensor, maxima: Tensor) -> dict[str, Tensor]:
    """Return what makes the fits of the deciding classes doubtful: code -> bool (b,).

    Args:
        said: what was extrapolated, (b, C) each.
        best: int64 (b, 1), the deciding class.
        maxima: float64 (b, N), of that class.
    """
    location, largest, constant, p_value, fitted = (
        part.gather(1, best)[:, 0]
        for part in (said.location, said.largest, said.constant, said.fit.p_value, said.fit.location)
    )
    ordered = maxima.sort(1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).double().mean(1)
    return {
        "constant": constant,
        "ties": (repeated > 0.5) & ~constant,
        "bad_fit": p_value < LEVEL,
        "no_maximum": fitted.isnan() & ~constant,
        "far": location > FAR * largest.clamp(min=0),
    }


def check_counts(batches: int, points: int, shape_penalty: float) -> None:
    """Refuse numbers that no distribution can be fitted to.

    Raises:
        InvalidValue: naming them.
    """
    if batches < 3 or points < 1 or not 0 <= shape_penalty < float("inf"):
        raise InvalidValue(
            f"batches={batches}, points={points} and shape_penalty={shape_penalty} were given",
            "batches >= 3, points >= 1 and a finite shape_penalty >= 0 are allowed",
            "The paper uses 500 batches of 1024 points.",
        )
