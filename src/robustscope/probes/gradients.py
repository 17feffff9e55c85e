"""Do gradients exist, are they what forward's changes say, and do they still say so at the size of the perturbation?"""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.errors import ModelError
from robustscope.geometry import balls
from robustscope.geometry.losses import LOSSES
from robustscope.probes.bench import Bench, Reading, share
from robustscope.probes.cards import register
from robustscope.probes.features import POINTS, constant

ZEROS = 0.05
"""Share of samples whose gradient may be exactly zero: dead units of provably trained networks do that to a few."""
PAIRS = 16
"""Pairs of points whose scores are compared with what the gradient says."""
NEAR, FAR = 0.01, 0.1
"""Half the distance of a pair, as a share of epsilon: where a derivative must hold, and where it should still lead."""
EXACT, LEADS = 0.98, 0.8
"""Least median correlation, at these two distances."""


def _dead(count: int) -> str:
    return f"; {count} more lie where all units are dead over the whole ball" * (count > 0)


def _objective(bench: Bench, points: Tensor) -> tuple[str, Tensor]:
    """Return the name of the loss that the gradient attack ascends, and its gradients (B, *S) at some points."""
    name = str(bench.settings.get("loss", "margin"))
    name = name if name in LOSSES and bench.model.classes(bench.x) >= LOSSES[name].classes else "margin"
    loss = LOSSES[name].function
    _, gradients, _ = bench.model.gradient(lambda logits, rows: loss(logits, bench.y[rows], None), points)
    return name, gradients


@register(
    "available_gradients",
    version=2,
    source="Pintor et al., 2022, arXiv:2106.09947, indicator 1 (unavailable gradients); AutoAttack's flag of zero gradients",
    measures="share of samples where the gradient of the attack's loss is exactly zero, at the input and at a random point of "
    "the threat set, or does not exist",
    means="the attack walks blindly where its loss has no gradient, so what survives there was not attacked",
    remedy="Look for rounding, saturation, detach or a loss that underflows; use loss='margin', BPDA, or attacks that need "
    "scores only.",
    vital=True,
    cost=lambda white, facts: (2 + 2 * POINTS, 2),
)
def available_gradients(bench: Bench) -> Reading:
    """Count the samples whose input gradient is exactly zero, where they are and where an attack may start.

    A sample that the evaluation broke all the same is counted too: the figure is about the gradient, not the outcome.

    Departures: Pintor et al. look at one point, and count each zero. Provably trained networks have inputs around which
        all units are dead, so that nothing moves in the whole ball: a gradient of zero is the truth there, and is not counted.
    """
    start = balls.sample(bench.threat, bench.x, bench.draws.within("available_gradients"), "point")
    try:
        (name, gradients), (_, there) = (_objective(bench, points) for points in (bench.x, start))
    except ModelError as error:
        reason = str(error).splitlines()[0]
        none = torch.ones(len(bench.x), dtype=torch.bool)
        return Reading(False, f"there is no gradient: {reason}", 1.0, ZEROS, none, weight=3)
    zero = ((gradients == 0) & (there == 0)).flatten(1).all(1)
    rows = zero.nonzero()[:, 0]
    dead = rows[constant(bench, rows)]
    zero[dead] = False
    found = zero.double().mean().item()
    text = f"the gradient of {name} is exactly zero at {share(int(zero.sum()), len(zero))} samples" + _dead(len(dead))
    few = int(zero.sum()) <= bench.allowed  # one sample may always contradict, however few there are
    return Reading(few or found <= ZEROS, text, found, ZEROS, zero, weight=3 if found > 0.5 else None)


@register(
    "finite_gradients",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4 (gradient masking); this project's doctor",
    measures="whether gradients hold NaN or infinite values, at clean inputs and at random points of the threat set",
    means="an attack stops, or walks at random, where gradients are not numbers",
    remedy="Look for sqrt or norm at zero, log of a probability, and overflow inside the model.",
    weight=3,
    cost=lambda white, facts: (2, 2),
)
def finite_gradients(bench: Bench) -> Reading:
    """Ask for gradients at the inputs and at one random point of each threat set."""
    start = balls.sample(bench.threat, bench.x, bench.draws.within("finite_gradients"), "point")
    for where, points in (("at clean inputs", bench.x), ("at random points of the threat set", start)):
        try:
            bench.model.gradient(lambda logits, rows: logits.gather(1, bench.y[rows, None])[:, 0], points)
        except ModelError as error:
            reason = str(error).splitlines()[0]
            if "NaN" not in reason:
                return Reading(None, f"there is no gradient: {reason}")
            return Reading(False, f"{reason} {where}", 1.0, 0.0)
    return Reading(True, f"all gradients of {len(bench.x)} samples are finite, at two points each", 0.0, 0.0)


