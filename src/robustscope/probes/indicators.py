"""The indicators of attack failure of Pintor et al. that need a run of the attack; gradients have a file of their own."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.probes.bench import Bench, Reading, share
from robustscope.probes.budgets import LADDER
from robustscope.probes.cards import register, runs_of
from robustscope.probes.features import POINTS, constant

NEIGHBOURS = 100
RADIUS = 8 / 255
"""Side of the cube, as a share of the width of the bounds, in which neighbours are drawn."""
VARIATION = 0.1
LAST_STEPS, STILL_RISING = 10, 0.05
STANDING = 0.1
"""Share of the survivors that may show an indicator."""
SAME = 1e-6
"""Margins that differ by less, relative to the larger of 1 and their size, are the same."""


@register(
    "stable_predictions",
    version=1,
    source="Pintor et al., 2022, arXiv:2106.09947, indicator 2 (unstable predictions)",
    measures="mean relative change of the margin at a hundred random points around each sample",
    means="the loss is so rough around the samples that a gradient at one point says little of the next",
    remedy="Average gradients over random points around each iterate (EOT), or smooth the layer in the backward pass.",
    access="scores",
    cost=lambda white, facts: (NEIGHBOURS + 1, 0),
)
def stable_predictions(bench: Bench) -> Reading:
    """Measure mean |M(x) - M(x + d)| / |M(x)|, at most 1 each, over points d of a cube of side 8/255, or epsilon if smaller.

    Departures: the margin stands for the attack's loss, which for cross-entropy is next to zero at samples that the
        model is sure of; the cube is no larger than the ball of the threat model.
    """
    x, y, model, bounds = bench.x, bench.y, bench.model, bench.threat.bounds
    side = torch.full_like(bench.threat.radius(x), RADIUS * (bounds.upper - bounds.lower))
    if bench.threat.norm == "linf":
        side = torch.minimum(side, bench.threat.radius(x))
    reach = (side / 2).reshape(-1, *([1] * (x.dim() - 1)))
    clean = margin(model.logits(x), y).double()
    total = torch.zeros_like(clean)
    for point in range(NEIGHBOURS):
        noise = bench.draws.within("stable_predictions").uniform(f"point/{point}", x)
        there = margin(model.logits(balls.clip_to_bounds(x + reach * noise, bounds)), y).double()
        total += ((there - clean).abs() / clean.abs().clamp(min=1e-300)).clamp(max=1.0)
    each = total / NEIGHBOURS
    middle = each.median().item()
    text = (
        f"the margin changes by {100 * middle:.2g} % around the median sample, {100 * each.max().item():.2g} % at most"
    )
    return Reading(middle <= VARIATION, text, middle, VARIATION, each > VARIATION)


@register(
    "no_silent_success",
    version=2,
    source="Pintor et al., 2022, arXiv:2106.09947, indicator 3 (silent success)",
    measures="samples that were adversarial along the way, and are not as they were returned, at epsilon and at a quarter "
    "to four times of it",
    means="the attack found examples and handed back other points: the robust accuracy counts them as robust",
    remedy="Return the best iterate under the rule of success instead of the last one.",
    weight=3,
    cost=lambda white, facts: runs_of(white, 4, 4),
)
def no_silent_success(bench: Bench) -> Reading:
    """Compare the losses along the way with what was returned; a margin loss above 0 is a success.

    An attack that hands back its last point may lose nothing at one radius and something at the next: it is asked at the
    radii of ``larger_ball_breaks_more``, whose runs it shares. A loss at epsilon falsifies the number and weighs 3; a loss
    elsewhere says that the number is right by luck, and weighs 2.
    """
    loss = bench.settings.get("loss")
    if bench.trace is None or loss not in ("margin", "probability_margin"):
        why = "keeps no trace" if bench.trace is None else f"ascends {loss!r}, whose values do not tell success"
        return Reading(None, f"{bench.white[0]} {why}")
    silent = _silent(bench, None)
    text = f"{share(int(silent.sum()), len(silent))} samples were adversarial on the way and returned otherwise"
    lost = {factor: _silent(bench, bench.threat.scaled(factor)) for factor in LADDER if factor != 1}
    counts = [f"{int(one.sum())} at {factor:g} epsilon" for factor, one in lost.items() if one.any()]
    if silent.any() or not counts:
        return Reading(not silent.any(), text, silent.double().mean().item(), 0.0, silent)
    worst = max(lost.values(), key=lambda one: int(one.sum()))
    return Reading(False, f"{text}, but {', '.join(counts)}", worst.double().mean().item(), 0.0, worst, weight=2)


def _silent(bench: Bench, threat: ThreatModel | None) -> Tensor:
    """Tell which samples the gradient attack had broken on its way, and returned unbroken: bool (B,)."""
    run = bench.run(bench.white, threat)
    assert run.trace is not None
    trace = run.trace.nan_to_num(-math.inf)
    # Another batch may round a margin of nothing to the other side.
    passed = trace.amax(1) > SAME * trace[:, 0].abs()
    return passed & ~run.found


@register(
    "complete_optimisation",
    version=1,
    source="Pintor et al., 2022, arXiv:2106.09947, indicator 4 (incomplete optimisation)",
    measures="share of the survivors whose best loss, scaled to [0, 1], still rises by more than 0.05 in the last ten steps",
    means="the attack was stopped while it was still climbing",
    remedy="Give it more steps, or longer ones, until this holds.",
    weight=1,
)
def complete_optimisation(bench: Bench) -> Reading:
    """Look at the end of the losses of the samples that the gradient attack did not break."""
    trace = bench.trace
    if trace is None:
        return Reading(None, f"{bench.white[0]} keeps no trace")
    rows = (~bench.run(bench.white).found).nonzero()[:, 0]
    restarts = int(bench.settings.get("restarts", 1) or 1)
    steps = trace.shape[1] // max(restarts, 1)
    if not len(rows) or steps < 2:
        return Reading(None, "no sample is left" if not len(rows) else f"{steps} losses are too few to see an end")
    rising = torch.zeros(len(trace), dtype=torch.bool, device=trace.device)
    rising[rows] = still_rising(trace[rows][:, :steps]) > STILL_RISING
    found = rising[rows].double().mean().item()
    text = f"{share(int(rising.sum()), len(rows))} survivors were still climbing at the end"
    passed = found <= STANDING or int(rising.sum()) <= bench.allowed
    return Reading(passed, text, found, STANDING, rising)


def still_rising(trace: Tensor) -> Tensor:
    """Return how much the running best of each row still rises over its last ten entries, of its whole rise: (B,).

    Args:
        trace: (B, T), losses; NaN where a sample had left.

    Example:
        >>> still_rising(torch.stack([torch.linspace(0, 1, 41), torch.linspace(0, 1, 41).clamp(max=0.5)]))
        tensor([0.2250, 0.0000])
    """
    best = trace.nan_to_num(-math.inf).cummax(1).values.double()
    low, high = trace.nan_to_num(math.inf).amin(1).double(), best[:, -1]
    before = best[:, -min(LAST_STEPS, best.shape[1])]
    return ((high - before) / (high - low).clamp(min=1e-300)).to(trace.dtype)


@register(
    "examples_transfer",
    version=1,
    source="Pintor et al., 2022, arXiv:2106.09947, indicator 5 (transfer failure)",
    measures="samples whose example fools the network that was searched on, and not the model",
    means="the attack solved another network than the one in question: its failures say nothing of the model",
    remedy="Attack the model itself, with all of its defence, and choose a surrogate that is nearer to it.",
)
def examples_transfer(bench: Bench) -> Reading:
    """Compare successes on the surrogate with successes on the model."""
    if bench.search is None:
        return Reading(None, "the attack searched on the model itself")
    run = bench.run(bench.white)
    lost = run.found & ~run.success
    return bench.excess(
        lost, f"{share(int(lost.sum()), int(run.found.sum()))} examples for the surrogate fail on the model"
    )


@register(
    "unbounded_breaks_all",
    version=1,
    source="Pintor et al., 2022, arXiv:2106.09947, indicator 6 (unconstrained attack failure); Carlini et al., 2019, "
    "arXiv:1902.06705, Sec. 5.2",
    measures="samples that survive the gradient attack with a radius that holds the whole box",
    means="nothing can survive an attack without limits: it does not find its way",
    remedy="Find out what stops it: gradients that vanish or mislead, steps that are too short, a loss that saturates.",
    weight=3,
    vital=True,
    cost=lambda white, facts: runs_of(white, 1, 1),
)
def unbounded_breaks_all(bench: Bench) -> Reading:
    """Run the gradient attack with an infinite radius."""
    whole = balls.whole_box(replace(bench.threat, epsilon=math.inf), bench.x)
    assert isinstance(whole, ThreatModel)
    left = ~bench.run(bench.white, whole).success
    text = f"{share(int(left.sum()), len(left))} samples survive {bench.white[0]} at {whole.norm} {whole.epsilon:g}, the whole box"
    return Reading(int(left.sum()) <= bench.allowed, text, left.double().mean().item(), bench.allowed / len(left), left)


@register(
    "survivors_were_moved",
    version=2,
    source="Croce & Hein, 2020, arXiv:2003.01690, Sec. 4 (gradient masking); this project",
    measures="share of the survivors whose margin the gradient attack left as it was, to the last digit",
    means="the attack did nothing there: flat outputs, or gradients that are exactly zero",
    remedy="Use attacks that need scores only, or a backward approximation of the flat layer.",
    weight=3,
    cost=lambda white, facts: (1 + 2 * POINTS, 0),
)
def survivors_were_moved(bench: Bench) -> Reading:
    """Compare the margins of survivors before and after the gradient attack."""
    run = bench.run(bench.white)
    rows = (~run.success).nonzero()[:, 0]
    if not len(rows):
        return Reading(None, "no sample is left")
    clean = margin(bench.model.logits(bench.x[rows]), bench.y[rows])
    same = (run.margin[rows] - clean).abs() <= SAME * clean.abs().clamp(max=1.0)
    idle = torch.zeros_like(run.success)
    idle[rows] = same
    unmoved = idle.nonzero()[:, 0]
    dead = unmoved[constant(bench, unmoved)]
    idle[dead] = False
    found = int(idle.sum()) / len(rows)
    text = f"the margin of {share(int(idle.sum()), len(rows))} survivors is what it was"
    text += f"; {len(dead)} more lie where all units are dead over the whole ball" * (len(dead) > 0)
    return Reading(found <= 0.05 or int(idle.sum()) <= bench.allowed, text, found, 0.05, idle)
