"""Telling pictures of no known class from ordinary ones: the area under precision and recall."""

from __future__ import annotations

import numpy as np

from robustscope.core.errors import InvalidValue

IMAGENET_O = "imagenet-o"
"""What the name of a folder holds whose pictures belong to none of the classes that they lie under."""


def aupr(outliers: np.ndarray, inliers: np.ndarray) -> float:
    """Return the area under the curve of precision against recall, the outliers being what is to be found.

    sum over thresholds of (recall gained) x (precision there), from the highest score on; equal scores pass a threshold
    together. ImageNet-O takes minus the confidence as the score, over the 200 classes of the set.

    Args:
        outliers: (n,), scores of pictures of no known class; higher is stranger.
        inliers: (m,), scores of ordinary pictures.

    Returns:
        0 to 1; higher is better. Scores that say nothing reach about n / (n + m).

    Raises:
        InvalidValue: for no outliers, no inliers, or scores that are no numbers.

    Example:
        >>> aupr(np.array([0.9, 0.4]), np.array([0.5]))  # found first of one, and second of three
        0.8333333333333333

    Source: Hendrycks et al. 2021, arXiv:1907.07174, Sec. 4 (ImageNet-O); average precision as the published program.
    """
    scores = np.concatenate([np.asarray(part, dtype=float).reshape(-1) for part in (outliers, inliers)])
    count = np.size(outliers)
    if not 0 < count < len(scores) or np.isnan(scores).any():
        raise InvalidValue(
            f"scores of {count} outliers and {len(scores) - count} inliers were given"
            + (", some of them NaN" if np.isnan(scores).any() else ""),
            "a number for each of one or more of both is allowed",
            "Give minus the probability of the predicted class.",
        )
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    found = np.cumsum(order < count)[ends]
    return float(np.sum(np.diff(found, prepend=0) / count * found / (ends + 1)))
