"""The climb: the samples of one call of the ladder, what is known of them, and the ways to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustscope.attacks.approach import approach, scout
from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.descent import Leave, descend
from robustscope.attacks.estimates import Estimate, agreement, order_of
from robustscope.attacks.prospects import look
from robustscope.attacks.race import race
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.models.classifier import Classifier

PAIRS = 16
"""Pairs of points by which a gradient is judged."""

ESTIMATE_PAIRS, ESTIMATE_SHARE = 64, 0.5
"""Pairs of points of an estimated gradient, and how far apart they are."""

FINE_PAIRS, FINE_FADING = 128, 0.9
"""Pairs of points of a fine estimate, and the weight that earlier ones keep: where scores move in steps, the last one too
must be told from the noise."""

DOUBT = 0.98
"""Correlation at two random points below which the gradient is looked at in earnest, see :meth:`Prospects.glance`."""

HOPELESS, AS_EXPECTED, SETTLED = 1.0, 0.1, 0.8
"""A first descent is given up after its first step where the radius lacks so much, in radii, the margin fell as expected, to
within such a share, and that step left such a share of what the radius lacked before it."""

BEHIND = {1: 0.25, 2: 0.1}
"""After so many thirds of its steps, by how much of what the margin has fallen so far a descent towards another class may
be behind the best point."""

DEAF = 0.7
"""Share of twice the fall below which the margin counts as deaf to twice the radius."""


class Climb:
    """The samples of one call, what is known of them, and the ways to go on: descents, a race, or another attack.

    Args:
        model, x, y, threat, draws: as an attack has them.
        thorough: make every descent to its end.
    """

    def __init__(
        self, model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, thorough: bool = False
    ) -> None:
        self.model, self.x, self.y, self.threat, self.draws = model, x, y, threat, draws
        self.thorough = thorough
        self.known, self.first = look(model, x, y, threat, draws)

    def descend(self, which: Tensor, ranks: Sequence[int], steps: int, start: str = "") -> None:
        """Descend towards the classes of these ranks, one after the other, from ``x`` or from random points.

        Unless the climb is thorough, a descent from the linear optimum of rank 0 may be hopeless, and those towards the
        others fall behind; both are then given up.

        Args:
            which: bool (B,), samples to attack.
            ranks: places in the order of the nearest classes.
            steps: steps of each descent.
            start: purpose of the random starts; empty for the linear optimum of rank 0, and ``x`` for the others.
        """
        for rank in ranks:
            rows = (which & ~self.known.broken).nonzero()[:, 0]
            if rank >= self.known.order.shape[1] or not len(rows):
                break
            x, threat = self.x[rows], self.threat.select(rows)
            if start:
                begin = balls.sample(threat, x, self.draws.select(rows), f"{start}/{rank}")
            else:
                begin = x if rank else self.first[rows]
            goals = self.known.order[rows, rank]
            leave = self._behind(rows, steps) if rank else None if start else self._hopeless(rows)
            leave = None if self.thorough else leave
            self.known.add(rows, descend(self.model, x, self.y[rows], goals, threat, begin, steps, leave=leave))

    def _hopeless(self, rows: Tensor) -> Leave:
        """Tell when a first descent of the samples ``rows`` is given up: the margin fell as expected, which is too little."""
        clean, expected, first = (of[rows] for of in (self.known.clean, self.known.expected, self.known.lowest))

        def leave(step: int, part: Tensor, lowest: Tensor) -> Tensor:
            before, lowest = first[part], torch.minimum(lowest, first[part])
            fall = clean[part] - lowest
            due = (fall - expected[part]).abs() <= AS_EXPECTED * expected[part]
            settled = lowest * (clean[part] - before) >= SETTLED * before * fall
            return due & settled & (lowest >= HOPELESS * fall) & (step == 1)

        return leave

    def _behind(self, rows: Tensor, steps: int) -> Leave:
        """Tell when a descent of the samples ``rows`` towards another class is given up: the best point is far ahead."""
        best, fall = self.known.lowest[rows], self.known.fall[rows]

        def leave(step: int, part: Tensor, lowest: Tensor) -> Tensor:
            thirds, over = divmod(3 * step, steps)
            if over or thirds not in BEHIND:
                return torch.zeros_like(part, dtype=torch.bool)
            return lowest - best[part] > BEHIND[thirds] * fall[part]

        return leave

    def race(self, which: Tensor) -> None:
        """Race towards all of the nearest classes, each from the same random point, and give up those that stay behind.

        Args:
            which: bool (B,), samples to attack.
        """
        known = self.known
        rows = (which & ~known.broken).nonzero()[:, 0]
        for part in rows.split(self.model.batch_size) if len(rows) else ():
            x, threat = self.x[part], self.threat.select(part)
            start = balls.sample(threat, x, self.draws.select(part), "race")
            margins = known.clean[part], known.lowest[part]
            known.add(part, race(self.model, x, self.y[part], known.order[part], threat, start, *margins))

    def run(self, which: Tensor, name: str, scope: str = "", **parameters: Any) -> Tensor:
        """Run a registered attack on the samples ``which`` (bool).

        Args:
            which: bool (B,), samples to attack.
            name: of the attack.
            scope: of its random numbers; its name if empty.
            **parameters: of the attack.

        Returns:
            By how much it lowered the margin of each of them below that at ``x``, (B,); 0 for the others.
        """
        fall = torch.zeros_like(self.known.clean)
        rows = (which & ~self.known.broken).nonzero()[:, 0]
        if len(rows):
            card, threat = ATTACKS[name], self.threat.select(rows)
            draws = self.draws.select(rows).within(scope or name)
            settings = card.resolve(parameters)
            x, y = self.x[rows], self.y[rows]
            result = card.function(self.model, x, y, threat, draws=draws, targets=None, **settings)
            fall[rows] = self.known.clean[rows] - self.known.judge(self.model, rows, y, result)
        return fall

    def deaf(self, which: Tensor) -> Tensor:
        """Tell of which of the samples ``which`` the margin falls no further at twice the radius: bool (B,).

        Asked at the point twice as far from ``x`` as the best one, on the line through both.
        """
        found = torch.zeros_like(which)
        rows = (which & ~self.known.broken).nonzero()[:, 0]
        if len(rows):
            x, threat = self.x[rows], self.threat.select(rows).scaled(2)
            logits = self.model.logits(balls.project(threat, x, 2 * self.known.x_adv[rows] - x))
            fall = self.known.clean[rows] - margin(logits, self.y[rows])
            found[rows] = fall < DEAF * 2 * self.known.fall[rows]
            self.known.forward[rows] += 1
        return found

    def doubtful(self, which: Tensor) -> Tensor:
        """Tell of which of the samples ``which`` the scores at a few points near ``x`` were foreseen badly: bool (B,)."""
        found = torch.zeros_like(which)
        rows = (which & ~self.known.broken).nonzero()[:, 0]
        if len(rows):
            facts = (self.x[rows], self.y[rows], self.threat.select(rows), self.draws.select(rows))
            found[rows] = self.known.glance(self.model, rows, *facts) < DOUBT
        return found

    def agreement(self, which: Tensor) -> Tensor:
        """Return how well the gradient at ``x`` says how scores change: (B,), in [-1, 1]; 1 outside ``which`` (bool)."""
        found = torch.ones_like(self.known.clean)
        rows = (which & ~self.known.broken).nonzero()[:, 0]
        if len(rows):
            targets = self.known.order[rows, :3]
            draws = self.draws.select(rows).within("agreement")
            threat = self.threat.select(rows)
            found[rows] = agreement(self.model, threat, self.x[rows], self.y[rows], targets, draws, PAIRS)
            self.known.forward[rows] += 2 * PAIRS + 1
            self.known.backward[rows] += targets.shape[1]
        return found

    def estimate(self, which: Tensor, ranks: Sequence[int], steps: int, start: str = "", fine: bool = False) -> None:
        """Descend as :meth:`descend`, along gradients that are estimated from scores, towards classes put in order anew.

        Args:
            which: bool (B,), samples to attack.
            ranks: places in the order of the nearest classes, as estimates have it.
            steps: steps of each descent.
            start: purpose of the random starts; empty for ``x``.
            fine: take twice the pairs, and keep more of the earlier estimates.
        """
        rows = (which & ~self.known.broken).nonzero()[:, 0]
        if len(rows) and not start:
            x, draws, order = self.x[rows], self.draws.select(rows).within("estimate"), self.known.order[rows]
            facts = (draws, ESTIMATE_PAIRS, ESTIMATE_SHARE)
            self.known.order[rows] = order_of(self.model, self.threat.select(rows), x, self.y[rows], order, *facts)
            self.known.forward[rows] += 2 * ESTIMATE_PAIRS + 1
        for rank in ranks:
            rows = (which & ~self.known.broken).nonzero()[:, 0]
            if rank >= self.known.order.shape[1] or not len(rows):
                break
            x, threat = self.x[rows], self.threat.select(rows)
            draws = self.draws.select(rows).within(f"estimate/{start}{rank}")
            begin = balls.sample(threat, x, draws, "start") if start else x
            how = Estimate(x, draws, ESTIMATE_PAIRS, ESTIMATE_SHARE)
            if fine:
                how = Estimate(x, draws, FINE_PAIRS, ESTIMATE_SHARE, FINE_FADING)
            goals = self.known.order[rows, rank]
            self.known.add(rows, descend(self.model, x, self.y[rows], goals, threat, begin, steps, how))

    def follow(self, which: Tensor, steps: int, estimate: str = "", *, classes: int = 3, longest: float = 0.1) -> None:
        """Descend by small steps from the best point of each sample, towards the classes that are near there.

        Args:
            which: bool (B,), samples to attack.
            steps: steps of each descent.
            estimate: purpose of the random numbers of estimated gradients; empty for the model's own.
            classes: how many of those classes.
            longest: size of the first step as a share of epsilon.
        """
        rows = (which & ~self.known.broken).nonzero()[:, 0]
        if not len(rows):
            return
        logits = self.model.logits(self.known.x_adv[rows])
        self.known.forward[rows] += 1
        others = logits.scatter(1, self.y[rows, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        for rank in range(min(classes, others.shape[1] - 1)):
            left = (~self.known.broken[rows]).nonzero()[:, 0]
            if not len(left):
                break
            now, begin = rows[left], self.known.x_adv[rows[left]]
            x, y, goals, threat = self.x[now], self.y[now], others[left, rank], self.threat.select(now)
            draws = self.draws.select(now).within(f"estimate/{estimate}/{rank}")
            how = Estimate(x, draws, FINE_PAIRS, ESTIMATE_SHARE / 2, FINE_FADING) if estimate else None
            self.known.add(now, descend(self.model, x, y, goals, threat, begin, steps, how, longest))

    def approach(self, which: Tensor, scope: str, seen: Tensor, nearest: Tensor) -> Tensor:
        """Come from a far example towards the samples ``which`` (bool), from the side of a class not seen yet if there is one.

        Args:
            which: bool (B,), samples to attack.
            scope: of the random numbers.
            seen: bool (B, K), classes from which they were approached; the new one is added in place.
            nearest: (B,), how near others came, in radii; lowered in place. Where scores do not tell two points apart,
                the nearest one is kept.

        Returns:
            Whether a gradient on the way was not zero, bool (B,).
        """
        known, alive = self.known, torch.zeros_like(which)
        rows = (which & ~known.broken).nonzero()[:, 0]
        if len(rows):
            threat, x, y = self.threat.select(rows), self.x[rows], self.y[rows]
            passed = seen[rows]
            far, spent = scout(self.model, x, y, threat, self.draws.select(rows).within(scope), passed)
            found = approach(self.model, x, y, threat, far, 60)
            apart = (found.distance / threat.radius(x)).to(nearest.dtype)
            closer = (apart < nearest[rows]) & (found.lowest <= known.lowest[rows])
            known.add(rows, found)
            known.x_adv[rows[closer]] = found.x_adv[closer]
            known.forward[rows] += spent
            seen[rows], nearest[rows], alive[rows] = passed, torch.minimum(nearest[rows], apart), found.alive
        return alive
