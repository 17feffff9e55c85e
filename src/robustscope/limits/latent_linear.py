"""Latent-space robustness where it is known exactly: a linear classifier behind a linear generator, and Gaussian codes."""

from __future__ import annotations

import math

import torch
from scipy.special import ndtr
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.limits.cards import check_at_least, check_positive
from robustscope.limits.generators import PPCA


def linear_latent_radius(weight: Tensor, bias: Tensor, generator: PPCA, codes: Tensor, y: Tensor) -> Tensor:
    """Return the exact scaled length of the shortest latent perturbation that changes a linear classifier's decision.

    With x = mean + W code: min over t of (Z_y - Z_t) / ||W'(w_y - w_t)||_2, over sqrt(latent); 0 where another logit is
    already as large. The class of the generator stays y.

    Args:
        weight: (K, d), of logits weight x + bias.
        bias: (K,).
        generator: linear in the codes.
        codes: (B, latent), centres.
        y: int64 (B,).

    Returns:
        float64 (B,), in scaled lengths ||.||_2 / sqrt(latent); ``inf`` where no code changes the decision.
    """
    gaps, pulls = _margins(weight, bias, generator, codes, y)
    radius = torch.where(pulls > 0, gaps / pulls, torch.where(gaps > 0, torch.inf, 0.0)).amin(1)
    return radius.clamp(min=0) / math.sqrt(generator.latent)


def linear_noise_accuracy(
    weight: Tensor, bias: Tensor, generator: PPCA, codes: Tensor, y: Tensor, level: float
) -> Tensor:
    """Return the probability that a binary linear classifier is right on a code with noise: float64 (B,).

    The noisy code is (code + level n) / sqrt(1 + level^2), so the margin is normal: Phi(margin of the decayed code /
    (level / sqrt(1 + level^2) ||W'(w_y - w_t)||)).

    Args:
        weight: (2, d).
        bias: (2,).
        generator: linear in the codes.
        codes: (B, latent).
        y: int64 (B,).
        level: standard deviation of the noise before the decay, > 0.

    Raises:
        InvalidValue: for more than two classes, whose margins are not independent.
    """
    check_positive(level=level)
    if len(weight) != 2:
        raise InvalidValue(f"{len(weight)} classes were given", "two are allowed", "Draw the noise instead.")
    keep = 1 / math.sqrt(1 + level**2)
    gaps, pulls = _margins(weight, bias, generator, keep * codes.double(), y)
    rows = torch.arange(len(y), device=y.device)
    return torch.as_tensor(ndtr((gaps / (level * keep * pulls))[rows, 1 - y].cpu().numpy()))


def decay(level: float) -> float:
    """Return the share of a code that noise of this level, kept standard normal, takes away: 1 - 1 / sqrt(1 + level^2).

    Example:
        >>> round(decay(0.5), 6), round(decay(1.0), 6)
        (0.105573, 0.292893)
    """
    return 1 - 1 / math.sqrt(1 + level**2)


def log_density(rho: float, *, latent: int, level: float) -> float:
    """Return the log density of a noisy code at scaled distance rho from the decayed code.

    The noisy code is normal with variance level^2 / (1 + level^2) around it, so the log density is
    n / 2 log((1 + level^2) / (2 pi level^2)) - n rho^2 (1 + level^2) / (2 level^2), n = latent.

    Args:
        rho: scaled length, >= 0.
        latent: n, values of a code.
        level: standard deviation of the noise before the decay, > 0.

    Source: Buzhinsky, Nerinovsky & Tripakis 2020, arXiv:2003.01993, Sec. 4, the bound tau on a density.

    Departures: the authors' code multiplies the second term by another sqrt(n), which does not follow from the density.
    """
    check_at_least(1, latent=latent)
    check_positive(level=level)
    precision = (1 + level**2) / level**2
    return 0.5 * latent * (math.log(precision / (2 * math.pi)) - rho**2 * precision)


def density_radius(value: float, *, latent: int, level: float) -> float:
    """Return the scaled distance at which the log density of a noisy code is ``value``; the inverse of :func:`log_density`.

    Raises:
        InvalidValue: for a value above the density's largest.
    """
    top = log_density(0.0, latent=latent, level=level)
    if value > top:
        raise InvalidValue(f"a log density of {value} was given", f"at most {top} is allowed", "Lower it.")
    return math.sqrt(2 * (top - value) / latent * level**2 / (1 + level**2))


def _margins(weight: Tensor, bias: Tensor, generator: PPCA, codes: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return margins to each class and the latent length of their gradients, (B, K); inf and 1 for the true class."""
    w = weight.double()
    x = generator.decode(codes.double(), y).flatten(1)
    logits = x @ w.T + bias.double()
    own = y[:, None]
    apart = w[y][:, None, :] - w[None]
    pulls = (apart @ generator.loadings[y].double()).norm(dim=2)
    gaps = logits.gather(1, own) - logits
    return gaps.scatter(1, own, torch.inf), pulls.scatter(1, own, 1.0)
