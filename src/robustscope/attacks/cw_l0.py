"""Carlini and Wagner's l0 attack."""

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
from robustscope.core.types import AttackResult, Bounds, ThreatModel
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

PULL = 0.01
"""How far beyond the boundary (in logits) the loss still pulls, so that a solution is not lost to the distance."""
UNMOVED = 1e-4
"""Share of the width of the bounds below which a value counts as not moved, and is put back where it was."""
WEIGHTY = 0.01
"""Share of the margin loss (in logits) above which a value is frozen alone."""


@register(
    "cw_l0",
    version=2,
    source="Carlini, Wagner, 2017, arXiv:1608.04644, Sec. VI-B",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l0",),
    goals=("untargeted", "targeted"),
    quick={"steps": 40, "initial_constant": 1.0, "largest_constant": 64.0, "queries": 250},
    cost=lambda p: (1 + p["queries"], p["queries"]),
)
def cw_l0(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 100,
    step_size: float = 0.1,
    initial_constant: float = 0.1,
    largest_constant: float = 2e6,
    confidence: float = 0.0,
    queries: int = 5_000,
) -> AttackResult:
    """Solve the l2 problem on fewer and fewer values, freezing each time those that contribute least.

    A round descends ||x' - x||^2 + c * max(confidence + 0.01 - margin loss, 0) by Adam over the values still free, from
    the last solution, until it is adversarial; where it comes to rest before, c is doubled. Then the values with the
    smallest |gradient| * |x' - x| are frozen at x: 0.3 * sqrt(values changed) of them, but none after the first that
    accounts for more than 0.01 logits. When no c succeeds any more, the last solution has the fewest values changed.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l0 (input values that differ), radius, bounds; examples beyond the radius are projected at the end.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: most Adam steps for each c, >= 1.
        step_size: Adam's step size, > 0, as a share of the width of the bounds.
        initial_constant: first c, > 0; distances are measured in units of the width of the bounds.
        largest_constant: c beyond which a set of free values is given up.
        confidence: margin (in logits) by which an example must win to count, >= 0.
        queries: most iterates of a sample, each one forward and one backward row.

    Returns:
        The example with the fewest values changed if they are at most epsilon, else its projection, else x.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Carlini & Wagner 2017, arXiv:1608.04644, Sec. VI-B.

    Departures: the authors freeze pixels, all channels at once; here l0 counts values, so values are frozen one by one.
        A value that a solution moves by less than 1e-4 of the width is put back and frozen at no charge. A round ends
        with any adversarial iterate, where the authors ask for a loss below 1e-4 as well. x' is clipped to the bounds
        (as in the paper's Sec. V-B) instead of changing variables, so values on the bounds move at once; 100 steps of
        0.1 from c = 0.1 then do on the digits linear model what 1,000 steps of 0.01 from c = 0.001 do, at a tenth of the
        cost. Every sample has its own round, c and clock.
    """
    check_positive(steps=steps, step_size=step_size, queries=queries)
    check_positive(initial_constant=initial_constant, largest_constant=largest_constant)
    best = ConfidentSearch(model, x, y, threat, targets, confidence)
    rows = best.start()
    bounds, width = threat.bounds, threat.bounds.upper - threat.bounds.lower
    run = _Run.begin(rows, x[rows], initial_constant)
    period = max(1, steps // 10)
    while len(run.rows):
        points = run.place(bounds)
        scores, gradients, found = best.gradient(run.rows, points, margin_loss)
        delta = (points - run.x).div_(width)
        hinge = (confidence + PULL - scores).clamp_(min=0)
        objective = delta.flatten(1).square().sum(1) + run.constant * hinge
        run.freeze(found, width * gradients, delta)
        slope = torch.addcmul(2 * delta, gradients, columns(-width * run.constant * (hinge > 0), delta))
        step = run.adam.step(slope.mul_(run.free), step_size * width)
        run.iterate = (run.iterate - step.mul_(columns(~found, step))).clamp_(*bounds)
        lost = run.settle(objective, found, largest_constant, steps, period)
        done = lost | (best.backward[run.rows] >= queries) | ~run.free.flatten(1).any(1)
        if done.any():
            run = run.select((~done).nonzero()[:, 0])
    return best.result()


@dataclass
class _Run:
    """The samples under attack.

    Args:
        rows: which samples.
        x, iterate: (b, *S), inputs and iterates.
        free: bool (b, *S), values that may still change.
        adam: moments and clock of each.
        constant: (b,), weight of the loss.
        least, previous: (b,), smallest objective of this descent, now and at the last look.
    """

    rows: Tensor
    x: Tensor
    iterate: Tensor
    free: Tensor
    adam: Adam
    constant: Tensor
    least: Tensor
    previous: Tensor

    @classmethod
    def begin(cls, rows: Tensor, x: Tensor, constant: float) -> _Run:
        infinite = x.new_full((len(rows),), torch.inf)
        free = torch.ones_like(x, dtype=torch.bool)
        return cls(rows, x, x, free, Adam.begin(x), torch.full_like(infinite, constant), infinite, infinite)

    def place(self, bounds: Bounds) -> Tensor:
        """Return the iterates, with x where a value is frozen or has hardly moved."""
        moved = (self.iterate - self.x).abs_() > UNMOVED * (bounds.upper - bounds.lower)
        return torch.where(moved & self.free, self.iterate, self.x)

    def freeze(self, found: Tensor, gradients: Tensor, delta: Tensor) -> None:
        """Freeze, in the samples ``found``, what has not moved and the moved values that contribute least."""
        if not found.any():
            return
        share = (gradients[found] * delta[found]).abs().flatten(1)
        moved = delta[found].flatten(1) != 0
        share = torch.where(moved, share, torch.inf)
        most = (0.3 * moved.sum(1).sqrt()).ceil()
        light = ((share <= WEIGHTY) & moved).sum(1) + 1
        count = torch.minimum(most, light.to(most.dtype)).clamp(min=1)
        rank = share.argsort(dim=1, stable=True).argsort(dim=1)
        keep = moved & (rank >= count[:, None])
        self.free[found] = keep.view_as(self.free[found])

    def settle(self, objective: Tensor, found: Tensor, largest: float, steps: int, period: int) -> Tensor:
        """Begin a new descent after a success or with a larger constant; return whose constant is used up: bool (b,)."""
        look = (self.adam.clock - 1) % period == 0
        self.least = torch.minimum(self.least, objective)
        rests = ((look & (self.least > PROGRESS * self.previous)) | (self.adam.clock >= steps)) & ~found
        self.previous = torch.where(look, self.least, self.previous)
        anew = rests | found
        if anew.any():
            self.constant = torch.where(rests, 2 * self.constant, self.constant)
            self.adam.reset(anew)
            self.least, self.previous = (v.masked_fill(anew, torch.inf) for v in (self.least, self.previous))
        return self.constant > largest

    def select(self, keep: Tensor) -> _Run:
        """Return the samples that ``keep`` picks."""
        parts = (getattr(self, field.name) for field in fields(self))
        return _Run(*(part.select(keep) if isinstance(part, Adam) else part[keep] for part in parts))
