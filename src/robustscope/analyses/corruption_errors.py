"""Corruption errors: those of a model over those of a baseline, for each corruption and in the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscope.core.errors import InvalidValue

Errors = Mapping[str, Sequence[float] | float]

ALEXNET: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Errors of AlexNet on ImageNet-C (50,000 images), the mean of five severities each: the normaliser of mCE."""

ALEXNET_CLEAN = 0.43478
"""Top-1 error of that AlexNet on the clean validation images."""


def mean_error(errors: Errors) -> float:
    """Return the mean error over all corruptions and severities, not divided by anything.

    It is not the mCE: for a ResNet-50 on ImageNet-C it is 61 %, where the mCE is 76.7 %.

    Args:
        errors: corruption -> its error at each severity, or their mean; fractions.

    Raises:
        InvalidValue: for no corruption, no severity, or errors outside [0, 1].

    Example:
        >>> round(mean_error({"fog": [0.1, 0.3], "snow": 0.4}), 6)
        0.3
    """
    return float(np.mean(list(_means(errors).values())))


def corruption_errors(errors: Errors, baseline: Errors = ALEXNET) -> dict[str, float]:
    """Return the corruption error of each corruption: CE = sum of the errors / sum of the baseline's errors.

    Args:
        errors: corruption -> the model's error at each severity, or their mean; fractions.
        baseline: the same of the baseline; AlexNet's on ImageNet-C unless given.

    Returns:
        Corruption -> CE; 1 is as bad as the baseline, lower is more robust.

    Raises:
        InvalidValue: if the two do not name the same corruptions or numbers of severities, and as :func:`mean_error`.

    Example:
        >>> corruption_errors({"fog": [0.1, 0.3]}, {"fog": [0.4, 0.6]})
        {'fog': 0.4}

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.2.
    """
    return _ratios(_paired(errors, baseline), 0.0, 0.0)


def mce(errors: Errors, baseline: Errors = ALEXNET) -> float:
    """Return the mean corruption error: the mean of :func:`corruption_errors`, as a fraction.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.2.
    """
    return float(np.mean(list(corruption_errors(errors, baseline).values())))


def relative_mce(
    errors: Errors, clean: float, baseline: Errors = ALEXNET, baseline_clean: float = ALEXNET_CLEAN
) -> float:
    """Return the relative mCE: as :func:`mce`, with the clean error taken from every error.

    Args:
        errors: corruption -> the model's error at each severity, or their mean; fractions.
        clean: the model's error on clean images.
        baseline, baseline_clean: the same of the baseline.

    Raises:
        InvalidValue: as :func:`corruption_errors`, and where the baseline loses nothing to a corruption.

    Example:
        >>> relative_mce({"fog": 0.3}, 0.2, {"fog": 0.6}, 0.4)
        0.5

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.2.
    """
    for error in (clean, baseline_clean):
        _checked("clean", error)
    return float(np.mean(list(_ratios(_paired(errors, baseline), clean, baseline_clean).values())))


def _ratios(pairs: Mapping[str, tuple[float, float]], clean: float, baseline_clean: float) -> dict[str, float]:
    found = {}
    for name, (own, other) in pairs.items():
        if other - baseline_clean <= 0:
            raise InvalidValue(
                f"the baseline's error on {name!r} is {other:.4g}, against {baseline_clean:.4g} clean",
                "a baseline that loses something to each corruption is needed",
                "Take another baseline; AlexNet's numbers are for ImageNet-C.",
            )
        found[name] = round((own - clean) / (other - baseline_clean), 12)
    return found


def _paired(errors: Errors, baseline: Errors) -> dict[str, tuple[float, float]]:
    if set(errors) != set(baseline):
        apart = sorted(set(errors) ^ set(baseline))
        raise InvalidValue(
            f"corruptions that only one of model and baseline has were given: {', '.join(apart)}",
            "the same corruptions of both are allowed",
            "A mean over others is no mCE; give the missing ones, or a baseline of your own.",
        )
    for name in errors:
        several = [np.size(part[name]) for part in (errors, baseline)]
        if min(several) > 1 and several[0] != several[1]:
            raise InvalidValue(
                f"{several[0]} and {several[1]} severities of {name!r} were given",
                "as many of the model as of the baseline are allowed",
                "Evaluate both on the same severities.",
            )
    own, other = _means(errors), _means(baseline)
    return {name: (own[name], other[name]) for name in errors}


def _means(errors: Errors) -> dict[str, float]:
    if not errors:
        raise InvalidValue("no corruption was given", "at least one is needed", "Give corruption -> errors.")
    return {name: float(np.mean(_checked(name, value))) for name, value in errors.items()}


def _checked(name: str, value: Sequence[float] | float) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(value, dtype=float))
    if not numbers.size or not ((numbers >= 0) & (numbers <= 1)).all():
        raise InvalidValue(
            f"the errors {numbers.tolist()[:5]} of {name!r} were given",
            "one fraction in [0, 1] for each severity is allowed",
            "Divide percents by 100; an error is 1 - accuracy.",
        )
    return numbers
