"""A race of short descents towards several classes, most of which are given up early: for margins that are flat around x."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.apgd_targeted import towards
from robustscope.attacks.descent import FINAL_STEP, move
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import margin
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

STEPS = 10
"""Steps of a descent that stays in the race."""

EARLY, BELOW = {1: 0.9, 2: 0.6}, 0.99
"""After so many steps, the share of the clean margin that the best descent of a sample may have left for any to go on, unless
it is below such a share of the smallest margin known before the race."""

SAMPLES = {4: 0.8, 5: 0.6, 6: 0.4}
"""The same later on, whatever was known before."""

DESCENTS = {4: 0.9, 5: 0.8, 6: 0.5}
"""The same for each descent by itself."""


@dataclass
class Race:
    """Where a race stands, or ended; one row for each sample.

    Args:
        x_adv: (B, *S), an adversarial iterate, or the one of the smallest margin.
        solved: bool (B,), whether ``x_adv`` is adversarial.
        lowest: (B,), smallest margin met.
        forward, backward: int64 (B,), rows spent.
    """

    x_adv: Tensor
    solved: Tensor
    lowest: Tensor
    forward: Tensor
    backward: Tensor

    @classmethod
    def at(cls, start: Tensor) -> Race:
        """Return the race before it begins, at ``start`` (B, *S)."""
        none = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        return cls(start.clone(), none > 0, start.new_full((len(start),), torch.inf), none, none.clone())

    def see(self, field: Field, values: Tensor, reached: Tensor) -> None:
        """Take in the margins (n,) of the iterates of all descents, and which are adversarial, bool (n,)."""
        table = values.new_full((len(self.lowest), field.classes), torch.inf)
        place = torch.zeros_like(table, dtype=torch.int64)
        # An adversarial point counts before any other.
        table[field.rows, field.ranks] = torch.where(reached, -torch.inf, values)
        place[field.rows, field.ranks] = torch.arange(len(values), device=values.device)
        least, rank = table.min(1)
        better = ((least < self.lowest) & ~self.solved).nonzero()[:, 0]
        won = place[better, rank[better]]
        field.lowest = torch.minimum(field.lowest, values)
        self.x_adv[better], self.lowest[better] = field.point[won], values[won]
        self.solved[field.rows[reached]] = True


@dataclass
class Field:
    """The descents that are still in a race; one row for each.

    Args:
        rows: int64 (n,), their samples.
        ranks: int64 (n,), places of their goals among the classes of the sample.
        classes: number of these classes.
        point: (n, *S), their iterates.
        previous: (n, *S), the iterates before.
        lowest: (n,), smallest margin that each has met.
    """

    rows: Tensor
    ranks: Tensor
    classes: int
    point: Tensor
    previous: Tensor
    lowest: Tensor

    @classmethod
    def of(cls, start: Tensor, classes: int) -> Field:
        """Return one descent towards each of ``classes`` from ``start`` (B, *S)."""
        rows = torch.arange(len(start), device=start.device).repeat_interleave(classes)
        ranks = torch.arange(classes, device=start.device).repeat(len(start))
        point = start[rows]
        return cls(rows, ranks, classes, point, point, start.new_full((len(rows),), torch.inf))

    def keep(self, which: Tensor) -> None:
        """Forget all descents but those of ``which`` (bool)."""
        for name in ("rows", "ranks", "point", "previous", "lowest"):
            setattr(self, name, getattr(self, name)[which])


def race(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    order: Tensor,
    threat: ThreatModel,
    start: Tensor,
    clean: Tensor,
    known: Tensor,
) -> Race:
    """Descend towards each of the classes ``order`` from one point, and give up descents and samples that stay behind.

    The targeted difference-of-logits ratio is ascended, as in Auto-PGD, with the steps and the momentum of a descent of
    the ladder. All descents of a sample begin at the same point, so that the first gradients take one row forward. Around
    a flat margin it takes a few large steps to leave the plateau, and what has left it shows soon: ``EARLY``, ``SAMPLES``
    and ``DESCENTS`` say when the others are given up. A descent whose gradient is zero at the start is none.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes; any other class is a success.
        order: int64 (B, T), classes to go towards.
        threat: linf, l2 or l1; radius and bounds.
        start: (B, *S), where all descents begin, inside the threat set.
        clean: (B,), margins at ``x``.
        known: (B,), smallest margins that other descents have met.
    """
    found, field = Race.at(start), Field.of(start, order.shape[1])
    loss = towards("dlr", model.classes(x))

    def scores(logits: Tensor, part: Tensor) -> Tensor:
        return torch.stack([loss(logits, y[part], goals) for goals in order[part].unbind(1)], 1)

    _, gradients, logits = model.jacobian(scores, start)
    found.forward += 1
    found.backward += order.shape[1]
    gradient = gradients.flatten(0, 1)
    found.see(field, margin(logits, y)[field.rows], is_adversarial(logits, y)[field.rows])
    going = ~found.solved[field.rows] & (gradient != 0).flatten(1).any(1)
    for step in range(1, STEPS + 1):
        field.keep(going)
        if not len(field.rows):
            break
        rows, gradient = field.rows, gradient[going]
        share = 1 - (step - 1) / STEPS + FINAL_STEP
        moved = move(threat.select(rows), x[rows], field.point, field.previous, gradient, share)
        field.point, field.previous = moved, field.point
        if step == STEPS:
            logits = model.logits(field.point)
        else:
            # The loop's variables are bound as defaults: the closure is called before the next turn.
            _, gradient, logits = model.gradient(
                lambda z, part, own=y[rows], goals=order[rows, field.ranks]: loss(z, own[part], goals[part]),
                field.point,
            )
            found.backward += torch.bincount(rows, minlength=len(x))
        found.forward += torch.bincount(rows, minlength=len(x))
        found.see(field, margin(logits, y[rows]), is_adversarial(logits, y[rows]))
        going = ~found.solved[rows]
        if step in EARLY:
            going &= found.lowest[rows] <= torch.maximum(EARLY[step] * clean, BELOW * known)[rows]
        if step in SAMPLES:
            going &= found.lowest[rows] <= SAMPLES[step] * clean[rows]
        if step in DESCENTS:
            going &= field.lowest <= DESCENTS[step] * clean[rows]
    return found
