"""Frames that may look like an anchor, proposed by distance: a list for people to review, never accepted by itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robustscope.core.errors import BadFile, InvalidValue
from robustscope.core.files import write_text
from robustscope.data.base import existing
from robustscope.data.benchmarks import frame_files
from robustscope.data.frames import Stored
from robustscope.data.video_files import VIDEOS, count_frames

Metric = Literal["rms", "linf"]
COLUMNS = ("path", "anchor", "offset", "label", "distance", "metric", "review")


def difference(frames: np.ndarray, anchor: np.ndarray, metric: Metric = "rms") -> np.ndarray:
    """Return how far frames are from an anchor, in [0, 1], where 1 is black against white.

    Args:
        frames: uint8 (B, C, H, W).
        anchor: uint8 (C, H, W).
        metric: "rms", the root of the mean squared difference of the values, or "linf", the largest one.

    Returns:
        float64 (B,).

    Raises:
        InvalidValue: for another metric.

    Example:
        >>> black, half = np.zeros((1, 1, 2), np.uint8), np.array([[[[0, 255]]]], np.uint8)
        >>> difference(half, black).round(4).tolist(), difference(half, black, "linf").tolist()
        ([0.7071], [1.0])
    """
    if metric not in ("rms", "linf"):
        raise InvalidValue(f"metric={metric!r} was given", "'rms' or 'linf' is allowed", "Write metric='rms'.")
    apart = np.abs(frames.astype(np.float64) - anchor).reshape(len(frames), -1) / 255
    return np.sqrt((apart**2).mean(1)) if metric == "rms" else apart.max(1)


def mine(
    root: str | Path,
    labels: Mapping[str, int],
    *,
    every: int = 100,
    k: int = 10,
    metric: Metric = "rms",
    furthest: float = 1.0,
) -> list[dict[str, Any]]:
    """Propose anchors, and the frames around each that are near it, for review.

    Anchors stand ``every`` frames apart, the first in the middle of the first stretch. Beside each are listed the frames
    at most ``k`` away in time whose distance is at most ``furthest``, nearest first.

    Args:
        root: folder that holds folders of numbered frames, or video files.
        labels: name of such a folder or file -> class of its anchors. The frames beside an anchor get no label of their
            own: whoever reviews them writes it.
        every: frames from an anchor to the next, >= 1.
        k: frames before and after, >= 1.
        metric: see :func:`difference`; it is stated in the list.
        furthest: largest distance listed.

    Returns:
        Rows of :data:`COLUMNS`, for :func:`write_list`. ``review`` is empty: :func:`robustscope.data.video.load_frames`
        refuses the list until somebody has written "similar" or "different" into every row.

    Raises:
        InvalidValue: for counts below one, or another metric.
        MissingFile, BadFile: if a video is absent, or has no frames.
        MissingExtra: for video files without PyAV.
    """
    if every < 1 or k < 1:
        raise InvalidValue(f"every={every}, k={k} were given", "whole numbers >= 1 are allowed", "Correct them.")
    place, rows = existing(root, "a folder of videos"), []
    for video, label in labels.items():
        names = _frames_of(place, video)
        reader = Stored(place, names, None)
        for anchor in range(min(every, len(names)) // 2, len(names), every):
            near = [i for i in range(max(0, anchor - k), min(len(names), anchor + k + 1)) if i != anchor]
            pixels = reader.read([anchor, *near])
            apart = difference(pixels[1:], pixels[0], metric)
            rows.append(_listed(names, anchor, anchor, label, 0.0, metric))
            for j in sorted(range(len(near)), key=lambda j: (apart[j], abs(near[j] - anchor), near[j])):
                if apart[j] <= furthest:
                    rows.append(_listed(names, near[j], anchor, "", float(apart[j]), metric))
    return rows


def _listed(
    names: Sequence[str], frame: int, anchor: int, label: int | str, distance: float, metric: Metric
) -> dict[str, Any]:
    values = (names[frame], names[anchor], frame - anchor, label, round(distance, 6), metric, "")
    return dict(zip(COLUMNS, values, strict=True))


def _frames_of(root: Path, video: str) -> list[str]:
    """Return the names of the frames of a video, in their order."""
    place = existing(root / video, "a folder of frames, or a video")
    if place.is_file() and place.suffix.lower() in VIDEOS:
        return [f"{video}#{i}" for i in range(count_frames(place))]
    names = [f"{video}/{file.name}" for file in frame_files(place)]
    if not names:
        raise BadFile(f"{place} holds no frames", "numbered pictures, or a video, are allowed", "Check the path.")
    return names


def write_list(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Write rows as a list that :func:`robustscope.data.video.load_frames` reads, for review in any spreadsheet.

    Raises:
        InvalidValue: if the file exists: a reviewed list is work, and is never overwritten.
        StoreError: if it cannot be written.
    """
    file = Path(path)
    if file.exists():
        raise InvalidValue(
            f"{file} exists", "a new file is allowed, since a reviewed list is work", "Name another file."
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())
    return file
