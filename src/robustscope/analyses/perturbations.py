"""Stability along sequences of slightly changed images: flip probability, top-5 distance and their means."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robustscope.core.errors import InvalidValue

SHOWN = 5


def flip_probability(predictions: np.ndarray, noise: bool = False, stride: int = 1) -> float:
    """Return how often the predicted class changes along sequences.

    Along a sequence each frame is compared with the frame before; where every frame is noise of its own, with the first.

    Args:
        predictions: integers (sequences, frames), the predicted classes.
        noise: whether the frames are independent noise on one image, rather than a motion.
        stride: difficulty: frames are compared that lie so far apart. The published programs use 1 for noise.

    Returns:
        The share of changes, averaged over the comparisons of a sequence, then over sequences; lower is more robust.

    Raises:
        InvalidValue: for no sequence, fewer than two frames at that stride, or another form.

    Example:
        >>> flip_probability(np.array([[3, 5, 5, 5]])), flip_probability(np.array([[3, 5, 5, 5]]), noise=True)
        (0.3333333333333333, 1.0)

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3.
    """
    return float(np.mean(flips_of(predictions, noise, stride)))


def flips_of(predictions: np.ndarray, noise: bool = False, stride: int = 1) -> np.ndarray:
    """Return the flip probability of each sequence by itself: float64 (sequences,); as :func:`flip_probability`."""
    predictions = _checked(predictions, 2, stride)
    pairs = _pairs(predictions.shape[1], noise, stride)
    return np.mean([predictions[:, a] != predictions[:, b] for a, b in pairs], 0)


def top5_distance(orders: np.ndarray, noise: bool = False, stride: int = 1) -> float:
    """Return how far the five most probable classes move along sequences.

    A class of rank i of the earlier frame that has rank j in the later one counts |c(i) - c(j)| with
    c(k) = min(k - 1, 5): a swap of ranks 1 and 2 costs 2, of 5 and 6 costs 1, five other classes cost 15.

    Args:
        orders: integers (sequences, frames, 5 or more), classes from the most probable on.
        noise, stride: as for :func:`flip_probability`.

    Returns:
        The distance, averaged over the comparisons of a sequence, then over sequences; 0 to 15, lower is more robust.

    Raises:
        InvalidValue: as :func:`flip_probability`, and for fewer than five classes.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; the published programs.
    """
    return float(np.mean(distances_of(orders, noise, stride)))


def distances_of(orders: np.ndarray, noise: bool = False, stride: int = 1) -> np.ndarray:
    """Return the top-5 distance of each sequence by itself: float64 (sequences,); as :func:`top5_distance`."""
    orders = _checked(orders, 3, stride)
    if orders.shape[2] < SHOWN:
        raise InvalidValue(
            f"{orders.shape[2]} classes of each frame were given", "five or more are allowed", "Give the top five."
        )
    top = orders[:, :, :SHOWN]
    return np.mean([_distances(top[:, a], top[:, b]) for a, b in _pairs(top.shape[1], noise, stride)], 0)


def _distances(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Return the distance of each pair of lists (sequences, 5) of classes; beyond rank 5 all ranks count alike."""
    same = earlier[:, :, None] == later[:, None, :]
    places = np.where(same.any(2), same.argmax(2), SHOWN)
    return np.abs(np.arange(SHOWN) - places).sum(1)


def mean_flip_rate(flips: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Return the mFR: the mean over perturbations of the flip probability over the baseline's.

    Args:
        flips: perturbation -> flip probability of the model.
        baseline: the same of the baseline. AlexNet's were not published with the paper, so they must be measured.

    Raises:
        InvalidValue: unless both name the same perturbations and the baseline's are above 0.

    Example:
        >>> mean_flip_rate({"tilt": 0.1, "scale": 0.3}, {"tilt": 0.2, "scale": 0.3})
        0.75

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3.
    """
    return _mean_ratio(flips, baseline)


def mean_top5_distance(distances: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Return the mT5D: the mean over perturbations of the top-5 distance over the baseline's.

    Args:
        distances: perturbation -> top-5 distance of the model.
        baseline: the same of the baseline.

    Raises:
        InvalidValue: as :func:`mean_flip_rate`.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3.
    """
    return _mean_ratio(distances, baseline)


def _mean_ratio(own: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    if not own or set(own) != set(baseline):
        raise InvalidValue(
            f"perturbations {sorted(own)} of the model and {sorted(baseline)} of the baseline were given",
            "one or more, the same of both, are allowed",
            "Measure both on the same sequences.",
        )
    if not all(value > 0 for value in baseline.values()) or not all(value >= 0 for value in own.values()):
        raise InvalidValue(
            "a value below 0, or one of the baseline that is not above 0, was given",
            "values >= 0, and > 0 of the baseline, are allowed",
            "A baseline that never changes its mind normalises nothing.",
        )
    return float(np.mean([own[name] / baseline[name] for name in own]))


def _pairs(frames: int, noise: bool, stride: int) -> list[tuple[int, int]]:
    """Return which frames are compared."""
    if noise:
        return [(first, later) for first in range(stride) for later in range(first + stride, frames, stride)]
    return [(frame, frame + stride) for frame in range(frames - stride)]


def _checked(values: np.ndarray, axes: int, stride: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != axes or not np.issubdtype(values.dtype, np.integer) or not len(values):
        raise InvalidValue(
            f"an array of {values.dtype} and shape {values.shape} was given",
            f"integers of {axes} axes (sequences, frames{', classes' if axes == 3 else ''}) are allowed",
            "Give the predicted classes, not probabilities.",
        )
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride < values.shape[1]:
        raise InvalidValue(
            f"stride={stride!r} was given for {values.shape[1]} frames",
            "an integer from 1 to the number of frames less one is allowed",
            "Give longer sequences or a smaller stride.",
        )
    return values
