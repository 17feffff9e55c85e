"""Detection on video frames: mean average precision on anchors, and on the frame of each where the detector does worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustscope.core.errors import InvalidValue

OVERLAP = 0.5
"""Intersection over union from which a box counts as found, as in PASCAL VOC."""


@dataclass(frozen=True)
class Boxes:
    """Boxes in one frame.

    Args:
        corners: (n, 4) left, top, right, bottom.
        classes: (n,) integers.
        scores: (n,) of detections; None for the truth.
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        corners = np.asarray(self.corners, dtype=np.float64).reshape(-1, 4)
        classes = np.asarray(self.classes, dtype=np.int64).reshape(-1)
        scores = None if self.scores is None else np.asarray(self.scores, dtype=np.float64).reshape(-1)
        sound = len(corners) == len(classes) and (scores is None or len(scores) == len(classes))
        if not sound or not np.isfinite(corners).all() or (corners[:, 2:] < corners[:, :2]).any():
            raise InvalidValue(
                f"{len(corners)} boxes with {len(classes)} classes were given",
                "for each box left <= right, top <= bottom, a class, and for detections a score, are allowed",
                "Give corners, not width and height.",
            )
        for name, value in (("corners", corners), ("classes", classes), ("scores", scores)):
            object.__setattr__(self, name, value)


Frames = Mapping[Any, Boxes]


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return intersection over union of every pair of boxes: (n, 4), (m, 4) -> (n, m); 0 where both are empty.

    Example:
        >>> overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 1], [5, 5, 6, 6]])).tolist()
        [[0.5, 0.0]]
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def average_precision(hits: np.ndarray, scores: np.ndarray, truths: int) -> float:
    """Return the area under precision over recall, each precision being the best at that recall or beyond.

    Args:
        hits: bool (n,), which detections are right.
        scores: (n,).
        truths: objects there are, >= 1.

    Example:
        >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]), 2)
        0.8333333333333333

    Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4, as the challenge computes it since 2010.
    """
    order = np.argsort(-scores, kind="stable")
    right = hits[order].cumsum()
    precision = right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * hits[order]).sum() / truths)


def mean_average_precision(frames: Sequence[Any], found: Frames, truth: Frames, overlap: float = OVERLAP) -> float:
    """Return average precision at an overlap, averaged over the classes that occur in the truth.

    In each frame, detections claim objects of their class from the highest score on, each the one it overlaps most that
    is still free; a detection that claims none is wrong.

    Args:
        frames: which; the same frame may come twice, and then counts twice.
        found: frame -> detections with scores; a frame without any may be absent.
        truth: frame -> boxes.
        overlap: in (0, 1].

    Returns:
        In [0, 1].

    Raises:
        InvalidValue: for no object in these frames, a frame without truth, missing scores, or another overlap.
    """
    if not 0 < overlap <= 1 or any(frame not in truth for frame in frames):
        raise InvalidValue(
            f"overlap={overlap} was given, or a frame without boxes",
            "0 < overlap <= 1, and the boxes of every frame, are allowed",
            "Give empty boxes for a frame without objects.",
        )
    if any(found[frame].scores is None for frame in frames if frame in found):
        raise InvalidValue("detections without scores were given", "a score for each is needed", "Write scores=.")
    classes = sorted({int(c) for frame in frames for c in truth[frame].classes})
    if not classes:
        raise InvalidValue("no object is in these frames", "one or more are needed", "Precision needs objects.")
    values = []
    for c in classes:
        parts = [_matched(found.get(frame), truth[frame], c, overlap) for frame in frames]
        hits = np.concatenate([hit for hit, _ in parts])
        scores = np.concatenate([score for _, score in parts])
        values.append(average_precision(hits, scores, sum(int((truth[f].classes == c).sum()) for f in frames)))
    return float(np.mean(values))


def _matched(found: Boxes | None, truth: Boxes, c: int, overlap: float) -> tuple[np.ndarray, np.ndarray]:
    if found is None or found.scores is None:
        return np.zeros(0, bool), np.zeros(0)
    mine = found.classes == c
    scores, objects = found.scores[mine], truth.corners[truth.classes == c]
    shared, hits = overlaps(found.corners[mine], objects), np.zeros(len(scores), bool)
    for i in np.argsort(-scores, kind="stable"):
        if len(objects) and shared[i].max() >= overlap:
            hits[i] = True
            shared[:, shared[i].argmax()] = -1.0
    return hits, scores


def detection_drop(
    anchors: Sequence[Any],
    members: Sequence[Sequence[Any]],
    found: Frames,
    truth: Frames,
    overlap: float = OVERLAP,
) -> dict[str, Any]:
    """Return mean average precision on the anchors, and on the frame of each on which the detector does worst.

    The worst of an anchor and its frames is the one whose own mean average precision is smallest, the anchor winning ties,
    then the one listed first. Frames without objects are passed over, as precision is not defined on them. Unlike
    the accuracy pm-k, the second value may exceed the first: precision depends on the ranking among all frames.

    Args:
        anchors: frames with objects.
        members: the similar frames of each, already limited to k.
        found, truth, overlap: as for :func:`mean_average_precision`; every frame is judged by its own boxes.

    Returns:
        ``benign``, ``pm``, ``drop`` (their difference), ``worst`` (a frame for each anchor), ``n``.

    Raises:
        InvalidValue: as :func:`mean_average_precision`, and for members of another number of anchors.

    Source: Shankar et al. 2019, arXiv:1906.02168, Sec. 4 (detection).
    """
    if len(members) != len(anchors) or not anchors:
        raise InvalidValue(
            f"{len(anchors)} anchors and {len(members)} sets of frames were given",
            "one set for each of one or more anchors is allowed",
            "Give an empty set to an anchor without frames.",
        )
    worst = []
    for anchor, around in zip(anchors, members, strict=True):
        able = [anchor, *(frame for frame in around if frame in truth and len(truth[frame].classes))]
        worst.append(min(able, key=lambda frame: mean_average_precision([frame], found, truth, overlap)))
    benign = mean_average_precision(anchors, found, truth, overlap)
    low = mean_average_precision(worst, found, truth, overlap)
    return {"benign": benign, "pm": low, "drop": benign - low, "worst": worst, "n": len(anchors)}
