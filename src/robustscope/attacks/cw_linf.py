"""Carlini and Wagner's linf attack."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustscope.attacks.adam import Adam
from robustscope.attacks.cards import register
from robustscope.attacks.confident import ConfidentSearch
from robustscope.attacks.cw_l2 import BIBTEX, PROGRESS
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import columns
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

LONGEST = 0.1
"""Largest tau, as a share of the width, that lengthens the steps."""
KEPT = 0.1
"""A threshold counts as reached when all but this share of the shortening that it asked for is done."""


@register(
    "cw_linf",
    version=2,
    source="Carlini, Wagner, 2017, arXiv:1608.04644, Sec. VI-C",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("linf",),
    goals=("untargeted", "targeted"),
    quick={"steps": 50, "relative_step_size": 0.1, "queries": 160, "initial_constant": 1.0},
    cost=lambda p: (1 + p["queries"], p["queries"]),
)
def cw_linf(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 200,
    relative_step_size: float = 0.03,
    initial_constant: float = 0.1,
    largest_constant: float = 1e6,
    decrease: float = 0.9,
    precision: float = 0.01,
    confidence: float = 0.0,
    queries: int = 5_000,
) -> AttackResult:
    """Descend c * max(confidence - margin loss, 0) + sum max(|x' - x| - tau, 0), and lower the threshold tau.

    The maximum alone would move one value at a time; the penalty moves all that exceed tau. Adam descends over x', which is
    clipped to the bounds. When an adversarial example comes (almost) within tau, tau becomes 0.9 times its distance and
    the descent goes on from there; where it comes to rest outside, c is doubled, and where it rests although the loss
    is zero, or c has reached its limit, tau is out of reach. Between the largest tau out of reach and the nearest
    example tau is then bisected. Every sample has its own tau, c and clock.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: linf, radius, bounds; examples beyond the radius are projected back at the end.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: most Adam steps for each pair of tau and c, >= 1.
        relative_step_size: Adam's step size as a fraction of tau, > 0.
        initial_constant: first c, > 0; distances are measured in units of the width of the bounds.
        largest_constant: c beyond which a tau is given up.
        decrease: factor from the distance reached to the next tau, in (0, 1).
        precision: relative width of the bisected interval at which a sample is done, > 0.
        confidence: margin (in logits) by which an example must win to count, >= 0.
        queries: most iterates of a sample, each one forward and one backward row.

    Returns:
        The nearest example found for each sample if it lies within epsilon, else its projection, else x.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Carlini & Wagner 2017, arXiv:1608.04644, Sec. VI-C.

    Departures: the authors' code returns the last solution, here the nearest of all iterates is returned. It stops at
        tau = 1/256 or at the first failure, up to 1/0.9 from its own optimum; here tau is bisected to ``precision``.
        Its c runs from 1e-5 to 20, which depends on the scale of the logits, here from 0.1 to 1e6. It keeps the
        bounds by x' = (tanh(w) + 1) / 2, where values on the bounds need some 700 steps of 0.005 to get away; here x'
        is clipped, which the paper's Sec. V-B also allows, and 200 steps, fractions of tau, stand for 1,000.
    """
    check_positive(steps=steps, relative_step_size=relative_step_size, queries=queries)
    check_positive(initial_constant=initial_constant, largest_constant=largest_constant, precision=precision)
    if not 0 < decrease < 1:
        raise InvalidValue(f"decrease={decrease} was given", "a number in (0, 1) is allowed", "Write e.g. 0.9.")
    best = ConfidentSearch(model, x, y, threat, targets, confidence)
    rows = best.start()
    bounds, width = threat.bounds, threat.bounds.upper - threat.bounds.lower
    run = _Run.begin(rows, x[rows], initial_constant)
    period = max(1, steps // 10)
    while len(run.rows):
        scores, gradients, found = best.gradient(run.rows, run.points, margin_loss)
        delta = (run.points - run.x).div_(width)
        size = delta.abs()
        hinge = (confidence - scores).clamp_(min=0)
        excess = (size - columns(run.tau, delta)).clamp_(min=0)
        objective = run.constant * hinge + excess.flatten(1).sum(1)
        slope = gradients.mul_(columns(-width * run.constant * (hinge > 0), gradients))
        slope.add_(delta.sign_().mul_(excess > 0))
        run.note(found, size)
        step = run.adam.step(slope, run.tau.clamp(max=LONGEST) * (relative_step_size * width))
        run.points = (run.points - step).clamp_(*bounds)
        run.settle(objective, decrease, largest_constant, steps, period)
        done = (run.lower >= (1 - precision) * run.upper) | (best.backward[run.rows] >= queries)
        if done.any():
            run = run.select((~done).nonzero()[:, 0])
    return best.result()


@dataclass
class _Run:
    """The samples under attack. Distances are in units of the width; the tensors after ``adam`` have shape (b,).

    Args:
        rows: which samples.
        x: (b, *S), their inputs.
        points, origin: (b, *S), the iterates, and the nearest examples, from which descents begin anew.
        adam: moments and clock of each.
        tau: threshold in use; ``goal`` is the distance at which it counts as reached.
        constant: weight of the loss in use; ``won`` is the one that last reached a threshold.
        lower: largest threshold out of reach.
        upper: distance of the nearest example, inf before the first.
        previous, least: smallest objective of this descent, at the last look and now.
        seen: bool, whether an example was met since the last look.
    """

    rows: Tensor
    x: Tensor
    points: Tensor
    origin: Tensor
    adam: Adam
    tau: Tensor
    goal: Tensor
    constant: Tensor
    won: Tensor
    lower: Tensor
    upper: Tensor
    previous: Tensor
    least: Tensor
    seen: Tensor

    @classmethod
    def begin(cls, rows: Tensor, x: Tensor, constant: float) -> _Run:
        one = x.new_ones(len(rows))
        never, infinite = torch.zeros_like(rows, dtype=torch.bool), one * torch.inf
        first = one * constant
        return cls(
            rows,
            x,
            x,
            x,
            Adam.begin(x),
            one,
            infinite,
            first,
            first,
            0 * one,
            infinite,
            infinite,
            infinite,
            never,
        )

    def note(self, found: Tensor, size: Tensor) -> None:
        """Remember the iterates ``found`` that are nearer than any before; ``size`` (b, *S) is |x' - x|."""
        length = size.flatten(1).amax(1)
        nearer = found & (length < self.upper)
        self.upper = torch.where(nearer, length, self.upper)
        self.origin = torch.where(columns(nearer, self.x), self.points, self.origin)
        self.seen = self.seen | found

    def settle(self, objective: Tensor, decrease: float, largest: float, steps: int, period: int) -> None:
        """Decide for each sample: threshold reached, out of reach, a larger constant, or simply go on."""
        look = (self.adam.clock - 1) % period == 0
        self.least = torch.minimum(self.least, objective)
        rests = (look & (self.least > PROGRESS * self.previous)) | (self.adam.clock >= steps)
        self.previous = torch.where(look, self.least, self.previous)
        reached = (self.upper < torch.inf) & (self.upper <= self.goal)
        given_up = rests & ~reached & (self.seen | (2 * self.constant > largest))
        stronger = rests & ~reached & ~given_up
        self.seen = self.seen & ~look
        anew = reached | given_up
        if not (anew | stronger).any():
            return
        self.won = torch.where(reached, self.constant, self.won)
        # Where nothing was ever found, every threshold is out of reach.
        out = torch.where(self.upper < torch.inf, torch.maximum(self.lower, self.tau), torch.inf)
        self.lower = torch.where(given_up, out, self.lower)
        self.constant = torch.where(stronger, 2 * self.constant, torch.where(given_up, self.won, self.constant))
        following = torch.where(self.lower > 0, (self.lower + self.upper) / 2, decrease * self.upper)
        self.tau = torch.where(anew, following, self.tau)
        self.goal = torch.where(anew, self.tau + KEPT * (self.upper - self.tau), self.goal)
        self.points = torch.where(columns(anew, self.x), self.origin, self.points)
        self.adam.reset(anew | stronger)
        self.previous, self.least = (v.masked_fill(anew | stronger, torch.inf) for v in (self.previous, self.least))
        self.seen = self.seen & ~(anew | stronger)

    def select(self, keep: Tensor) -> _Run:
        """Return the samples that ``keep`` picks."""
        parts = (getattr(self, field.name) for field in fields(self))
        return _Run(*(part.select(keep) if isinstance(part, Adam) else part[keep] for part in parts))