@register(
    "gradient_is_the_derivative",
    version=1,
    source="this project; undeclared approximations: Athalye et al., 2018, arXiv:1802.00420, Sec. 4",
    measures="correlation of what the gradient says with how scores change over steps of a hundredth of epsilon",
    means="backward is not the derivative of forward: something in between answers for it, and the attack follows that",
    remedy="Find the layer whose backward pass is not its own (detach, custom functions, another draw of noise). If it is an "
    "approximation made for the attack (BPDA), judge it by how much attacks without gradients add.",
    cost=lambda white, facts: (2 * PAIRS + 1, 1),
)
def gradient_is_the_derivative(bench: Bench) -> Reading:
    """Compare gradients with differences of scores over tiny steps, where even a rough function is nearly linear.

    Around one random point of each threat set: clean pictures lie on kinks, since maxima over equal black pixels are ties.
    """
    start = balls.sample(bench.threat, bench.x, bench.draws.within("gradient_is_the_derivative"), "point")
    return _compared(bench, start, NEAR, EXACT)


@register(
    "gradient_leads",
    version=1,
    source="this project, docs/decisions/0006; shattered gradients: Athalye et al., 2018, arXiv:1802.00420, Sec. 2.2",
    measures="correlation of what the gradient says with how scores change over steps of a tenth of epsilon",
    means="the surface is so rough, or so flat in steps, that the gradient does not lead even a tenth of the way",
    remedy="Average gradients over random points (EOT), smooth the layer in the backward pass (BPDA), or estimate slopes from "
    "scores.",
    cost=lambda white, facts: (2 * PAIRS + 1, 1),
)
def gradient_leads(bench: Bench) -> Reading:
    """Compare gradients with differences of scores over steps that an attack may take."""
    return _compared(bench, bench.x, FAR, LEADS)


def _compared(bench: Bench, centre: Tensor, size: float, limit: float) -> Reading:
    found = agreement(bench, centre, size)
    known = found[~found.isnan()]
    if not len(known):
        return Reading(None, f"scores do not move over {size:g} epsilon, nor do gradients say that they should")
    middle = known.median().item()
    few = f", over {len(known)} of {len(found)} samples whose scores or gradients say anything" * (
        len(known) < len(found)
    )
    text = f"median correlation {middle:.3f}, lowest {known.min().item():.3f} over steps of {size:g} epsilon{few}"
    return Reading(middle >= limit, text, middle, limit, found < limit, weight=3 if middle < 0.5 else None)


def agreement(bench: Bench, centre: Tensor, size: float) -> Tensor:
    """Return how well gradients tell the changes of the margin to the runner-up: correlation in [-1, 1], float64 (B,).

    Over ``PAIRS`` pairs of opposite points at a distance of ``size`` epsilon, clipped to the bounds: sum p a over the
    root of (sum p^2 sum a^2), p what the gradient says and a what happens. NaN where both are nothing but rounding.

    Args:
        bench: model, samples and threat model.
        centre: (B, *S), points around which it is measured.
        size: half the distance of a pair, as a share of epsilon.
    """
    model, x, y = bench.model, centre, bench.y
    runner = model.logits(x).scatter(1, y[:, None], float("-inf")).argmax(1)

    def gap(logits: Tensor, rows: Tensor) -> Tensor:
        return (logits.gather(1, runner[rows, None]) - logits.gather(1, y[rows, None]))[:, 0]

    _, gradients, logits = model.gradient(gap, x)
    every = torch.arange(len(x), device=x.device)
    radius = (size * bench.threat.radius(x)).reshape(-1, *([1] * (x.dim() - 1)))
    said, seen = [], []
    for pair in range(PAIRS):
        signs = bench.draws.within("agreement").normal(f"pair/{pair}", x).sign()
        step = radius * signs / balls.length(bench.threat.norm, signs).reshape(radius.shape)
        ahead, behind = (balls.clip_to_bounds(x + way * step, bench.threat.bounds) for way in (1, -1))
        said.append((gradients.double() * (ahead - behind).double()).flatten(1).sum(1))
        seen.append((gap(model.logits(ahead), every) - gap(model.logits(behind), every)).double())
    p, a = torch.stack(said, 1), torch.stack(seen, 1)
    rounding = 8 * torch.finfo(logits.dtype).eps * logits.abs().amax(1).double()
    lengths = p.norm(dim=1), a.norm(dim=1)
    idle = (torch.maximum(*lengths) / PAIRS**0.5) <= 20 * rounding
    cosine = (p * a).sum(1) / (lengths[0] * lengths[1]).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(idle, torch.nan, cosine)
