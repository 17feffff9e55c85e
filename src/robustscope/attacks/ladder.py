"""The ladder: attacks from cheap to dear, each run only on samples whose evidence leaves room for a success."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.climb import Climb
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.losses import LOSSES
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{croce2020reliable,
  title = {Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""

AGREEMENT, MISLED = 0.9, 0.8
"""The correlation below which a gradient does not say well how scores change, and the one below which that alone is reason
enough to search by scores."""

STARTS = 32
"""Far examples from which a sample is approached, at most."""

DEAF_UP_TO = 8.0
"""What the radius may lack, in radii, for a sample to be asked whether its margin falls further at twice of it."""

SHORT = 0.7
"""Share of the expected fall below which FAB is asked in l2 and l1 too, where the margin is not deaf, and Square is given more
than ten queries even where those move nothing."""

STIRRED = 0.08
"""Share of the clean margin by which ten queries of Square move it, one way or the other, where more of them may tell."""

MOVED, KEPT = 0.8, 0.9
"""Share of what the radius lacked after the first descent that the later ones may leave for other attacks to be worth
their rows: the dear ones, and the cheaper ones."""

FLAT = 15.0
"""What the radius lacks, in radii, from where on the gradient around ``x`` reaches nowhere and says nothing."""


@register(
    "ladder",
    version=7,
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
    cost=lambda p: (70_000, 4_000) if p["search"] else (3_300, 2_700),
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
    whether the margin still moved at the end. Samples that are near go on to more classes and random starts, and where those
    lowered the margin further, to Auto-PGD and ``nearest``. A descent that falls as expected and far too little, or that
    stays behind those before it, is given up.
    Two cases in which the radius seems to lack more than it does are attacked otherwise: FAB where the margin falls no
    further at twice the radius, and after it in l2 and l1 ``nearest``; a race towards all near classes, on the
    difference-of-logits ratio, where the margin hardly falls at all. Samples that behave oddly are also searched by
    scores alone: 10 queries of Square, and then ever more as long as scores alone would break them were they to go on as
    they did. Where the gradient does not say how scores change nearby, the
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
    climb = Climb(model, x, y, threat, draws, thorough)
    known = climb.known
    every = torch.full_like(known.broken, thorough)
    climb.descend(~known.broken, (0,), 7)
    first = known.lack
    climb.descend(every | known.near(0.3), (1, 2), 12)
    climb.descend(every | known.near(0.15) | (known.unsettled & known.near(0.3)), (0,), 20, "again")
    loose = known.unsettled | known.astray(0.5)
    climb.descend(every | known.near(0.12) | (loose & known.near(0.3)), (0, 1, 2), 30, "press")
    climb.follow(every | known.near(0.12), 20, classes=1, longest=0.3)
    _vary(climb, every, first)
    _mistrust(climb, every)
    if search:
        _search(climb, every)
    return AttackResult(known.x_adv, known.forward, known.backward)


def _vary(climb: Climb, every: Tensor, first: Tensor) -> None:
    """Try other losses, starts and schedules on samples that lack a few percent of the radius.

    What still breaks there lies in another basin, and where there are others, the descents so far ended in some of them:
    each lowered the margin further. Where the radius lacks what it lacked after the first one, ``first`` (B,), it will
    after more of them; and where the margin fell just as a linear model's, there is no other basin.
    """
    known = climb.known
    moved, kept = (every | (known.lack <= share * first) for share in (MOVED, KEPT))
    _polished(climb, moved & (every | known.near(0.1)), "apgd", "vary", loss="cross_entropy", steps=50)
    bent = every | known.astray(0.01)
    _polished(climb, bent & kept & (every | known.near(0.05)), "nearest", "vary", steps=150, stop_at_epsilon=True)
    climb.run(bent & moved & (every | known.near(0.05)), "nearest", "vary", steps=300, stop_at_epsilon=True)
    climb.run(bent & moved & (every | known.near(0.03)), "apgd", loss="margin", restarts=5)


def _polished(climb: Climb, which: Tensor, name: str, scope: str, **parameters: Any) -> None:
    """Run an attack on the samples ``which`` (bool), and follow its points further where they are better than the others."""
    before = climb.known.lowest.clone()
    climb.run(which, name, scope, **parameters)
    climb.follow(which & (climb.known.lowest < before), 20, classes=1, longest=0.3)


def _mistrust(climb: Climb, every: Tensor) -> None:
    """Attack otherwise where what the radius lacks says little, as the margin hardly moves here or further out.

    Where twice the radius takes the margin hardly any further, steps of a size that the radius sets lead on to a
    plateau, and FAB takes those that the linear model asks for. In l2 and l1 the same holds where the margin falls short
    of what its gradient promises, and what FAB brings near is met from the far side. Where the gradient would take many
    times the radius, or a fraction of it, the margin is flat around ``x``; what may still move is the score of another
    class, and the difference-of-logits ratio raises that one, while Z_t - Z_y mostly lowers that of ``y``.
    """
    known = climb.known
    near = known.near(DEAF_UP_TO)
    if climb.threat.norm == "linf":
        deaf = every | climb.deaf(near & known.astray(0.1))
    else:
        deaf = every | climb.deaf(near) | (near & (known.fall < SHORT * known.expected))
    climb.run(deaf, "fab_targeted", "boundary", num_targets=1, steps=50, stop_at_epsilon=True)
    close = every | known.near(2.5)
    climb.run(deaf & close, "fab_targeted", "boundary", num_targets=3, steps=50, stop_at_epsilon=True)
    if climb.threat.norm != "linf":
        climb.run(deaf & (every | known.near(1.0)), "nearest", steps=1000, stop_at_epsilon=True)
    lost = known.far(FLAT)
    flat = lost | (known.far(4.0) & known.astray(0.1)) | (known.far(0.1) & (known.fall > 2 * known.expected))
    climb.race(every | flat)
    ratio = "dlr" if climb.model.classes(climb.x) >= LOSSES["dlr"].classes else "margin"
    climb.run(every | lost, "apgd", "ratio", loss=ratio, steps=5)
    climb.run(every | (flat & (known.fall >= 0.1 * known.clean)), "apgd", "flat", loss="margin", steps=20)


def _search(climb: Climb, every: Tensor) -> None:
    """Search by scores where gradients may mislead, and go on as far as what scores lack leaves room for a success.

    Ten queries tell where scores alone move nothing. Where gradients are a guide, 50 and 300 queries of Square lower the
    margin by about a fifth and two fifths of what the descents did, less than half of what even a sample at the boundary
    needs; where they are not, by as much as the descents or more. What Square leaves below the descents is followed along
    the gradient. Samples that come near just as their gradient says get a glance at a few points beside the way: what
    is hidden from a gradient shows there. Samples of which neither gradients nor scores tell anything are searched from
    the other side of the boundary.
    """
    known, by_gradients = climb.known, climb.known.lowest.clone()
    fall, odd = known.fall, known.odd(0.05)
    still = ~known.broken & (fall < 0.01 * known.clean)
    asked = every | (odd & (known.near(0.6) | still)) | known.astray(0.5)
    by_scores = climb.run(asked, "square", queries=10)
    # What is near although the gradient promised more is hidden from it, and ten queries may miss it too.
    short = known.near(0.3) & (fall < SHORT * known.expected)
    stirred = every | (by_scores.abs() >= STIRRED * known.clean)
    by_scores = torch.maximum(by_scores, climb.run(asked & stirred, "square", queries=50))
    flat = asked & (torch.maximum(fall, by_scores) < 0.01 * known.clean)
    # A gradient that 50 queries outdo is no guide, even where scores alone would not get there.
    beaten = (by_scores >= fall) & (by_scores >= 0.01 * known.clean)
    asked &= every | (known.clean <= 2.8 * by_scores) | (known.near(0.1) & (known.clean <= 5.0 * by_scores)) | short
    doubted = ((asked | still) & odd & ~flat) | (known.odd(0.15) & known.near(2.0)) | (beaten & known.astray(0.5))
    told = climb.agreement(climb.doubtful(doubted | known.near(0.3) | (odd & known.near(0.7))))
    misled = (told < MISLED) & (every | known.near(2.0) | (by_scores >= 0.02 * known.clean))
    asked |= misled
    before, by_scores = by_scores, climb.run(asked, "square", queries=300)
    asked &= every | (known.clean <= 1.5 * by_scores) | (known.near(0.17) & (known.clean <= 1.8 * by_scores))
    asked &= every | known.near(0.4) | (by_scores > fall)
    asked &= every | (by_scores - before >= 0.25 * (known.clean - by_scores))
    _estimate(climb, misled | (asked & (told < AGREEMENT)), every)
    asked |= misled & (by_scores > 1.2 * fall)
    climb.run(asked, "apgd", "square", loss="cross_entropy")
    before, by_scores = by_scores, climb.run(asked, "square", queries=1000)
    rising = by_scores - before >= 0.75 * (known.clean - by_scores)
    climb.run(asked & (every | (rising & (known.clean <= 1.25 * by_scores))), "square")
    climb.follow(known.near(0.1) & (known.lowest < by_gradients), 20, classes=1, longest=0.3)
    _surround(climb, flat, every)


def _estimate(climb: Climb, lying: Tensor, every: Tensor) -> None:
    """Repeat the descents with slopes estimated from scores on the samples ``lying`` (bool), while that lowers margins."""
    known = climb.known
    before = known.lowest.clone()
    climb.estimate(lying, (0,), 12)
    lying = lying & (every | known.near(0.15) | (known.lowest < before - 0.05 * known.clean))
    climb.estimate(lying, (0, 1, 2), 30, "press/")
    climb.estimate(lying & known.near(0.5), (0,), 30, "fine/", fine=True)
    climb.estimate(lying & known.near(0.3), (0, 1), 30, "finer/", fine=True)
    climb.follow(lying & known.near(0.2), 40, "gently", classes=2)


def _surround(climb: Climb, flat: Tensor, every: Tensor) -> None:
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
