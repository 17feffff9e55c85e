"""Is the model a function of its input alone, are its outputs logits, and do small changes of the input show?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from robustscope.core.types import Finding
from robustscope.geometry import balls
from robustscope.probes import features
from robustscope.probes.bench import Bench, Reading, share
from robustscope.probes.cards import register
from robustscope.probes.doctor_case import Case
from robustscope.probes.doctor_model import (
    check_determinism,
    check_dynamic,
    check_layers,
    check_outputs,
    check_probabilities,
)
from robustscope.probes.features import constant
from robustscope.probes.flags import SAMPLES, Counted

SPREAD = (0.5, 200.0)
"""Largest minus smallest logit, median over samples: the range in which no loss of float32 under- or overflows."""
SAME = 0.05
"""Share of samples whose scores may be bit for bit the same at points around them."""
POINTS = 4
"""Points around each centre."""


def _doctor(bench: Bench, check: Callable[[Case], Finding]) -> Finding:
    """Run a check of the doctor on the first samples, its rows counted."""
    model, few = bench.model, slice(0, SAMPLES)
    case = Case(model.module, bench.x[few], bench.y[few], None, model.mean, model.std, model.bounds)
    if check is not check_layers:
        case.module = Counted(model)
        found = check_outputs(case)
        if found.level == "error":
            return found
    return check(case)


def _told(finding: Finding, figure: float, limit: float, weight: int | None = None) -> Reading:
    passed = None if finding.level == "skipped" else finding.level == "ok"
    return Reading(passed, finding.message, figure, limit, weight=weight, remedy=finding.remedy)


@register(
    "above_guessing",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 3 (report clean accuracy)",
    measures="clean accuracy, against guessing",
    means="a model that guesses has no robustness to speak of: labels, normalisation or weights are wrong",
    remedy="Check label order and normalisation: robustscope doctor.",
    access="decisions",
)
def above_guessing(bench: Bench) -> Reading:
    """Tell clean accuracy from that of guessing, by two standard errors."""
    classes, found = bench.model.classes(bench.x), bench.correct / max(bench.n, 1)
    limit = 1 / classes + 2 * math.sqrt((1 / classes) * (1 - 1 / classes) / max(bench.n, 1))
    text = f"clean accuracy is {share(bench.correct, bench.n)}; guessing among {classes} classes gets {100 / classes:.1f} %"
    if limit >= 1:
        return Reading(None, f"{bench.n} samples are too few to tell {classes} classes from guessing", found, limit)
    return Reading(found > limit, text, found, limit)


@register(
    "deterministic",
    version=1,
    source="Croce & Hein, 2020, AutoAttack's flag of randomised models; Carlini et al., 2019, arXiv:1902.06705, Sec. 5.3",
    measures="largest difference of logits between passes over the same inputs, alone and among others",
    means="the prediction is not a function of the input alone, so that an attack meets another model at each step",
    remedy="Average gradients over draws (EOT) and judge by a fixed set of draws: models.defended.randomised.",
    access="scores",
    vital=True,
    cost=lambda white, facts: (6, 0),
)
def deterministic(bench: Bench) -> Reading:
    """Run five times, and one sample at a time."""
    finding = _doctor(bench, check_determinism)
    figure = max(finding.data.get("difference", 0.0), finding.data.get("alone", 0.0))
    return _told(finding, figure, 1e-4, 3 if finding.data.get("flips", 0.0) > 0.1 else None)


@register(
    "logits_not_probabilities",
    version=1,
    source="Croce & Hein, 2020, AutoAttack's flag of softmax outputs; Carlini & Wagner, 2017, arXiv:1608.04644, Sec. VIII-B",
    measures="whether outputs are probabilities that sum to one",
    means="softmax flattens what the model is sure of to exactly 0 and 1, and its gradient with it",
    remedy="Return the logits.",
    access="scores",
    cost=lambda white, facts: (1, 0),
)
def logits_not_probabilities(bench: Bench) -> Reading:
    """Look for softmax outputs; log-softmax that is not cut keeps every margin, and passes."""
    finding = _doctor(bench, check_probabilities)
    if finding.data.get("kind") == "log-softmax":
        return Reading(True, finding.message, 0.0, 0.5)
    return _told(finding, float(finding.level == "error"), 0.5)


@register(
    "healthy_logits",
    version=1,
    source="Carlini & Wagner, 2017, arXiv:1608.04644 (defensive distillation); Croce & Hein, 2020, arXiv:2003.01690, Sec. 4",
    measures="median over samples of the largest minus the smallest logit",
    means="at this scale cross-entropy rounds to nothing, or to a straight line: losses that depend on scale mislead, and "
    "distillation hides gradients so",
    remedy="Attack with a loss that ignores scale (dlr), or divide the logits by a constant: no prediction changes.",
    access="scores",
    weight=1,
    cost=lambda white, facts: (1, 0),
)
def healthy_logits(bench: Bench) -> Reading:
    """Measure the spread of the logits."""
    logits = bench.model.logits(bench.x).double()
    spread = (logits.amax(1) - logits.amin(1)).median().item()
    text = f"the largest logit exceeds the smallest by {spread:.3g} (median)"
    low, high = SPREAD
    return Reading(low <= spread <= high, text, spread, low if spread < low else high)


@register(
    "autograd_free_forward",
    version=1,
    source="Croce & Hein, 2020, AutoAttack's flag of optimisation at inference; Croce et al., 2022, arXiv:2202.13711",
    measures="calls of autograd inside forward",
    means="the model changes or purifies its input while it predicts; a gradient of the whole seldom passes through that",
    remedy="Attack through that step, or attack the model before it and transfer.",
    access="scores",
    cost=lambda white, facts: (2, 0),
)
def autograd_free_forward(bench: Bench) -> Reading:
    """Watch forward for calls of autograd."""
    finding = _doctor(bench, check_dynamic)
    return _told(finding, float(finding.data.get("calls", 0)), 0.0)


@register(
    "float_layers",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4; this project's doctor",
    measures="quantised, integer and half-precision layers",
    means="such layers have no gradient, or one that rounds to zero",
    remedy="Attack the network before quantisation, and judge by the quantised one.",
)
def float_layers(bench: Bench) -> Reading:
    """Look for layers without gradients of full precision."""
    finding = _doctor(bench, check_layers)
    parts = len(finding.data.get("parts", ()))
    return _told(finding, float(parts), 0.0, 1 if finding.level == "warning" else None)


@register(
    "small_changes_show",
    version=2,
    source="Goodfellow, 2018, arXiv:1804.07870 (staircase); this project",
    measures="share of samples whose scores are bit for bit the same at points a hundredth of epsilon away",
    means="inputs or scores are rounded: an attack that compares scores of near points sees nothing move",
    remedy="Attack through the rounding as if it were the identity (BPDA), or the model without it.",
    access="scores",
    cost=lambda white, facts: (2 * (POINTS + 1) + 2 * features.POINTS, 0),
)
def small_changes_show(bench: Bench) -> Reading:
    """Compare scores at a sample and at corners of a hundredth of its ball, and the same around a random point of the ball."""
    threat, draws = bench.threat, bench.draws.within("small_changes_show")
    radius = (0.01 * threat.radius(bench.x)).reshape(-1, *([1] * (bench.x.dim() - 1)))
    same = torch.ones(len(bench.x), dtype=torch.bool, device=bench.x.device)
    for centre in (bench.x, balls.sample(threat, bench.x, draws, "centre")):
        clean = bench.model.logits(centre)
        for point in range(POINTS):
            signs = draws.normal(f"point/{point}", centre).sign()
            step = radius * signs / balls.length(threat.norm, signs).reshape(radius.shape)
            same &= (bench.model.logits(balls.clip_to_bounds(centre + step, threat.bounds)) == clean).all(1)
    rows = same.nonzero()[:, 0]
    dead = rows[constant(bench, rows)]
    same[dead] = False
    found = same.double().mean().item()
    text = f"scores of {share(int(same.sum()), len(same))} samples do not change at all"
    text += f"; {len(dead)} more lie where all units are dead over the whole ball" * (len(dead) > 0)
    return Reading(found <= SAME or int(same.sum()) <= bench.allowed, text, found, SAME, same)
