"""How useful a feature is, and how much of that an adversary leaves: exact for linear features and for Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


def linear_usefulness(weight: Tensor, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[float, float]:
    """Return the usefulness rho and the robust usefulness gamma of the feature <weight, x>, scaled to mean 0 and deviation 1.

    rho = E[y f(x)]; gamma = E[min over the ball of y f(x + d)] = rho - epsilon |w|_dual / deviation. A feature with
    rho > 0 and gamma <= 0 is useful and not robust.

    Args:
        weight: (*S).
        x: (n, *S), samples; the ball is not cut by bounds.
        y: (n,), classes -1 and +1.
        threat: linf, l2 or l1.

    Raises:
        InvalidValue: for other classes, another norm, or a feature that does not vary.

    Example:
        >>> x, y = torch.tensor([[1.0, 0.25], [-1.0, -0.25]]), torch.tensor([1, -1])
        >>> linear_usefulness(torch.tensor([0.0, 1.0]), x, y, ThreatModel("linf", 0.5))
        (1.0, -1.0)

    Source: Ilyas et al., 2019, arXiv:1905.02175, Sec. 2.
    """
    values = (x.double().flatten(1) @ weight.double().flatten()).double()
    deviation = values.std(correction=0)
    if threat.norm not in DUAL or not set(y.tolist()) <= {-1, 1} or not deviation > 0:
        raise InvalidValue(
            f"norm={threat.norm!r}, classes {sorted(set(y.tolist()))} and a deviation of {float(deviation):g} were given",
            f"one of {tuple(DUAL)}, classes -1 and 1, and a feature that varies are allowed",
            "Take two classes at a time, y = 2 * (labels == k) - 1.",
        )
    feature = (values - values.mean()) / deviation
    slope = torch.linalg.vector_norm(weight.double().flatten(), DUAL[threat.norm]) / deviation
    rho = (y.double() * feature).mean()
    return float(rho), float(rho - threat.radius(values).mean() * slope)


def robust_deviation(deviation: float, epsilon: float) -> float:
    """Return the deviation that the most likely Gaussian has when an adversary moves each sample by epsilon, in one dimension.

    The minimiser of log s + E(|x - mean| + epsilon)^2 / (2 s^2): s^2 = deviation^2 + 2 epsilon deviation sqrt(2 / pi) +
    epsilon^2. The adversary makes features look less certain than they are.

    Example:
        >>> round(robust_deviation(1.0, 0.5) ** 2, 4)
        2.0479

    Source: the model of Ilyas et al., 2019, arXiv:1905.02175, Sec. 4, in one dimension, by hand.
    """
    if not deviation > 0 or not epsilon >= 0:
        raise InvalidValue(
            f"deviation={deviation} and epsilon={epsilon} were given",
            "a deviation > 0 and an epsilon >= 0 are allowed",
            "Correct the number.",
        )
    return math.sqrt(deviation**2 + 2 * epsilon * deviation * math.sqrt(2 / math.pi) + epsilon**2)


def robust_covariance(covariance: Tensor, multiplier: float) -> Tensor:
    """Return the covariance of the most likely Gaussian when an adversary moves samples in l2: (d, d).

    covariance / 2 + I / multiplier + (covariance / multiplier + covariance^2 / 4)^(1/2), in the Lagrangian form: moves d cost
    multiplier / 2 |d|^2. It tends to the covariance without an adversary as the multiplier grows, and to a multiple of the
    identity as it falls; the optimal direction between two means turns from the Mahalanobis one to the straight line.

    Args:
        covariance: (d, d), symmetric, no negative eigenvalues.
        multiplier: > 0; a small one is a strong adversary.

    Raises:
        InvalidValue: for another matrix or multiplier.

    Example:
        >>> robust_covariance(torch.tensor([[2.0]], dtype=torch.float64), 1.0)  # 1 + 1 + sqrt(2 + 1)
        tensor([[3.7321]], dtype=torch.float64)

    Source: Ilyas et al., 2019, arXiv:1905.02175, Theorem 2; derived anew from its stationarity.
    """
    square = covariance.dim() == 2 and covariance.shape[0] == covariance.shape[1]
    values, axes = torch.linalg.eigh(covariance.double()) if square else (covariance, covariance)
    if not square or not torch.allclose(covariance, covariance.T) or bool((values < -1e-9).any()) or not multiplier > 0:
        raise InvalidValue(
            f"a covariance of shape {tuple(covariance.shape)} and multiplier={multiplier} were given",
            "a symmetric matrix without negative eigenvalues and a multiplier > 0 are allowed",
            "Compute it as torch.cov does.",
        )
    values = values.clamp(min=0)
    moved = values / 2 + 1 / multiplier + (values / multiplier + values.square() / 4).sqrt()
    return (axes * moved) @ axes.T
