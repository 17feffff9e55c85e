"""Optimal transport between two Gaussians: the least adversarial error of a population, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from scipy.optimize import brentq, lsq_linear
from scipy.special import ndtr
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.limits.cards import check_epsilons, register
from robustscope.limits.transport import BHAGOJI


@dataclass(frozen=True)
class GaussianBound:
    """The least adversarial 0-1 loss of any classifier on a population of two equally likely Gaussian classes.

    Args:
        norm: of the balls.
        epsilons: E radii, in the units of the inputs.
        distance: float64 (E,), what the adversary leaves of the distance between mean and middle, in standard
            deviations; the loss is the normal tail beyond it.
    """

    norm: Literal["linf", "l2"]
    epsilons: tuple[float, ...]
    distance: Tensor
    subject: Literal["population"] = "population"

    @property
    def loss(self) -> Tensor:
        """Least adversarial 0-1 loss at each radius, reached by a linear classifier: float64 (E,)."""
        return torch.as_tensor(ndtr(-self.distance.numpy()))


@register(
    "transport_gaussian",
    version=1,
    source="Bhagoji, Cullina & Mittal, 2019, arXiv:1909.12272, Theorem 2",
    bibtex=BHAGOJI,
    subject="population",
    direction="exact",
    quantity="least adversarial 0-1 loss of any classifier, two Gaussians",
    norms=("linf", "l2"),
)
def transport_gaussian(
    mean: Tensor,
    scale: float | Tensor,
    *,
    norm: Literal["linf", "l2"] = "l2",
    epsilons: Sequence[float | str] = (0.0, 0.1, 0.3),
) -> GaussianBound:
    """Return the least adversarial error on N(mean, C) against N(-mean, C), equally likely.

    loss = Q(min over ||z|| <= epsilon of the length of C^{-1/2} (mean - z)), Q the tail of the standard normal law. With
    C = s^2 I: for l2, max(||mean|| - epsilon, 0) / s; for linf, the length of the soft-thresholded mean over s.

    Args:
        mean: (d,), mean of the first class; that of the second is -mean.
        scale: standard deviation: one number, one for each value (d,), or the covariance matrix (d, d).
        norm: "linf" or "l2".
        epsilons: radii, in the units of ``mean``.

    Returns:
        Distances and losses, for each radius. They hold for the population: samples of it have less.

    Raises:
        InvalidValue: for another norm, means or scales of a wrong shape, or a covariance that is not positive definite.

    Example:
        >>> transport_gaussian(torch.tensor([1.0]), 1.0, epsilons=(0.3,)).loss.round(decimals=5).tolist()
        [0.24196]

    Source: Bhagoji, Cullina & Mittal 2019, arXiv:1909.12272, Theorem 2.
    """
    if norm not in ("linf", "l2"):
        raise InvalidValue(f"norm={norm!r} was given", "'linf' or 'l2' is allowed", "Write e.g. norm='l2'.")
    radii = check_epsilons(epsilons)
    centre = torch.as_tensor(mean).double().cpu()
    if centre.dim() != 1 or not len(centre) or not torch.isfinite(centre).all():
        raise InvalidValue(
            f"a mean of shape {tuple(centre.shape)} was given", "finite values of shape (d,) are allowed", "Flatten it."
        )
    values, vectors = _axes(torch.as_tensor(scale).double().cpu(), len(centre))
    left = [_distance(norm, centre, values, vectors, epsilon) for epsilon in radii]
    return GaussianBound(norm, radii, torch.tensor(left, dtype=torch.float64))


def _axes(scale: Tensor, d: int) -> tuple[Tensor, Tensor | None]:
    """Return standard deviations (d,) and the axes (d, d) along which they are; None for those of the inputs."""
    axes = None
    if scale.dim() == 2 and scale.shape == (d, d) and torch.allclose(scale, scale.T):
        variance, axes = torch.linalg.eigh(scale)
        deviations = variance.clamp(min=0).sqrt()
    elif scale.dim() == 0 or scale.shape == (d,):
        deviations = scale.expand(d).clone()
    else:
        raise InvalidValue(
            f"a scale of shape {tuple(scale.shape)} was given for {d} values",
            f"one number, ({d},) deviations or a symmetric ({d}, {d}) covariance is allowed",
            "Give standard deviations, or the covariance matrix.",
        )
    if not torch.isfinite(deviations).all() or not bool((deviations > 0).all()):
        raise InvalidValue(
            "a scale that is not positive was given",
            "positive deviations, or a positive definite covariance, are allowed",
            "Remove values that do not vary.",
        )
    return deviations, axes


def _distance(norm: str, mean: Tensor, deviations: Tensor, axes: Tensor | None, epsilon: float) -> float:
    """Return the least length of C^{-1/2} (mean - z) over the ball of radius epsilon."""
    if norm == "linf" and axes is not None:
        whiten = (axes / deviations).T
        solved = lsq_linear(
            whiten.numpy(), (whiten @ mean).numpy(), (-epsilon - 1e-300, epsilon + 1e-300), method="bvls", tol=1e-14
        )
        return math.sqrt(2 * solved.cost)
    if norm == "linf":
        return float(((mean.abs() - epsilon).clamp(min=0) / deviations).norm())
    along = mean if axes is None else axes.T @ mean
    if float(along.norm()) <= epsilon:
        return 0.0
    if epsilon == 0:
        return float((along / deviations).norm())
    # z = mean / (1 + t s^2) along each axis; its length falls from ||mean|| to 0 as the multiplier t grows.
    variance = deviations.square()

    def excess(t: float) -> float:
        return float((along / (1 + t * variance)).norm()) - epsilon

    top = 1.0
    while excess(top) > 0:
        top *= 2
    t = cast(float, brentq(excess, 0.0, top, xtol=1e-300, rtol=1e-14))
    return float((t * variance / (1 + t * variance) * along / deviations).norm())
