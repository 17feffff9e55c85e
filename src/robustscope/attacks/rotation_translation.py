"""Rotations and translations: the worst of some random ones, then of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.threats import RotationTranslation
from robustscope.core.types import AttackResult
from robustscope.geometry import rigid
from robustscope.geometry.losses import objective
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{engstrom2019exploring,
  title = {Exploring the Landscape of Spatial Robustness},
  author = {Engstrom, Logan and Tran, Brandon and Tsipras, Dimitris and Schmidt, Ludwig and Madry, Aleksander},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""


@dataclass
class _Worst:
    """The worst transformation found so far for each sample, and what it cost."""

    parameters: Tensor
    loss: Tensor
    forward: Tensor


@register(
    "rotation_translation",
    version=1,
    source="Engstrom et al., 2019, arXiv:1712.02779, Sec. 3",
    bibtex=BIBTEX,
    access="scores",
    norms=(),
    threats=("rotation-translation",),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"trials": 6, "angles": 7, "shifts": 3},
    cost=lambda p: (p["trials"] + p["angles"] * p["shifts"] ** 2, 0),
)
def rotation_translation(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: RotationTranslation,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    trials: int = 10,
    angles: int = 31,
    shifts: int = 5,
) -> AttackResult:
    """Try random transformations, then a grid of angles and shifts, and keep the worst for each sample.

    The grid has ``angles`` equal steps from -max_rotation to max_rotation and ``shifts`` in each direction from
    -max_translation to max_translation; its far corners come first, for they break most. A sample stops at its first
    adversarial image. With trials=0 this is the paper's grid search, with angles=0 its worst of k random ones.

    Args:
        model: classifier; only its scores are used.
        x: (B, H, W) or (B, C, H, W), clean images inside the bounds.
        y: int64 (B,), true classes.
        threat: largest rotation and translation, bounds.
        draws: random numbers of these samples; the purpose names the trial, so more trials contain fewer.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        trials: random transformations tried first, >= 0; the paper has 10.
        angles: angles of the grid, >= 0; the paper has 31. 0 leaves the grid out.
        shifts: shifts of the grid in each of two directions, >= 1; the paper has 5.

    Returns:
        The first adversarial image of each sample, else the one with the largest margin loss among all that were tried;
        ``parameters`` (B, 3): angle in degrees counter-clockwise, shift to the right and shift down in pixels. One
        forward row for each image tried, no backward row.

    Raises:
        InvalidValue: for counts out of range, nothing to try, and inputs that are no images.

    Source: Engstrom et al. 2019, arXiv:1712.02779, Sec. 3 (grid search, worst of k).

    Departures: random ones come before the grid, since they are cheap; the search stops at the first success; the
        paper's first-order attack is left out, which it found weaker than the grid.
    """
    if trials < 0 or angles < 0 or shifts < 1 or not trials + angles:
        raise InvalidValue(
            f"trials={trials}, angles={angles}, shifts={shifts} were given",
            "trials >= 0, angles >= 0 and shifts >= 1, not both of the first 0, are allowed",
            "Write e.g. trials=10,angles=31,shifts=5.",
        )
    rigid.check_images(x)
    largest = rigid.sizes(threat, x)
    worst = _Worst(torch.zeros_like(largest), x.new_full((len(x),), -torch.inf), torch.zeros_like(y))
    rows = torch.arange(len(x), device=x.device)
    for trial in range(trials):
        drawn = rigid.random_parameters(threat.select(rows), x[rows], draws.select(rows), f"trial/{trial}")
        rows = _try(model, x, y, threat, targets, rows, drawn, worst)
    for place in _grid(angles, shifts).to(x.device):
        rows = _try(model, x, y, threat, targets, rows, place * largest[rows], worst)
    x_adv = rigid.transform(x, worst.parameters, threat.bounds)
    return AttackResult(x_adv, worst.forward, torch.zeros_like(y), parameters=worst.parameters)


def _grid(angles: int, shifts: int) -> Tensor:
    """Return the grid as fractions of the sizes, the furthest from the middle first: float64 (N, 3)."""

    def steps(count: int) -> Tensor:
        if count < 2:
            return torch.zeros(count, dtype=torch.float64)
        return 2 * torch.arange(count, dtype=torch.float64) / (count - 1) - 1

    points = torch.cartesian_prod(steps(angles), steps(shifts), steps(shifts)).reshape(-1, 3)
    return points[points.square().sum(1).argsort(descending=True, stable=True)]


def _try(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: RotationTranslation,
    targets: Tensor | None,
    rows: Tensor,
    parameters: Tensor,
    worst: _Worst,
) -> Tensor:
    """Transform the samples ``rows``, remember what is worse than before, and return those not yet solved."""
    if not len(rows):
        return rows
    logits = model.logits(rigid.transform(x[rows], parameters, threat.bounds))
    goals = None if targets is None else targets[rows]
    loss = objective("margin", logits.shape[1], goals is not None)(logits, y[rows], goals).to(x.dtype)
    solved = is_adversarial(logits, y[rows], goals)
    better = solved | (loss > worst.loss[rows])
    worst.forward[rows] += 1
    worst.loss[rows[better]] = loss[better]
    worst.parameters[rows[better]] = parameters[better]
    return rows[~solved]
