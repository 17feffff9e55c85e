"""Maximum-likelihood fit of the reverse Weibull distribution, many samples at once, and the test of its fit.

The distribution function is exp(-((a - y) / b)^c) for y < a: location a, scale b, shape c. Given a, the best b and c have
a known equation with one root, so that only a is searched. The likelihood in a may have several maxima, or none, and it
grows without limit where a approaches the largest value with c < 1; hence a whole grid of locations is looked at, and
every maximum inside it is a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEAREST, FURTHEST, STARTS = -5.0, 3.0, 49
"""Powers of ten of the gap between location and largest value, in units of the range of the values, and how many are tried."""
NEWTON, WARM, HALVINGS = 14, 3, 36
"""Newton steps for the shape from a cold start, from the last shape, and halvings of the gap between two starts."""
NUMBERS = 2**21
"""Numbers that are held at once for the grid."""


@dataclass(frozen=True)
class Fit:
    """Fitted distributions, one for each row of maxima: float64 (P,) each, NaN where the likelihood has no maximum.

    Args:
        shape, location, scale: c, a and b.
        statistic: Kolmogorov-Smirnov distance.
        p_value: of the two-sided test. It is too large by nature, since the parameters were fitted to the same values.
    """

    shape: Tensor
    location: Tensor
    scale: Tensor
    statistic: Tensor
    p_value: Tensor


def fit(values: Tensor, shape_penalty: float = 0.0) -> Fit:
    """Fit a reverse Weibull distribution to each row by maximum likelihood, c >= 1.

    Args:
        values: float64 (P, N), N >= 3, not all equal in a row.
        shape_penalty: what is subtracted from the log-likelihood is this times c^2; 0 is plain maximum likelihood.

    Returns:
        The fits; NaN for rows whose likelihood grows until the location lies 1,000 ranges away, or until it meets the
        largest value, and for rows of equal values.

    Example:
        >>> draws = 3 - torch.linspace(0.01, 0.99, 99, dtype=torch.float64).log().neg().pow(1 / 4)[None]
        >>> round(float(fit(draws).location[0]), 1)
        2.9
    """
    if not len(values):
        return Fit(*(values.new_empty(0) for _ in range(5)))
    size = max(1, NUMBERS // (values.shape[1] * STARTS))
    parts = [_fit(part, shape_penalty) for part in values.split(size)]
    shape, location, scale = (torch.cat(column) for column in zip(*parts, strict=True))
    statistic, p_value = kolmogorov_smirnov(values, shape, location, scale)
    return Fit(shape, location, scale, statistic, p_value)


def _fit(values: Tensor, shape_penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    top = values.amax(1)
    spread = top - values.amin(1)
    # From here on in units of the range, as distances below the largest value.
    below = (top[:, None] - values) / torch.where(spread > 0, spread, 1.0)[:, None]
    gaps = torch.logspace(NEAREST, FURTHEST, STARTS, dtype=values.dtype, device=values.device)
    shape, _, likelihood, slope = _profile(below[:, None], gaps[None], shape_penalty)
    peak = (slope[:, :-1] > 0) & (slope[:, 1:] <= 0) & (shape[:, 1:] >= 1)
    height = torch.maximum(likelihood[:, :-1], likelihood[:, 1:]).masked_fill(~peak, -torch.inf)
    first = height.argmax(1)  # several maxima: the highest
    low, high = gaps[first].log(), gaps[first + 1].log()
    warm = shape.gather(1, first[:, None])[:, 0]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        warm, _, _, slope = _profile(below, middle.exp(), shape_penalty, warm)
        rising = slope > 0
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    gap = ((low + high) / 2).exp()
    shape, scale, _, _ = _profile(below, gap, shape_penalty)
    lost = ~peak.any(1) | (spread <= 0)
    found = (shape, top + gap * spread, scale * spread)
    return tuple(part.masked_fill(lost, torch.nan) for part in found)  # ty: ignore[invalid-explicit-return]


def _profile(
    below: Tensor, gap: Tensor, penalty: float, warm: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the best shape and scale for each gap, the log-likelihood per value, and its slope in the gap.

    Args:
        below: (*P, N), distances below the largest value.
        gap: (*P), what the location lies above the largest value.
        penalty: as in :func:`fit`.
        warm: (*P), a shape near the best one, or None.
    """
    count = below.shape[-1]
    u = below + gap[..., None]
    logs = u.log()
    mean = logs.mean(-1)
    highest = logs.amax(-1, keepdim=True)
    shape = 1.28 / logs.std(-1).clamp(min=1e-12) if warm is None else warm
    for _ in range(NEWTON if warm is None else WARM):
        weight = (shape[..., None] * (logs - highest)).exp()
        total = weight.sum(-1)
        first = (weight * logs).sum(-1) / total
        second = (weight * logs.square()).sum(-1) / total - first.square()
        error = first - 1 / shape - mean + 2 * penalty * shape / count
        step = error / (second.clamp(min=0) + 1 / shape.square() + 2 * penalty / count)
        shape = torch.maximum(torch.minimum(shape - step, 4 * shape), shape / 4)
    weight = (shape[..., None] * (logs - highest)).exp()
    log_power = weight.mean(-1).log() + shape * highest[..., 0]  # log of b^c
    scale = (log_power / shape).exp()
    likelihood = shape.log() - log_power + (shape - 1) * mean - penalty * shape.square() / count
    pull = (weight / u).mean(-1) / weight.mean(-1)
    slope = (shape - 1) * u.reciprocal().mean(-1) - shape * pull
    return shape, scale, likelihood, slope


def kolmogorov_smirnov(values: Tensor, shape: Tensor, location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest distance between the values' distribution and the fitted one, and its two-sided p-value.

    Args:
        values: float64 (P, N).
        shape, location, scale: float64 (P,); rows with NaN give NaN.
    """
    from scipy.stats import kstwo

    count = values.shape[1]
    ordered = values.sort(1).values
    distance = (location[:, None] - ordered).clamp(min=0) / scale[:, None]
    cumulated = (-distance.pow(shape[:, None])).exp()
    steps = torch.arange(count + 1, dtype=values.dtype, device=values.device) / count
    statistic = torch.maximum((steps[1:] - cumulated).amax(1), (cumulated - steps[:-1]).amax(1))
    p_value = torch.from_numpy(kstwo.sf(statistic.cpu().numpy(), count)).to(values)
    return statistic, p_value.reshape(statistic.shape)
