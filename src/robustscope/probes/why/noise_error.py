"""Errors in Gaussian noise, the distance to the nearest error that they foretell, and the distance that a search finds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.walks import check_walk, nearest_error

BIBTEX = """@inproceedings{ford2019adversarial,
  title = {Adversarial Examples Are a Natural Consequence of Test Error in Noise},
  author = {Ford, Nic and Gilmer, Justin and Carlini, Nicholas and Cubuk, Ekin D.},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""
Z = 1.959963984540054
"""The 0.975 quantile of the normal law."""


@register(
    "noise_error",
    version=1,
    source="Ford et al., 2019, arXiv:1901.10513, Sec. 4",
    bibtex=BIBTEX,
    columns={
        "error_rate": "share of noisy copies that are misclassified",
        "error_low": "lower end of its 95 % Wilson interval",
        "error_high": "upper end of that interval",
        "predicted_distance": "-sigma times the normal quantile of the error rate, l2: where a half-space would begin",
        "predicted_least": "the same of error_high: what can be said where no copy is misclassified",
        "measured_distance": "l2 distance to the nearest error found, 0 for errors",
    },
    robust={"error_rate": "lower", "predicted_distance": "higher", "measured_distance": "higher"},
    gaps={
        "predicted_distance": "no noisy copy, or every one, is misclassified",
        "predicted_least": "every noisy copy is misclassified",
        "measured_distance": "the search found no error",
    },
    invariant=dict.fromkeys(
        ("error_rate", "error_low", "error_high", "predicted_distance", "predicted_least", "measured_distance"),
        ("scale", "shift"),
    ),
    quick={"sigma": 0.6, "copies": 20, "steps": 5},
    brief={"copies": 20, "steps": 6, "rivals": 4},
)
def noise_error(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    sigma: float = 0.1,
    copies: int = 100,
    steps: int = 20,
    rivals: int = 9,
) -> Findings:
    """Count errors in Gaussian noise, and compare the distance to the errors that follows with what a search finds.

    Around x the nearest error is -sigma times the normal quantile of the error rate away if the errors are a half-space.
    For any set of errors of at most half the noise, that is the most that the median distance from noisy copies to it can
    be. Points far below the line have errors nearer than their noise tells.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: not used; distances are l2.
        draws: random numbers of these samples.
        sigma: standard deviation of the noise, in the units of the inputs, > 0.
        copies: noisy copies, >= 1; more of them contain fewer.
        steps: of the search for the nearest error, >= 1.
        rivals: other classes that the search looks at, >= 1.

    Returns:
        Six columns; ``copies`` forward rows for each sample, and for the search at most 2 * ``steps`` + 11 forward and
        ``steps`` * ``rivals`` backward rows.

    Raises:
        InvalidValue: for a sigma, or counts, that are not allowed.
        ModelError: if the outputs or a gradient cannot be used.

    Source: Ford, Gilmer, Carlini & Cubuk 2019, arXiv:1901.10513, Sec. 4; the search: Moosavi-Dezfooli, Fawzi & Frossard
        2016, arXiv:1511.04599.

    Departures: noisy copies are not clipped to the bounds, which would make the noise another; the search stays inside them.
    """
    check_walk(steps, 1.0)
    if not 0 < sigma < math.inf or copies < 1 or rivals < 1:
        raise InvalidValue(
            f"sigma={sigma}, copies={copies} and rivals={rivals} were given",
            "a finite sigma > 0, copies >= 1 and rivals >= 1 are allowed",
            "Leave them out for the defaults.",
        )
    wrong = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for number in range(copies):
        noisy = x + sigma * draws.normal(f"copy/{number}", x)
        wrong += is_adversarial(model.logits(noisy), y)
    low, high = wilson(wrong, copies)
    some = (wrong > 0) & (wrong < copies)
    found = {
        "error_rate": wrong / copies,
        "error_low": low,
        "error_high": high,
        "predicted_distance": torch.where(some, half_space_distance(wrong / copies, sigma), torch.nan),
        "predicted_least": torch.where(wrong < copies, half_space_distance(high, sigma), torch.nan),
        "measured_distance": nearest_error(model, x, y, steps=steps, rivals=rivals),
    }
    return Findings({name: column.to(x.dtype) for name, column in found.items()})


def half_space_distance(error_rate: Tensor, sigma: float) -> Tensor:
    """Return the distance to a half-space that so much Gaussian noise falls into: (B,); below 0 for rates above 1/2.

    Args:
        error_rate: (B,), in [0, 1].
        sigma: standard deviation of the noise.

    Example:
        >>> half_space_distance(torch.tensor([0.1, 0.01], dtype=torch.float64), 0.1)
        tensor([0.1282, 0.2326], dtype=torch.float64)
    """
    return -sigma * torch.special.ndtri(error_rate)


def wilson(count: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the ends of the 95 % Wilson interval of ``count`` (B,) of n: two (B,), in [0, 1].

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    share, square = count / n, Z * Z / n
    middle = (share + square / 2) / (1 + square)
    half = Z * (share * (1 - share) / n + square / (4 * n)).sqrt() / (1 + square)
    # The ends of no and of all successes are 0 and 1, which rounding would miss.
    low = torch.where(count > 0, middle - half, 0.0)
    return low, torch.where(count < n, middle + half, 1.0)
