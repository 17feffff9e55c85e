"""The ladder: attacks from cheap to dear, each run only on samples whose evidence leaves room for a success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustscope.attacks.approach import approach, scout
from robustscope.attacks.cards import ATTACKS, register
from robustscope.attacks.descent import descend
from robustscope.attacks.estimates import Estimate, agreement, order_of
from robustscope.attacks.prospects import look
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{croce2020reliable,
  title = {Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""

PAIRS, AGREEMENT, MISLED = 16, 0.9, 0.8
"""Pairs of points by which a gradient is judged, the correlation below which it does not say well how scores change,
and the one below which that alone is reason enough to search by scores."""

STARTS = 32
"""Far examples from which a sample is approached, at most."""

ESTIMATE_PAIRS, ESTIMATE_SHARE = 64, 0.5
"""Pairs of points of an estimated gradient, and how far apart they are."""

FINE_PAIRS, FINE_FADING = 128, 0.9
"""Pairs of points of a fine estimate, and the weight that earlier ones keep: where scores move in steps, the last one too
must be told from the noise."""

DOUBT = 0.95
"""Correlation at two random points below which the gradient is looked at in earnest, see :meth:`Prospects.glance`."""

DEAF, DEAF_UP_TO = 0.7, 8.0
"""Share of twice the fall at which the margin counts as deaf to twice the radius, and what may be lacking to ask that."""

FLAT = 15.0
"""What the radius lacks, in radii, from where on the gradient around ``x`` reaches nowhere and says nothing."""


class _Climb:
    """The samples of one call, what is known of them, and the two ways to go on: a descent, or another attack."""

    def __init__(self, model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> None:
        self.model, self.x, self.y, self.threat, self.draws = model, x, y, threat, draws
        self.known, self.first = look(model, x, y, threat, draws)

    def descend(self, which: Tensor, ranks: Sequence[int], steps: int, start: str = "") -> None:
        """Descend towards the classes of these ranks, one after the other, from ``x`` or from random points.

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
            self.known.add(rows, descend(self.model, x, self.y[rows], goals, threat, begin, steps))

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


@register(
    "ladder",
    version=5,
    source="this project, docs/decisions/0006; several targets: Gowal et al., 2019, arXiv:1910.09338",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    stochastic=True,
    quick={"thorough": True, "search": False},
    known_failures={
        f"same_seed_same_result/{norm}": "on the smooth problem of this check every random start ends in the same corner "
        "as the linear optimum, so that the seed changes nothing"
        for norm in ("linf", "l1")
    },
    cost=lambda p: (70_000, 4_000) if p["search"] else (3_800, 2_600),
)
def ladder(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    search: bool = True,
    thorough: bool = False,
) -> AttackResult:
    """Attack from cheap to dear, and give each sample up as soon as its evidence leaves no room for a success.

    One look at the gradients towards the nearest classes tells how far the margin would fall if the model were linear.
    Short descents of Z_t - Z_y from there break nearly all that can be broken. What they leave is judged by three
    figures: what the radius lacks (the margin left over the margin fallen), whether the fall is the expected one, and
    whether the margin still moved at the end. Samples that are near go on to more classes, random starts and Auto-PGD.
    Two cases in which the radius seems to lack more than it does are attacked otherwise: FAB where the margin falls no
    further at twice the radius, Auto-PGD on the difference-of-logits ratio where it hardly falls at all. Samples that
    behave oddly are also searched by scores alone: 50 queries of Square, and then ever more as long as scores alone
    would break them were they to go on as they did. Where the gradient does not say how scores change nearby, the
    descents are repeated with slopes estimated from scores. Where neither gradients nor scores change, the search comes
    from the other side of the boundary, and at last asks for decisions alone.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        targets: None; the attack chooses its own.
        search: go on to the attacks that need no gradient, or only those at the nearest boundary, where the evidence
            asks for it; False ends with Auto-PGD.
        thorough: run every rung asked for on every sample that is not broken, whatever the evidence: what an audit wants.

    Returns:
        The first adversarial example of each sample, or the point of the smallest margin.

    Source: this project; the measurements behind each threshold stand in docs/decisions/0006. Attacking several classes
        is MultiTargeted, Gowal et al. 2019, arXiv:1910.09338; the order of classes is that of a linear model, as in MALT,
        Melamed et al. 2024, arXiv:2407.02240.
    """
    if not len(x):
        return AttackResult(x.clone(), torch.zeros_like(y), torch.zeros_like(y))
    climb = _Climb(model, x, y, threat, draws)
    known = climb.known
    every = torch.full_like(known.broken, thorough)
    climb.descend(~known.broken, (0,), 7)
    climb.descend(every | known.near(0.3), (1, 2), 12)
    climb.descend(every | known.near(0.15) | (known.unsettled & known.near(0.3)), (0,), 20, "again")
    loose = known.unsettled | known.astray(0.5)
    climb.descend(every | known.near(0.12) | (loose & known.near(0.3)), (0, 1, 2), 30, "press")
    climb.follow(every | known.near(0.12), 20, classes=1, longest=0.3)
    _vary(climb, every)
    _mistrust(climb, every)
    if search:
        _search(climb, every)
    return AttackResult(known.x_adv, known.forward, known.backward)


