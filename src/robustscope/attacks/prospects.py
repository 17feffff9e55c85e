"""What is known of each sample while it is searched: how far its margin fell, and how far it could be expected to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.approach import Approach
from robustscope.attacks.descent import Descent
from robustscope.attacks.estimates import largest, moves
from robustscope.attacks.race import Race
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin, margin_loss
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

MOST_TARGETS = 9
"""Classes whose gradients are looked at, those of the largest logits; AutoAttack's number too."""

MOTION = 0.05
"""Share of the margin left by which a descent that has settled does not lower it any more in its last quarter."""

GLANCES, GLANCE_SHARE = 4, 0.1
"""Random points near ``x`` at which the look foresees the scores, and how far away they are, as a share of the radius."""


@dataclass
class Prospects:
    """One row for each sample of the batch.

    Args:
        x_adv: (B, *S), the first adversarial example, or the point of the smallest margin.
        broken: bool (B,).
        clean: (B,), margin at ``x``.
        expected: (B,), by how much the margin would fall inside the threat set if the model were linear around ``x``.
        lowest: (B,), smallest margin met inside the threat set.
        moved: (B,), by how much the end of the last descent still lowered it.
        order: int64 (B, T), other classes, the nearest one to the linear eye first.
        foreseen: (B, 1 + G, T), how far they are behind at ``x``, and by how much that changes from there to each of G
            random points near it, if the gradient is right.
        forward, backward: int64 (B,), rows spent.
    """

    x_adv: Tensor
    broken: Tensor
    clean: Tensor
    expected: Tensor
    lowest: Tensor
    moved: Tensor
    order: Tensor
    foreseen: Tensor
    forward: Tensor
    backward: Tensor

    @property
    def fall(self) -> Tensor:
        """How far the margin has fallen, (B,)."""
        return self.clean - self.lowest

    @property
    def lack(self) -> Tensor:
        """What the radius lacks, as a share of itself: (B,), below 0 once broken, inf where the margin has not fallen."""
        return torch.where(self.fall > 0, self.lowest / self.fall, torch.inf)

    def near(self, share: float) -> Tensor:
        """Tell which samples would be broken, were the radius larger by ``share`` of itself: bool (B,).

        The margin falls about evenly with the radius, so what is left of it, as a share of what has fallen, is what the
        radius lacks.
        """
        return ~self.broken & (self.lowest <= share * self.fall)

    def far(self, share: float) -> Tensor:
        """Tell which samples would not be broken, were the radius larger by ``share`` of itself: bool (B,)."""
        return ~self.broken & (self.lowest > share * self.fall)

    @property
    def unsettled(self) -> Tensor:
        """Tell where the end of the last descent still lowered the margin by a twentieth: bool (B,)."""
        return ~self.broken & (self.moved > MOTION * self.lowest)

    def odd(self, tolerance: float) -> Tensor:
        """Tell where the model does not behave as its gradient at ``x`` says, or the descent has not settled: bool (B,).

        Odd is a fall that differs from the expected one by more than ``tolerance`` of it (so is any fall, and none,
        where the gradient vanishes), and a margin that the end of the last descent lowered by a twentieth.
        """
        return self.astray(tolerance) | self.unsettled

    def astray(self, tolerance: float) -> Tensor:
        """Tell where the margin fell by another amount than expected, by ``tolerance`` of that or more: bool (B,)."""
        return ~self.broken & ((self.fall - self.expected).abs() >= tolerance * self.expected)

    def glance(
        self, model: Classifier, rows: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws
    ) -> Tensor:
        """Return how well the scores at the random points of the look were foreseen: the correlation, (b,), in [-1, 1].

        One row forward for each point. It tells nothing for sure of a single sample, and costs little enough to ask of many.

        Args:
            model: classifier under attack.
            rows: int64 (b,), samples asked about; the other arguments have one row for each of them.
            x: (b, *S).
            y: int64 (b,), true classes.
            threat: as the look had it.
            draws: as the look had them.
        """
        points, _ = _nearby(threat, x, draws)
        logits = model.logits(points.flatten(0, 1)).view(len(x), GLANCES, -1)
        order = self.order[rows, None].expand(-1, GLANCES, -1)
        behind = logits.gather(2, y[:, None, None].expand(-1, GLANCES, 1)) - logits.gather(2, order)
        true, due = (behind - self.foreseen[rows, :1]).flatten(1), self.foreseen[rows, 1:].flatten(1)
        self.forward[rows] += GLANCES
        return torch.cosine_similarity(true / largest(true), due / largest(due), dim=1)  # squares may overflow

    def add(self, rows: Tensor, found: Descent | Race | Approach) -> None:
        """Take in a descent of the samples ``rows`` (indices), a race, or a walk from afar."""
        better = found.solved | (found.lowest < self.lowest[rows])
        self.x_adv[rows[better]] = found.x_adv[better]
        self.lowest[rows] = torch.minimum(self.lowest[rows], found.lowest)
        if isinstance(found, Descent):
            self.moved[rows] = found.moved
        self.broken[rows[found.solved]] = True
        self.forward[rows] += found.forward
        self.backward[rows] += found.backward

    def judge(self, model: Classifier, rows: Tensor, y: Tensor, result: AttackResult) -> Tensor:
        """Take in another attack's examples of ``rows`` after one more forward pass; returns their margins."""
        logits = model.logits(result.x_adv)
        value, broken = margin(logits, y), is_adversarial(logits, y)
        better = broken | (value < self.lowest[rows])
        self.x_adv[rows[better]] = result.x_adv[better]
        self.lowest[rows] = torch.minimum(self.lowest[rows], value)
        self.broken[rows[broken]] = True
        self.forward[rows] += result.forward + 1
        self.backward[rows] += result.backward
        return value


