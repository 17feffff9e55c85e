"""HopSkipJump: the boundary's normal estimated from decisions, a step along it, and back to the boundary."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.decision_search import DecisionSearch, bisect, check_starts, find_starts
from robustscope.attacks.finite_differences import block_of, per_group
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import columns
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{chen2020hopskipjump,
  title = {{HopSkipJumpAttack}: A Query-Efficient Decision-Based Attack},
  author = {Chen, Jianbo and Jordan, Michael I. and Wainwright, Martin J.},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2020}
}"""

WIDER = 4.0
"""How much further the points of an estimate spread after a step that led nowhere, and nearer after any other."""

STUCK = 0.99
"""Share of the distance below which a step must have come to have led somewhere."""

HALVINGS = 20
"""Most halvings of a step; after them the sample stays where it is and estimates anew."""


@register(
    "hopskipjump",
    version=3,
    source="Chen, Jordan, Wainwright, 2020, arXiv:1904.02144, Algorithms 1 and 2",
    bibtex=BIBTEX,
    aim="minimum-norm",
    access="decisions",
    norms=("l2", "linf"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"queries": 1000},
    cost=lambda p: (p["queries"], 0),
)
def hopskipjump(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    queries: int = 5000,
    initial_samples: int = 40,
    max_samples: int = 10000,
    momentum: float | None = None,
    tries: int = 50,
    starts: Tensor | None = None,
    stop_at_epsilon: bool = False,
) -> AttackResult:
    """Estimate the normal of the decision boundary from decisions about random points, and step along it.

    From an adversarial point on the boundary, at distance r of ``x``, the classes of random points at distance
    s = r / d (d values) are asked; the mean of their directions, each weighted with +1 or -1 by its class, points along
    the normal. A step r / sqrt(t), halved until it is adversarial, and a bisection towards ``x`` lead to the next
    boundary point. The t-th estimate takes ``initial_samples`` times sqrt(t) points.

    Args:
        model: classifier under attack; only its predicted classes are used.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l2 or linf, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        queries: most rows that a sample sends through the model, >= 1; every one counts, also those of the start.
        initial_samples: points of the first estimate, >= 1.
        max_samples: most points of one estimate, >= 1.
        momentum: weight of the earlier estimates, in [0, 1); None means 0.8 in linf and 0 in l2, where they slow the
            search.
        tries: random pictures tried as a start, >= 1.
        starts: (B, *S), points to start from where they are adversarial, such as inputs of other classes; None starts
            from random pictures, which seldom reach a given target on natural images. For ``attack()`` only.
        stop_at_epsilon: end the search of a sample with its first example within the radius.

    Returns:
        The nearest adversarial point met for each sample, projected on the threat set where it lies outside; ``x``
        itself where no start was found.

    Raises:
        InvalidValue: for hyper-parameters out of range, or starts of another shape or outside the bounds.
        InvalidType: for starts of another type.

    Source: Chen, Jordan, Wainwright 2020, arXiv:1904.02144, Algorithms 1 and 2 and Sec. IV.

    Departures: 40 points in the first estimate, where the paper takes 100, for more steps reach further than better
        ones; in linf the estimates are summed over the steps, with fading weights; directions are Gaussian in linf too,
        not uniform; where a step leads no nearer the next points spread four times as far, for the boundary of a model
        that rounds its inputs has plateaus; starts are pictures of grains of several sizes; the nearest point met is
        returned, not the last, and the last query moves it off the boundary by a ten-thousandth of its distance, so that
        rounding does not decide; the first query asks about ``x`` itself.
    """
    check_positive(queries=queries, initial_samples=initial_samples, max_samples=max_samples, tries=tries)
    if momentum is not None and not 0 <= momentum < 1:
        raise InvalidValue(f"momentum={momentum} was given", "None, or a number in [0, 1), is allowed", "Try 0.8.")
    check_starts(x, starts, threat)
    weight = momentum if momentum is not None else {"linf": 0.8}.get(threat.norm, 0.0)
    kept_back = int(queries > 2)
    search = DecisionSearch(model, x, y, threat, targets, queries - kept_back, stop_at_epsilon)
    rows, current = find_starts(search, starts, draws, tries)
    size = max(x[0].numel(), 2) if len(x) else 2
    tolerance = size**-1.5 if threat.norm == "l2" else size**-2.0
    current = bisect(search, rows, current, tolerance)
    fading, scale = torch.zeros_like(current), x.new_ones(len(rows))
    for step in itertools.count(1):
        keep = search.unfinished(rows).nonzero()[:, 0]
        if not len(keep):
            break
        rows, current, fading, scale = rows[keep], current[keep], fading[keep], scale[keep]
        count = min(round(initial_samples * math.sqrt(step)), max_samples)
        length = balls.distance(threat.norm, x[rows], current).to(x.dtype)
        spread = scale * length / size
        normal, alike = _normal(search, rows, current, spread, count, draws.select(rows), f"direction/{step}")
        fading = weight * fading + balls.steepest("l2", normal)
        direction = balls.steepest(threat.norm, fading)
        far, moved = _jump(search, rows, current, direction, length / math.sqrt(step))
        current = current.index_copy(0, moved, bisect(search, rows[moved], far[moved], tolerance))
        stuck = alike | (balls.distance(threat.norm, x[rows], current) > STUCK * length)
        scale = torch.where(stuck, scale * WIDER, scale / WIDER).clamp_(1, size)
    search.queries += kept_back
    search.move_off()
    return search.result()