def _vary(climb: _Climb, every: Tensor) -> None:
    """Try other losses, starts and schedules on samples that lack a few percent of the radius.

    What still breaks there lies in another basin: more descents of the same kind end where the others did. Where the
    margin fell just as a linear model's, there is no other.
    """
    known = climb.known
    bent = known.astray(0.01)
    climb.run(every | (bent & known.near(0.05)), "apgd", "vary", loss="cross_entropy")
    climb.run(every | (bent & known.near(0.05)), "apgd", "vary", loss="margin", restarts=2)
    climb.run(every | (bent & known.near(0.02)), "apgd_targeted", n_targets=4)
    climb.run(every | (bent & known.near(0.01)), "apgd", loss="margin", restarts=5)


def _mistrust(climb: _Climb, every: Tensor) -> None:
    """Attack otherwise where what the radius lacks says little, as the margin hardly moves here or further out.

    Where twice the radius takes the margin hardly any further, steps of a size that the radius sets lead on to a
    plateau, and FAB takes those that the linear model asks for. Where the gradient would take many times the radius, the
    margin is flat around ``x``; what may still move is the score of another class, and the difference-of-logits ratio
    raises that one, while Z_t - Z_y mostly lowers that of ``y``.
    """
    known = climb.known
    deaf = every | climb.deaf(known.near(DEAF_UP_TO))
    climb.run(deaf, "fab_targeted", "boundary", num_targets=1, steps=50, stop_at_epsilon=True)
    for most, share in ((3, 2.0), (9, 0.3)):
        steps, close = 50 if most == 3 else 100, every | known.near(share)
        climb.run(deaf & close, "fab_targeted", "boundary", num_targets=most, steps=steps, stop_at_epsilon=True)
    flat = known.far(FLAT) | (known.far(4.0) & (known.fall > 1.3 * known.expected))
    climb.run(every | flat, "apgd_targeted", "flat", steps=10)


def _search(climb: _Climb, every: Tensor) -> None:
    """Search by scores where gradients may mislead, and go on as far as what scores lack leaves room for a success.

    Where gradients are a guide, 50 and 300 queries of Square lower the margin by about a fifth and two fifths of what
    the descents did, less than half of what even a sample at the boundary needs; where they are not, by as much as the
    descents or more. Samples that come near just as their gradient says get a glance at two points beside the way: what
    is hidden from a gradient shows there. Samples of which neither gradients nor scores tell anything are searched from
    the other side of the boundary.
    """
    known = climb.known
    fall, odd = known.fall, known.odd(0.05)
    still = ~known.broken & (fall < 0.01 * known.clean)
    asked = every | (odd & (known.near(0.6) | still)) | known.astray(0.5)
    by_scores = climb.run(asked, "square", queries=50)
    flat = asked & (torch.maximum(fall, by_scores) < 0.01 * known.clean)
    # A gradient that 50 queries outdo is no guide, even where scores alone would not get there.
    beaten = (by_scores >= fall) & (by_scores >= 0.01 * known.clean)
    asked &= every | known.near(0.1) | (known.clean <= 3.0 * by_scores)
    doubted = ((asked | still) & odd & ~flat) | (known.odd(0.15) & known.near(2.0)) | (beaten & known.astray(0.5))
    told = climb.agreement(doubted | climb.doubtful((known.near(0.3) | (odd & known.near(0.7))) & ~doubted))
    misled = told < MISLED
    asked |= misled
    by_scores = climb.run(asked, "square", queries=300)
    asked &= every | (known.clean <= 1.8 * by_scores) & (known.near(0.3) | (by_scores > fall))
    _estimate(climb, misled | (asked & (told < AGREEMENT)), every)
    asked |= misled & (by_scores > 1.2 * fall)
    climb.run(asked, "apgd", "square", loss="cross_entropy")
    by_scores = climb.run(asked, "square", queries=1000)
    climb.run(asked & (every | (known.clean <= 1.25 * by_scores)), "square")
    _surround(climb, flat, every)


def _estimate(climb: _Climb, lying: Tensor, every: Tensor) -> None:
    """Repeat the descents with slopes estimated from scores on the samples ``lying`` (bool), while that lowers margins."""
    known = climb.known
    before = known.lowest.clone()
    climb.estimate(lying, (0,), 12)
    lying = lying & (every | known.near(0.3) | (known.lowest < before - 0.05 * known.clean))
    climb.estimate(lying, (0, 1, 2), 30, "press/")
    climb.estimate(lying & known.near(0.5), (0,), 30, "fine/", fine=True)
    climb.estimate(lying & known.near(0.3), (0, 1), 30, "finer/", fine=True)
    climb.follow(lying & known.near(0.2), 40, "gently", classes=2)


def _surround(climb: _Climb, flat: Tensor, every: Tensor) -> None:
    """Come from the other side of the boundary where nothing moves around ``x``; where nothing moves there, ask on.

    Saturated and cut scores move at the boundary, and so do networks whose units are truly dead around ``x``: what they
    show from there is how far away it is. Only where gradients are zero there too are the many decisions asked for that
    it takes without them.
    """
    silent, nearest = flat.clone(), torch.full_like(climb.known.clean, torch.inf)
    seen = torch.zeros(len(flat), climb.model.classes(climb.x), dtype=torch.bool, device=flat.device)
    for k in range(STARTS):
        silent &= ~climb.approach(flat, f"far/{k}", seen, nearest)
        flat &= every | (nearest < (3.0 if k < 4 else 1.5 if k < 16 else 1.2))
    climb.follow(flat & (nearest < 1.3), 60)
    if climb.threat.norm != "l1":
        for k in range(4):
            climb.run(silent, "hopskipjump", f"decisions/{k}", queries=2500, stop_at_epsilon=True)