def look(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> tuple[Prospects, Tensor]:
    """Step once along the gradient of the margin, then look at the gradients towards each of the nearest classes.

    The one step breaks most of what breaks easily, and spares it the look. The fall of Z_y - Z_t that a linear model
    would allow is that at the furthest point of the threat set along the gradient, bounds included; classes are ordered
    by what it would leave of their margin.

    Returns:
        What is known, and the furthest point towards the first class, (B, *S); ``x`` where one step was enough.
    """
    point, clean, value, broken = _step(model, x, y, threat)
    count = min(MOST_TARGETS, model.classes(x) - 1)
    spent, order = torch.ones_like(y), y.new_zeros(len(y), count)
    known = Prospects(
        torch.where((broken | (value < clean)).view(-1, *([1] * (x.dim() - 1))), point, x),
        broken,
        clean,
        torch.zeros_like(clean),
        torch.minimum(clean, value),
        torch.zeros_like(clean),
        order,
        x.new_zeros(len(y), 1 + GLANCES, count),
        2 * spent,
        spent.clone(),
    )
    first, left = x.clone(), (~broken).nonzero()[:, 0]
    for rows in left.split(model.batch_size) if len(left) else ():  # splitting nothing gives one empty part
        facts = (threat.select(rows), draws.select(rows), count)
        known.order[rows], known.foreseen[rows], known.expected[rows], first[rows] = _look(
            model, x[rows], y[rows], *facts
        )
        known.forward[rows] += 1
        known.backward[rows] += count
    return known, first


def _step(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the furthest points along the gradient of the margin (B, *S), or ``x`` where that is misclassified already.

    With them come the margins at ``x`` and there, (B,), and which of them are adversarial, bool (B,).
    """
    slack, gradient, logits = model.gradient(lambda z, rows: margin_loss(z, y[rows]), x)
    point = balls.furthest(threat, x, gradient)
    there = model.logits(point)
    wrong = is_adversarial(logits, y)
    point = torch.where(wrong.view(-1, *([1] * (x.dim() - 1))), x, point)
    return point, -slack, torch.where(wrong, -slack, margin(there, y)), wrong | is_adversarial(there, y)


def _nearby(threat: ThreatModel, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return the random points of the look (b, G, *S), and how far they are from ``x``, (b, G, d)."""
    flat = x.flatten(1)[:, None]
    points = (flat + moves(threat, x, draws, "glance", GLANCES, GLANCE_SHARE)).clamp(*threat.bounds)
    return points.view(len(x), GLANCES, *x.shape[1:]), points - flat


def _look(
    model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``count`` classes in order (B, T), what is foreseen of them, the expected fall (B,) and the first points."""

    def nearest(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.detach().scatter(1, y[rows, None], -torch.inf).topk(count).indices

    gaps, gradients, logits = model.jacobian(
        lambda z, rows: z.gather(1, y[rows, None]) - z.gather(1, nearest(z, rows)), x
    )
    others = nearest(logits, torch.arange(len(x), device=x.device))
    furthest = [balls.furthest(threat, x, -gradient) for gradient in gradients.unbind(1)]
    falls = [
        ((x - point) * gradient).flatten(1).sum(1)
        for point, gradient in zip(furthest, gradients.unbind(1), strict=True)
    ]
    left = gaps - torch.stack(falls, 1)
    order = left.argsort(dim=1, stable=True)
    first = torch.stack(furthest, 1)[torch.arange(len(x), device=x.device), order[:, 0]]
    foreseen = torch.cat([gaps[:, None], _nearby(threat, x, draws)[1] @ gradients.flatten(2).transpose(1, 2)], 1)
    foreseen = foreseen.gather(2, order[:, None].expand_as(foreseen))
    return others.gather(1, order), foreseen, gaps.amin(1) - left.amin(1), first