def _normal(
    search: DecisionSearch, rows: Tensor, current: Tensor, spread: Tensor, count: int, draws: Draws, purpose: str
) -> tuple[Tensor, Tensor]:
    """Estimate the normal at ``current`` (b, *S), towards the adversarial side, from ``count`` points.

    The points of many samples go to the model together. A sample with fewer queries left makes do with those.

    Returns:
        The normals (b, *S), of any length, and for which samples all points were alike, bool (b,).
    """
    parts = torch.arange(len(rows), device=rows.device).split(per_group(count, current[0].numel()))
    found = [_estimate(search, rows[p], current[p], spread[p], count, draws.select(p), purpose) for p in parts]
    return torch.cat([normal for normal, _ in found]), torch.cat([alike for _, alike in found])


def _estimate(
    search: DecisionSearch, rows: Tensor, current: Tensor, spread: Tensor, count: int, draws: Draws, purpose: str
) -> tuple[Tensor, Tensor]:
    flat = current.flatten(1)
    batch, size = flat.shape
    left, block = search.left(rows), block_of(size)
    sums, hits = flat.new_zeros(batch, 2, size), flat.new_zeros(batch)
    for start in range(0, count, block):
        number = min(block, count - start)
        delta = draws.normal(f"{purpose}/{start}", flat.new_empty(batch, number, size))
        points = delta.mul_((spread / size**0.5)[:, None, None]).add_(flat[:, None]).clamp_(*search.threat.bounds)
        asked = torch.arange(start, start + number, device=rows.device) < left[:, None]
        owners = rows[:, None].expand(-1, number)[asked]
        solved = search.decide(owners, points[asked].view(-1, *current.shape[1:]))
        signs = flat.new_zeros(batch, number)
        signs[asked] = solved.to(flat.dtype) * 2 - 1
        # What the bounds have left of the perturbations, summed with the signs and without.
        sums += torch.bmm(torch.stack([signs, asked.to(flat.dtype)], 1), points.sub_(flat[:, None]))
        hits += signs.sum(1)
    mean = hits / left.clamp(min=1, max=count)
    # Without the mean the estimate varies less (Sec. III-C); where all points agree the mean is all there is.
    alike = mean.abs() == 1
    baseline = torch.where(alike, torch.zeros_like(mean), mean)
    return (sums[:, 0] - baseline[:, None] * sums[:, 1]).view_as(current), alike


def _jump(
    search: DecisionSearch, rows: Tensor, current: Tensor, direction: Tensor, length: Tensor
) -> tuple[Tensor, Tensor]:
    """Step along ``direction`` by ``length`` (b,), halved until the point is adversarial.

    Returns:
        The points reached (b, *S), and the positions of those that are adversarial.
    """
    far, moved = current.clone(), torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for halving in range(HALVINGS):
        active = (~moved & search.unfinished(rows)).nonzero()[:, 0]
        if not len(active):
            break
        size = columns(length[active] / 2**halving, current)
        points = (current[active] + size * direction[active]).clamp_(*search.threat.bounds)
        solved = search.ask(rows[active], points)
        far[active[solved]] = points[solved]
        moved[active[solved]] = True
    return far, moved.nonzero()[:, 0]
