"""What confidences are worth on hard data: RMS calibration error, and accuracy against response rate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robustscope.core.errors import InvalidValue

PIECE = 2**16
"""Samples whose correctness is shared at a time, so that millions take little memory beside themselves."""


def rms_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, *, bin_size: int = 100, published: bool = False
) -> float:
    """Return the root of the mean square gap between confidence and accuracy, in bins of equally many samples.

    sqrt(sum over bins of share x (mean confidence - accuracy)^2). Samples are sorted by confidence; the last bin takes
    the rest, so that it holds ``bin_size`` to 2 ``bin_size`` - 1 samples, and fewer samples than that are one bin.

    Args:
        confidence: (n,), the probability of the predicted class.
        correct: bool (n,).
        bin_size: samples of a bin.
        published: leave the last, most confident bin out, as the program published with ImageNet-A does.

    Returns:
        0 to 1; lower is better calibrated.

    Raises:
        InvalidValue: for no samples, other forms, or values outside [0, 1].

    Source: Hendrycks et al. 2019, arXiv:1907.07174, Sec. 4, after Nguyen and O'Connor 2015, arXiv:1508.05154.

    Departures: samples of equal confidence share their mean correctness, so that their order cannot matter. The
    published program loses its last bin; ``published=True`` gives its number.
    """
    if isinstance(bin_size, bool) or not isinstance(bin_size, int) or bin_size < 1:
        raise InvalidValue(f"bin_size={bin_size!r} was given", "an integer >= 1 is allowed", "The source uses 100.")
    n, bins = len(confidence), max(1, len(confidence) // bin_size)
    gaps, counts = np.zeros(bins), np.full(bins, bin_size)
    counts[-1] = n - bin_size * (bins - 1)
    for first, values, shared in _ascending(confidence, correct):
        places = np.minimum(np.arange(first, first + len(values)) // bin_size, bins - 1)
        gaps += np.bincount(places, weights=values - shared, minlength=bins)
    weighted = counts / n * (gaps / counts) ** 2
    return float(np.sqrt((weighted[:-1] if published else weighted).sum()))


def aurra(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the area under the curve of accuracy against response rate.

    The mean over k = 1 ... n of the accuracy on the k most confident samples: high, if those that are wrong are unsure.

    Args:
        confidence: (n,), the probability of the predicted class.
        correct: bool (n,).

    Returns:
        0 to 1; higher is better. All orders of samples of equal confidence are averaged.

    Raises:
        InvalidValue: as :func:`rms_calibration_error`.

    Example:
        >>> aurra(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
        0.6666666666666666

    Source: Hendrycks et al. 2019, arXiv:1907.07174, Sec. 4.
    """
    n, total, passed, area = len(confidence), float(np.sum(correct)), 0.0, 0.0
    for first, _, shared in _ascending(confidence, correct):
        below = np.cumsum(shared) + passed - shared
        area += float(((total - below) / (n - first - np.arange(len(shared)))).sum())
        passed += float(shared.sum())
    return area / n


def _ascending(confidence: np.ndarray, correct: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield samples in pieces, the least confident first; equal confidences stay together and share their correctness.

    Yields:
        How many came before, confidences, and the correctness of each, shared among equals: float64 (m,).
    """
    ordered, right = _sorted(confidence, correct)
    start, n = 0, len(ordered)
    while start < n:
        last = ordered[min(start + PIECE, n) - 1]
        stop = int(np.searchsorted(ordered, last, side="right"))
        values = ordered[start:stop].astype(np.float64)
        firsts = np.flatnonzero(np.diff(values, prepend=-1.0))
        counts = np.diff(firsts, append=len(values))
        yield start, values, np.repeat(np.add.reduceat(right[start:stop], firsts, dtype=np.float64) / counts, counts)
        start = stop


def _sorted(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences, ascending, and whether each was right."""
    confidence, correct = np.asarray(confidence), np.asarray(correct)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence) or correct.dtype != bool:
        raise InvalidValue(
            f"confidences of shape {confidence.shape} and {correct.dtype} of shape {correct.shape} were given",
            "one confidence and one bool for each of one or more samples are allowed",
            "Give the probability of the predicted class, and whether it is the true one.",
        )
    if not (confidence.min() >= 0 and confidence.max() <= 1):
        raise InvalidValue(
            f"confidences in [{confidence.min():.4g}, {confidence.max():.4g}] were given",
            "probabilities in [0, 1] are allowed",
            "Apply the softmax, over the classes of the data set alone.",
        )
    if confidence.dtype != np.float32:
        order = np.argsort(confidence)
        return confidence[order], correct[order]
    # The bits of numbers from 0 to 1 are in their order, with one to spare: both are sorted in place as one.
    keys = np.ascontiguousarray(confidence).view(np.uint32) << np.uint32(1)
    keys |= correct
    keys.sort()
    right = np.empty(len(keys), bool)
    np.bitwise_and(keys, np.uint32(1), out=right, casting="unsafe")
    keys >>= np.uint32(1)
    return keys.view(np.float32), right
