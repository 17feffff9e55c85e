"""Sigma-zero: the smallest number of changed values, by a smooth stand-in for the l0 norm."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.adam import Adam
from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import Search, annealed, columns
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{cina2025sigmazero,
  title = {$\\sigma$-zero: Gradient-based Optimization of $\\ell_0$-norm Adversarial Examples},
  author = {Cin{\\`a}, Antonio Emanuele and Villani, Francesco and Pintor, Maura and Sch{\\"o}nherr, Lea
            and Biggio, Battista and Pelillo, Marcello},
  booktitle = {International Conference on Learning Representations},
  year = {2025}
}"""


@register(
    "sigma_zero",
    version=2,
    source="Cinà et al., 2025, arXiv:2402.01879, Algorithm 1",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l0",),
    goals=("untargeted", "targeted"),
    quick={"steps": 200},
    cost=lambda p: (p["steps"] + 1, p["steps"]),
)
def sigma_zero(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 1000,
    step_size: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    threshold_change: float = 0.01,
    stop_at_epsilon: bool = False,
) -> AttackResult:
    """Descend the margin and the smooth l0 norm sum(d^2 / (d^2 + sigma)) together, and zero what is small.

    Each step divides the gradient by its largest value, takes an Adam step whose size falls by half a cosine to a
    tenth, clips to the bounds, and sets to zero the values of the perturbation below a threshold. The threshold rises
    while the sample is adversarial and falls while it is not.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l0, bounds, and the number of values that a returned example may change; ``inf`` for the fewest found.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: number of steps, >= 1.
        step_size: first step size of Adam, > 0; this, ``threshold`` and the square root of ``sigma`` are in units of
            the width of the bounds.
        sigma: sharpness of the smooth norm, > 0; smaller is nearer to l0.
        threshold: first size below which changes are set to zero, >= 0.
        threshold_change: by how much the threshold moves at a step, as a share of the step size, >= 0.
        stop_at_epsilon: end the search of a sample with its first example within the radius.

    Returns:
        The adversarial iterate of fewest changed values of each sample; where it changes more values than the radius
        allows, its projection; ``x`` itself where none was found.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Cinà et al. 2025, arXiv:2402.01879, Algorithm 1.

    Departures: none in the method; a wrong class must win by a little more than rounding to count.
    """
    check_positive(steps=steps, step_size=step_size, sigma=sigma)
    if not (0 <= threshold < float("inf") and 0 <= threshold_change < float("inf")):
        raise InvalidValue(
            f"threshold={threshold} and threshold_change={threshold_change} were given",
            "finite numbers >= 0 are allowed",
            "The paper uses 0.3 and 0.01.",
        )
    width = threat.bounds.upper - threat.bounds.lower
    search = Search(model, x, y, threat, targets, stop_at_epsilon)
    rows = search.rows()
    centre, delta = x, torch.zeros_like(x)  # delta in units of the width
    adam = Adam.begin(x)
    limit = x.new_full((len(x),), threshold)
    for step in range(steps):
        if not len(rows):
            return search.result()
        values, gradients, solved = search.gradient(rows, _point(threat, centre, delta), margin_loss)
        keep = search.unfinished(rows)
        if not keep.all():
            rows, centre, delta, limit, values = rows[keep], centre[keep], delta[keep], limit[keep], values[keep]
            gradients, solved, adam = gradients[keep], solved[keep], adam.select(keep)
        slope = _slope(delta, width * gradients * columns(values < 0, gradients), sigma)
        size = annealed(step_size, step_size / 10, step, steps)
        delta = delta - adam.step(slope, size)
        delta = (_point(threat, centre, delta) - centre) / width
        change = threshold_change * size
        limit = torch.where(solved, limit + change, limit - change).clamp_(0, 1)
        delta = torch.where(delta.abs() < columns(limit, delta), torch.zeros_like(delta), delta)
    if len(rows):
        search.logits(rows, _point(threat, centre, delta))
    return search.result()


def _point(threat: ThreatModel, x: Tensor, delta: Tensor) -> Tensor:
    """Return ``x`` moved by ``delta`` (in units of the width of the bounds), inside the bounds."""
    width = threat.bounds.upper - threat.bounds.lower
    return torch.add(x, delta, alpha=width).clamp_(*threat.bounds)


def _slope(delta: Tensor, gradients: Tensor, sigma: float) -> Tensor:
    """Return the gradient of mean(d^2 / (d^2 + sigma)) - loss, divided by its largest value: (b, *S)."""
    values = max(delta[0].numel(), 1)
    slope = delta * (2 * sigma / values) / (delta.square() + sigma).square() - gradients
    largest = slope.flatten(1).abs().amax(1) if slope[0].numel() else slope.new_ones(len(slope))
    return slope / columns(largest.clamp(min=1e-12), slope)
