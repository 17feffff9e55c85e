"""Frames of video files, decoded by PyAV (extra ``video``)."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robustscope.core.errors import BadFile, missing_extra

VIDEOS = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mpeg", ".m4v"})


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    """Open a video.

    Raises:
        MissingExtra: if PyAV cannot be imported.
        BadFile: if the file is no video.
    """
    try:
        av = importlib.import_module("av")
    except Exception as error:
        raise missing_extra("av", "video", error) from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadFile(f"{path} has no pictures", "a video is allowed", "Name another file.")
            yield container
    except av.error.FFmpegError as error:
        raise BadFile(f"{path} could not be decoded ({error})", "a whole video is allowed", "Replace it.") from error


def video_size(path: Path) -> tuple[int, int]:
    """Return height and width of a video's frames.

    Raises:
        MissingExtra, BadFile: as :func:`decode_video`.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        return int(stream.height), int(stream.width)


def decode_video(path: Path, wanted: Collection[int]) -> Generator[tuple[int, np.ndarray]]:
    """Yield the frames with these numbers, counted from 0 in the order of showing: uint8 (3, H, W).

    The file is decoded from its start up to the last of them, so that no index and no time stamp is trusted. Orientation
    tags are not applied.

    Args:
        path: the file.
        wanted: numbers of frames.

    Raises:
        MissingExtra: if PyAV cannot be imported.
        BadFile: if the file is no whole video, or ends earlier.
    """
    left = set(wanted)
    with _opened(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in left:
                left.remove(number)
                yield number, np.ascontiguousarray(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))
            if not left:
                return
    if left:
        raise BadFile(
            f"{path} has no frame {min(left)}", "frames counted from 0 are allowed", "Check the numbers of the list."
        )


def count_frames(path: Path) -> int:
    """Return how many frames a video has, by decoding it.

    Raises:
        MissingExtra, BadFile: as :func:`decode_video`.
    """
    with _opened(path) as container:
        return sum(1 for _ in container.decode(video=0))
