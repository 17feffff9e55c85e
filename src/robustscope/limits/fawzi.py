"""Upper bounds on adversarial robustness by how far the classes can be told apart: Fawzi, Fawzi and Frossard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.geometry.quadrics import distance_to_quadric
from robustscope.limits.cards import check_labels, check_positive, register

FAWZI = """@article{fawzi2018analysis,
  title = {Analysis of classifiers' robustness to adversarial perturbations},
  author = {Fawzi, Alhussein and Fawzi, Omar and Frossard, Pascal},
  journal = {Machine Learning},
  volume = {107},
  pages = {481--508},
  year = {2018}
}"""


@dataclass(frozen=True)
class FawziBound:
    """How robust a binary classifier is on average, and how robust any classifier of its family could be at its risk.

    Lengths are l2, in the units of the inputs. The average is over all samples, misclassified ones included, and the
    distance is the one to the other side of the decision, not to the other label.

    Args:
        family: "linear", "quadratic" or "general".
        distance: float64 (n,), distance of each sample to the decision boundary, or None where it was not given.
        risk: share of samples misclassified.
        distinguishability: linear: length of the difference of the class means, weighted by their shares; quadratic:
            nuclear norm of the difference of the second moments, likewise; general: difference of the mean scores.
        bound: upper bound on the mean distance, for every classifier of the family with this risk.
        own: upper bound on the mean distance for this classifier, from its own scores; at most ``bound`` where the
            family's assumptions hold.
        radius: length that no sample exceeds; the largest that was seen, unless given.
        n: samples.
    """

    family: Literal["linear", "quadratic", "general"]
    distance: Tensor | None
    risk: float
    distinguishability: float
    bound: float
    own: float
    radius: float
    n: int
    subject: Literal["classifier"] = "classifier"

    @property
    def robustness(self) -> float | None:
        """Mean distance to the decision boundary, or None where the distances are not known."""
        return None if self.distance is None else float(self.distance.mean())


@register(
    "fawzi_linear",
    version=1,
    source="Fawzi, Fawzi & Frossard, 2018, arXiv:1502.02590, Theorem 2",
    bibtex=FAWZI,
    subject="classifier",
    direction="upper",
    quantity="mean l2 distance to the decision boundary, linear classifiers",
)
def fawzi_linear(x: Tensor, y: Tensor, weight: Tensor, bias: float = 0.0, *, radius: float | None = None) -> FawziBound:
    """Bound the robustness of linear classifiers by the distance between the class means.

    f(x) = w.x + b, class 1 where f > 0. Mean distance <= ||p1 E1 x - p0 E0 x|| + M (|p1 - p0| + 4 R), with shares p,
    means E, risk R, and M the length that no input exceeds; for |b| <= M ||w||.

    Args:
        x: (n, *S), samples.
        y: int64 (n,), 0 or 1.
        weight: (*S), not zero.
        bias: b.
        radius: M; None takes the longest sample.

    Returns:
        Exact distances |f| / ||w||, risk, distinguishability and bounds.

    Raises:
        InvalidType: for labels that are no integers.
        InvalidValue: for a zero weight, a radius that a sample exceeds, or labels other than 0 and 1.

    Example:
        >>> x = torch.tensor([[0.5, 1.0], [0.7, -1.0], [-0.5, 1.0], [-0.7, -1.0]])
        >>> found = fawzi_linear(x, torch.tensor([1, 1, 0, 0]), torch.tensor([2.0, 0.0]))
        >>> round(found.robustness, 6), round(found.bound, 6)
        (0.6, 0.6)

    Source: Fawzi, Fawzi & Frossard 2018, arXiv:1502.02590, Theorem 2.
    """
    flat, positive = _samples(x, y)
    w = weight.double().flatten().to(flat.device)
    norm = float(w.norm())
    if w.shape != flat.shape[1:] or not 0 < norm < float("inf"):
        raise InvalidValue(
            f"a weight of shape {tuple(weight.shape)} and length {norm} was given for inputs of {flat.shape[1]} values",
            "one finite weight for each value, not all zero, is allowed",
            "Give the difference of the two rows of a linear layer.",
        )
    size = _radius(flat, radius)
    scores = flat @ w + bias
    share = float(positive.double().mean())
    means = share * flat[positive].mean(0) - (1 - share) * flat[~positive].mean(0)
    apart, uneven = float(means.norm()), abs(2 * share - 1)
    risk = _risk(scores, positive)
    return FawziBound(
        "linear",
        scores.abs() / norm,
        risk,
        apart,
        apart + size * (uneven + 4 * risk) if uneven or bias else apart + 2 * size * risk,
        _general(scores, positive, 1 / norm, 1.0, None),
        size,
        len(flat),
    )


@register(
    "fawzi_quadratic",
    version=1,
    source="Fawzi, Fawzi & Frossard, 2018, arXiv:1502.02590, Theorem 4",
    bibtex=FAWZI,
    subject="classifier",
    direction="upper",
    quantity="mean l2 distance to the decision boundary, quadratic classifiers",
)
def fawzi_quadratic(x: Tensor, y: Tensor, matrix: Tensor, *, radius: float | None = None) -> FawziBound:
    """Bound the robustness of quadratic classifiers by the difference of the second moments of the classes.

    f(x) = x'Ax, class 1 where f > 0, A with eigenvalues of both signs. Mean distance <= 2 sqrt(K (D + 2 M^2 R)), with D
    the nuclear norm of p1 E1[xx'] - p0 E0[xx'], R the risk, M the length that no input exceeds, and K the larger of
    |lowest / highest| eigenvalue and its inverse.

    Args:
        x: (n, *S), samples.
        y: int64 (n,), 0 or 1.
        matrix: (d, d), symmetric, d the values of a sample.
        radius: M; None takes the longest sample.

    Returns:
        Exact distances to x'Ax = 0, risk, distinguishability and bounds.

    Raises:
        InvalidType: for labels that are no integers.
        InvalidValue: for a matrix whose eigenvalues have one sign, a radius that a sample exceeds, or labels other than
            0 and 1.

    Source: Fawzi, Fawzi & Frossard 2018, arXiv:1502.02590, Theorem 4.

    Departures: derived here from the general bound with M the length of an input; where M bounds its square, write M.
    """
    flat, positive = _samples(x, y)
    a = matrix.double().to(flat.device)
    distance, _ = distance_to_quadric(a, flat.new_zeros(flat.shape[1]), 0.0, flat)
    eigenvalues = torch.linalg.eigvalsh(a)
    lowest, highest = float(eigenvalues[0]), float(eigenvalues[-1])
    if not lowest < 0 < highest:
        raise InvalidValue(
            f"a matrix with eigenvalues from {lowest:.3g} to {highest:.3g} was given",
            "eigenvalues of both signs are allowed",
            "With one sign, x'Ax never changes its class.",
        )
    size = _radius(flat, radius)
    scores = (flat @ a * flat).sum(1)
    share = float(positive.double().mean())
    moments = [flat[rows].T @ flat[rows] / int(rows.sum()) for rows in (positive, ~positive)]
    apart = float(torch.linalg.svdvals(share * moments[0] - (1 - share) * moments[1]).sum())
    risk = _risk(scores, positive)
    uneven = max(-lowest / highest, -highest / lowest)
    return FawziBound(
        "quadratic",
        distance,
        risk,
        apart,
        2 * (uneven * (apart + 2 * size**2 * risk)) ** 0.5,
        _general(scores, positive, min(-lowest, highest) ** -0.5, 0.5, None),
        size,
        len(flat),
    )


@register(
    "fawzi_general",
    version=1,
    source="Fawzi, Fawzi & Frossard, 2018, arXiv:1502.02590, Theorem 1",
    bibtex=FAWZI,
    subject="classifier",
    direction="upper",
    quantity="mean l2 distance to the decision boundary, classifiers with an error bound",
)
def fawzi_general(
    scores: Tensor,
    y: Tensor,
    *,
    tau: float,
    gamma: float = 1.0,
    largest: float | None = None,
    distance: Tensor | None = None,
) -> FawziBound:
    """Bound the robustness of any binary classifier that is near its boundary wherever its score is small.

    Assumed: the distance of x to the other side is at most tau |f(x)|^gamma, for all x. Then the mean distance is at
    most 4^(1 - gamma) tau (p1 E1 f - p0 E0 f + 2 L R)^gamma, with L the largest |f| and R the risk.

    Args:
        scores: (n,), f of the samples; class 1 where f > 0.
        y: int64 (n,), 0 or 1.
        tau: constant of the assumption, > 0.
        gamma: exponent of the assumption, in (0, 1].
        largest: L; None takes the largest that was seen.
        distance: (n,), distances to the boundary where they are known; the assumption is checked on them.

    Returns:
        Risk, difference of the mean scores and the bound; ``bound`` and ``own`` are the same number.

    Raises:
        InvalidType: for labels that are no integers.
        InvalidValue: for constants out of range, or distances that contradict the assumption.

    Source: Fawzi, Fawzi & Frossard 2018, arXiv:1502.02590, Theorem 1.
    """
    check_positive(tau=tau)
    if not 0 < gamma <= 1:
        raise InvalidValue(f"gamma={gamma} was given", "0 < gamma <= 1 is allowed", "1 for linear, 1/2 for quadratic.")
    values, positive = _samples(scores[:, None], y)
    values = values[:, 0]
    top = float(values.abs().max())
    if largest is not None and largest < top:
        raise InvalidValue(f"largest={largest} was given", f"at least {top}, which occurs, is allowed", "Raise it.")
    far = None if distance is None else distance.double()
    if far is not None and (
        far.shape != values.shape or bool((far > tau * values.abs() ** gamma * (1 + 1e-6) + 1e-12).any())
    ):
        raise InvalidValue(
            "distances were given that exceed tau |f|^gamma",
            "one distance for each score, within the assumption, is allowed",
            "Raise tau, or lower gamma: the bound holds only where the assumption does.",
        )
    share = float(positive.double().mean())
    apart = share * float(values[positive].mean()) - (1 - share) * float(values[~positive].mean())
    bound = _general(values, positive, tau, gamma, largest)
    return FawziBound("general", far, _risk(values, positive), apart, bound, bound, float(largest or top), len(values))


def line_images(bias: float, *, side: int = 2) -> tuple[Tensor, Tensor]:
    """Return the running example of the paper: images of one vertical (1) or one horizontal (0) line.

    The line has the value 1 and the rest 0; then ``bias`` is added to all values of vertical images and taken from those
    of horizontal ones. The sum of the values tells the classes apart, by side * bias; the direction of the line does
    too, far more robustly.

    Args:
        bias: what betrays the class without regard to the line.
        side: pixels on each side.

    Returns:
        float64 (2 side, side^2), int64 (2 side,).

    Example:
        >>> x, y = line_images(0.1)
        >>> [round(v, 1) for v in x[0].tolist()], y.tolist()
        ([1.1, 0.1, 1.1, 0.1], [1, 1, 0, 0])
    """
    vertical = torch.eye(side, dtype=torch.float64)[:, None, :].expand(side, side, side)
    x = torch.cat([vertical + bias, vertical.transpose(1, 2) - bias]).flatten(1)
    return x, torch.tensor([1] * side + [0] * side)


def _samples(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 (n, d) samples and whether each is of class 1."""
    labels = check_labels(y, len(x), classes=2)
    if int(labels.max()) != 1:
        raise InvalidValue(
            f"labels up to {int(labels.max())} were given", "0 and 1 are allowed", "Number the two classes 0 and 1."
        )
    return x.flatten(1).double(), labels == 1


def _radius(flat: Tensor, radius: float | None) -> float:
    longest = float(flat.norm(dim=1).max())
    if radius is not None and radius < longest * (1 - 1e-9):
        raise InvalidValue(f"radius={radius} was given", f"at least {longest}, which occurs, is allowed", "Raise it.")
    return longest if radius is None else radius


def _risk(scores: Tensor, positive: Tensor) -> float:
    return float(((scores > 0) != positive).double().mean())


def _general(scores: Tensor, positive: Tensor, tau: float, gamma: float, largest: float | None) -> float:
    """Return the general bound, for scores (n,)."""
    sign = torch.where(positive, 1.0, -1.0)
    top = float(scores.abs().max()) if largest is None else largest
    inside = float((sign * scores).mean()) + 2 * top * _risk(scores, positive)
    return 4 ** (1 - gamma) * tau * inside**gamma
