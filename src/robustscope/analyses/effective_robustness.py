"""Effective robustness: what a model keeps under a shift beyond what its accuracy lets expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robustscope.core.errors import InvalidValue

OTHERS = 3
"""Fewest other models that a trend is drawn through: two would be no trend but a line."""


@dataclass(frozen=True)
class Trend:
    """A line through models, on logit axes: what accuracy under the shift an accuracy without it lets expect.

    Args:
        slope, intercept: logit(shifted) = slope x logit(clean) + intercept.
        n: models it was fitted to.
    """

    slope: float
    intercept: float
    n: int

    def expected(self, clean: float) -> float:
        """Return the accuracy under the shift that a clean accuracy lets expect.

        Raises:
            InvalidValue: for an accuracy that is not strictly between 0 and 1.
        """
        score = self.slope * float(_logit(np.array([clean]))[0]) + self.intercept
        return float(1 / (1 + np.exp(-score)))

    def effective_robustness(self, clean: float, shifted: float) -> float:
        """Return the accuracy under the shift less the expected one: above 0, the model is more robust than the trend.

        Args:
            clean, shifted: accuracies of a model that the trend was not fitted to; fractions.
        """
        return shifted - self.expected(clean)


def trend(clean: np.ndarray, shifted: np.ndarray) -> Trend:
    """Fit the trend of ordinary models by least squares on logits.

    Args:
        clean: (m,), accuracies without the shift, strictly between 0 and 1, not all equal.
        shifted: (m,), accuracies of the same models under it.

    Raises:
        InvalidValue: for fewer than two models, equal clean accuracies, or accuracies of 0 or 1.

    Example:
        >>> line = trend(np.array([0.6, 0.8]), np.array([0.4, 0.6]))
        >>> round(line.effective_robustness(0.8, 0.65), 6)
        0.05

    Source: Taori et al. 2020, arXiv:2007.00644, Sec. 2.
    """
    clean, shifted = np.asarray(clean, dtype=float), np.asarray(shifted, dtype=float)
    if clean.ndim != 1 or clean.shape != shifted.shape or len(np.unique(clean)) < 2:
        raise InvalidValue(
            f"accuracies of shapes {clean.shape} and {shifted.shape} were given",
            "two accuracies of each of two or more models that differ are allowed",
            "Give models of different clean accuracy.",
        )
    slope, intercept = np.polyfit(_logit(clean), _logit(shifted), 1)
    return Trend(float(slope), float(intercept), len(clean))


def beyond_the_others(clean: Mapping[str, float], shifted: Mapping[str, float]) -> dict[str, float | None]:
    """Return the effective robustness of each model, over the trend of all others.

    Args:
        clean: model -> accuracy without the shift.
        shifted: the same models -> accuracy under it.

    Returns:
        Model -> accuracy under the shift less what its clean accuracy lets expect; None where there are fewer than
        :data:`OTHERS` others, or no trend goes through them.

    Example:
        >>> line = {"a": 0.5, "b": 0.8, "c": 0.9}
        >>> found = beyond_the_others({**line, "d": 0.6}, {**line, "d": 0.7})
        >>> round(found["d"], 6), found["a"] < 0
        (0.1, True)

    Source: Taori et al. 2020, arXiv:2007.00644, Sec. 2.

    Departures: the source draws its trend through many ordinary models; this one is through those of a run, whatever they are.
    """
    found: dict[str, float | None] = {}
    for name in clean:
        rest = [other for other in clean if other != name and 0 < clean[other] < 1 and 0 < shifted[other] < 1]
        found[name] = None
        if len(rest) >= OTHERS and len({clean[other] for other in rest}) > 1 and 0 < clean[name] < 1:
            line = trend(np.array([clean[other] for other in rest]), np.array([shifted[other] for other in rest]))
            found[name] = line.effective_robustness(clean[name], shifted[name])
    return found


def relative_robustness(shifted: float, shifted_before: float) -> float:
    """Return the accuracy under the shift less that of the same model without what was done to it.

    Source: Taori et al. 2020, arXiv:2007.00644, Sec. 2.
    """
    return shifted - shifted_before


def _logit(share: np.ndarray) -> np.ndarray:
    if not ((share > 0) & (share < 1)).all():
        raise InvalidValue(
            f"accuracies in [{share.min():.4g}, {share.max():.4g}] were given",
            "fractions strictly between 0 and 1 are allowed",
            "A model that is always right or always wrong has no logit; leave it out.",
        )
    return np.log(share / (1 - share))
