"""Random noise against adversarial perturbations: how much longer noise must be to change a decision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import betainc, betaincinv, ndtri
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.limits.cards import check_at_least, check_positive, check_share, register
from robustscope.limits.fawzi import FAWZI
from robustscope.models.classifier import Classifier

BISECTIONS = 30


@dataclass(frozen=True)
class NoiseRatio:
    """Length of random noise that changes a linear decision with a given probability, over the shortest perturbation.

    Args:
        values: d, values of an input.
        risk: probability that noise uniform on the sphere changes the decision.
        exact: the ratio, the same for every linear classifier and sample.
        lower: lower bound of the theorem, max(1, sqrt(d / (2 ln(2 / risk)))).
        upper: upper bound of the theorem, 1 / sqrt(1 - (12 risk)^(1/d)); ``inf`` for a risk of 1/12 or more.
    """

    values: int
    risk: float
    exact: float
    lower: float
    upper: float
    subject: Literal["population"] = "population"


@dataclass(frozen=True)
class NoiseRadius:
    """Length of random noise that changes the decision for each sample, measured.

    Args:
        radius: float64 (n,), l2 length in the units of the inputs, at which the share of directions that change the
            decision first exceeded the risk in a bisection; ``reach`` where none did.
        beyond: bool (n,), whether even ``reach`` was not enough.
        risk: share of directions asked for.
        directions: directions tried for each sample.
        reach: largest length tried.
        forward: int64 (n,), rows that each sample sent through the model.
    """

    radius: Tensor
    beyond: Tensor
    risk: float
    directions: int
    reach: float
    forward: Tensor
    subject: Literal["classifier"] = "classifier"


@dataclass(frozen=True)
class NoiseComparison:
    """Mean length of noise against mean length of adversarial perturbations, beside what a linear classifier would have.

    Args:
        n: samples.
        adversarial: mean l2 distance to the decision boundary, in the units of the inputs.
        noise: mean l2 length of the noise that changes the decision.
        linear: the ratio for linear classifiers, with its bounds.
    """

    n: int
    adversarial: float
    noise: float
    linear: NoiseRatio
    subject: Literal["classifier"] = "classifier"

    @property
    def ratio(self) -> float:
        """Noise over adversarial; above the linear one, the boundary curves towards the samples in few directions."""
        return self.noise / self.adversarial


def cap_probability(t: float, values: int) -> float:
    """Return the probability that a point, uniform on the unit sphere, has a first coordinate of at least t.

    Args:
        t: in [0, 1].
        values: dimension of the space, >= 2.

    Example:
        >>> cap_probability(0.0, 5), round(cap_probability(0.5, 3), 9)
        (0.5, 0.25)
    """
    return float(0.5 * betainc((values - 1) / 2, 0.5, 1 - t * t))


@register(
    "noise_ratio",
    version=1,
    source="Fawzi, Fawzi & Frossard, 2018, arXiv:1502.02590, Theorem 3",
    bibtex=FAWZI,
    subject="population",
    direction="exact",
    quantity="noise robustness over adversarial robustness, linear classifiers",
)
def noise_ratio(*, values: int, risk: float = 0.01) -> NoiseRatio:
    """Return how much longer than the shortest perturbation noise must be to change a linear decision.

    At distance r of a plane, noise of length r / t crosses it with the probability of a cap of height t of the sphere;
    so the ratio is 1 / t where that probability is the risk: t^2 = 1 - I^-1(2 risk; (d - 1) / 2, 1/2), I^-1 the inverse
    of the regularised incomplete beta function. It grows like sqrt(d) / (the risk's normal quantile).

    Args:
        values: d, values of an input, >= 2.
        risk: probability of a changed decision, below 1/2.

    Returns:
        The exact ratio between the bounds of the theorem.

    Raises:
        InvalidValue: for fewer than two values, or a risk that is no probability below 1/2.

    Example:
        >>> round(noise_ratio(values=784).exact, 3)
        12.045

    Source: Fawzi, Fawzi & Frossard 2018, arXiv:1502.02590, Theorem 3, for the bounds; the exact ratio is derived here.
    """
    check_at_least(2, values=values)
    check_share("risk", risk, 0.0, 0.5)
    exact = 1 / math.sqrt(1 - float(betaincinv((values - 1) / 2, 0.5, 2 * risk)))
    lower = max(math.sqrt(values / (2 * math.log(2 / risk))), 1.0)
    upper = math.inf if 12 * risk >= 1 else 1 / math.sqrt(-math.expm1(math.log(12 * risk) / values))
    return NoiseRatio(values, risk, exact, lower, upper)


@register(
    "noise_radius",
    version=1,
    source="Fawzi, Fawzi & Frossard, 2018, arXiv:1502.02590, Eq. (3); Fawzi, Moosavi-Dezfooli & Frossard, 2016",
    bibtex=FAWZI,
    subject="classifier",
    direction="estimate",
    quantity="l2 length of random noise that changes a decision",
    quick={"directions": 50},
)
def noise_radius(
    model: Classifier,
    x: Tensor,
    *,
    draws: Draws,
    risk: float = 0.01,
    directions: int = 1000,
    reach: float = 100.0,
) -> NoiseRadius:
    """Measure how long noise, uniform on the sphere, must be to change the decision with a given probability.

    The same directions serve for all lengths of a sample; their share that changes the decision is bisected in the
    length. The bounds of the inputs are ignored, as in the theory: noise leaves them.

    Args:
        model: classifier; only its decisions are used.
        x: (n, *S), samples, in the units of the bounds.
        draws: decide the directions of these samples.
        risk: share of directions, below 1/2.
        directions: tried for each sample, at least 1 / risk.
        reach: largest length tried, in the units of the bounds.

    Returns:
        Lengths for each sample. With m directions the share has a standard error of sqrt(risk (1 - risk) / m).

    Raises:
        InvalidValue: for shares, counts or lengths out of range.

    Source: Fawzi, Fawzi & Frossard 2018, arXiv:1502.02590, Eq. (3).

    Departures: where the share rises and falls with the length, one of its crossings is returned, not the last.
    """
    check_share("risk", risk, 0.0, 0.5)
    check_at_least(1, directions=directions)
    check_positive(reach=reach)
    if directions * risk < 1:
        raise InvalidValue(
            f"directions={directions} with risk={risk} was given",
            "at least 1 / risk directions are allowed",
            "Fewer cannot tell the share from zero.",
        )
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), reach, dtype=torch.float64)
    beyond = torch.zeros(len(x), dtype=torch.bool)
    # One sample at a time: its directions are held once, and nothing depends on the others.
    for k in range(len(x)):
        own = draws.select(torch.tensor([k]))
        rays = own.normal("directions", x.new_empty(1, directions, *x.shape[1:]))[0]
        size = torch.linalg.vector_norm(rays.flatten(1), dim=1)
        rays = rays / size.view(-1, *([1] * (x.dim() - 1)))
        before = model.decisions(x[k : k + 1])
        beyond[k] = _changed(model, x[k], rays, reach, before) <= risk
        for _ in range(0 if beyond[k] else BISECTIONS):
            middle = (low[k] + high[k]) / 2
            if _changed(model, x[k], rays, float(middle), before) > risk:
                high[k] = middle
            else:
                low[k] = middle
    forward = torch.where(beyond, 1 + directions, 1 + directions * (1 + BISECTIONS))
    return NoiseRadius(high, beyond, risk, directions, reach, forward)


def compare_noise(adversarial: Tensor, noise: Tensor, values: int, risk: float = 0.01) -> NoiseComparison:
    """Put the mean length of noise beside the mean length of adversarial perturbations of the same samples.

    Args:
        adversarial: (n,), l2 distances to the decision boundary, for instance of a minimum-norm attack, which are upper
            bounds.
        noise: (n,), l2 lengths of noise; see :func:`noise_radius`.
        values: d, values of an input.
        risk: of the noise.

    Raises:
        InvalidValue: for lengths that are not finite, of other numbers of samples, or zero throughout.

    Source: Fawzi, Moosavi-Dezfooli & Frossard 2016, arXiv:1608.08967, for the comparison of networks with sqrt(d).
    """
    far, long = adversarial.double(), noise.double()
    fine = far.shape == long.shape and far.dim() == 1 and bool((torch.isfinite(far) & torch.isfinite(long)).all())
    if not fine or not bool((far > 0).any()):
        raise InvalidValue(
            f"lengths of shapes {tuple(far.shape)} and {tuple(long.shape)} were given",
            "finite lengths of the same samples, not all zero, are allowed",
            "Leave out samples for which either search found nothing, and say how many.",
        )
    return NoiseComparison(len(far), float(far.mean()), float(long.mean()), noise_ratio(values=values, risk=risk))


def isoperimetric_distance(error_rate: float, sigma: float) -> float:
    """Return the largest median distance to the errors of a classifier that errs so often in Gaussian noise.

    -sigma times the normal quantile of the error rate: no set of this measure under N(x, sigma^2 I) is further from the
    median point of that law, and a half-space is as far. A negative number means that most points are errors.

    Args:
        error_rate: probability of an error in the noise, in (0, 1).
        sigma: standard deviation of the noise, in the units of the inputs.

    Example:
        >>> round(isoperimetric_distance(0.01, 0.1), 5)
        0.23263

    Source: Ford, Gilmer, Carlini & Cubuk 2019, arXiv:1901.10513, Sec. 4.
    """
    check_share("error_rate", error_rate)
    check_positive(sigma=sigma)
    return -sigma * float(ndtri(error_rate))


def _changed(model: Classifier, x: Tensor, rays: Tensor, length: float, before: Tensor) -> float:
    """Return the share of directions in which noise of this length changes the decision."""
    return float((model.decisions(x[None] + length * rays) != before).double().mean())
