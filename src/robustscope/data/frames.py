"""Anchor frames with the frames around them, and where their pixels come from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from robustscope.core.errors import BadFile, InvalidValue
from robustscope.data.base import check_labels, existing
from robustscope.data.pictures import decode
from robustscope.data.sources.folder import common_shape
from robustscope.data.sources.wnids import cropped
from robustscope.data.video_files import VIDEOS, decode_video, video_size


class Reader(Protocol):
    """Where the pixels of frames come from."""

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Return frames uint8 (B, C, H, W)."""
        ...

    def digest(self) -> str:
        """Return a sha-256 of all that decides the pixels."""
        ...


@dataclass(frozen=True)
class FrameSet:
    """Anchor frames, each with the frames around it that look the same to people.

    Args:
        name: for tables.
        shape: (C, H, W) of every frame.
        names: one for each frame.
        labels: for each frame the classes that count as right; empty where nobody labelled it.
        anchors: frame ids.
        members: for each anchor the ids of its frames, without itself; may be empty.
        offsets: for each of these how many frames it comes after the anchor, never 0.
        reader: of the pixels.
        class_names: one for each class, or None.
        unreviewed: frames that stand beside an anchor without anyone having said that they look the same.

    Example:
        >>> from robustscope.data.video_problems import moving_squares
        >>> frames = moving_squares([4], [1.0], frames=3)
        >>> frames.names, frames.anchors, frames.members, frames.offsets
        (('0/-1', '0/0', '0/1'), (1,), ((0, 2),), ((-1, 1),))
    """

    name: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    anchors: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    offsets: tuple[tuple[int, ...], ...]
    reader: Reader
    class_names: tuple[str, ...] | None = None
    unreviewed: int = 0

    def __post_init__(self) -> None:
        if not self.anchors:
            raise BadFile(f"{self.name} has no anchor", "one or more are needed", "Check the list of frames.")
        for anchor, offsets in zip(self.anchors, self.offsets, strict=True):
            if not self.labels[anchor]:
                raise BadFile(
                    f"the anchor {self.names[anchor]} of {self.name} has no label",
                    "a label for each anchor is needed; its frames may lack their own",
                    "Label it.",
                )
            if 0 in offsets:
                raise BadFile(
                    f"a frame beside the anchor {self.names[anchor]} has its number",
                    "frames before and after it are allowed",
                    "Number the frames of a video, or write the column offset.",
                )

    def __len__(self) -> int:
        return len(self.anchors)

    def read(self, ids: Sequence[int]) -> Tensor:
        """Return frames float32 (B, C, H, W) in [0, 1], on the CPU.

        Raises:
            BadFile: if a file can no longer be read, or has another size.
        """
        return torch.from_numpy(np.ascontiguousarray(self.reader.read(ids))).to(torch.float32).div_(255)

    def fingerprint(self) -> str:
        """Return the sha-256 of what a result can depend on: files or pixels, labels, anchors and their frames."""
        facts = [self.shape, self.labels, self.anchors, self.members, self.offsets]
        return hashlib.sha256((json.dumps(facts) + self.reader.digest()).encode()).hexdigest()


class Stored:
    """Frames in files: pictures, or ``clip.mp4#17`` for frame 17 of a video.

    Args:
        root: folder that the names are relative to.
        names: of the frames.
        wanted: (resize, crop) for frames of any size, as for ``wnids:``; None where all have one size.

    Raises:
        MissingFile, BadFile: if a file is absent, unreadable, or of another size.
        MissingExtra: for videos without PyAV.
    """

    def __init__(self, root: Path, names: Sequence[str], wanted: tuple[int, int] | None) -> None:
        self.places = [_place(root, name) for name in names]
        self.wanted = wanted
        for file in dict.fromkeys(file for file, _ in self.places):
            existing(file, "a frame")
        if wanted is not None:
            self.shape: tuple[int, ...] = (3, wanted[1], wanted[1])
            return
        pictures = [file for file, number in self.places if number is None]
        shapes = {file: (3, *video_size(file)) for file, number in self.places if number is not None}
        self.shape = common_shape(pictures) if pictures else next(iter(shapes.values()))
        if shapes and pictures:
            self.shape = (3, *self.shape[1:])
        for file, shape in shapes.items():
            self._check(shape, str(file))

    def _check(self, shape: Sequence[int], where: str) -> None:
        if tuple(shape) != self.shape:
            raise BadFile(
                f"{where} is {tuple(shape)}",
                f"{self.shape}, as the first frame, is allowed",
                "Bring all to one size: write FRAMES?resize=256&crop=224.",
            )

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """See :meth:`Reader.read`; every video is decoded once."""
        out = np.empty((len(ids), *self.shape), np.uint8)
        videos: dict[Path, dict[int, list[int]]] = {}
        for row, i in enumerate(ids):
            file, number = self.places[i]
            if number is None:
                out[row] = self._fitted(decode(file, self.shape[0], str(file)), str(file))
            else:
                videos.setdefault(file, {}).setdefault(number, []).append(row)
        for file, rows in videos.items():
            for number, pixels in decode_video(file, rows):
                out[rows[number]] = self._fitted(pixels, f"{file}#{number}")
        return out

    def _fitted(self, pixels: np.ndarray, where: str) -> np.ndarray:
        if self.wanted is not None:
            return cropped(pixels, *self.wanted)
        self._check(pixels.shape, where)
        return pixels

    def digest(self) -> str:
        """See :meth:`Reader.digest`; reads every file once."""
        total = hashlib.sha256(repr((self.wanted, [number for _, number in self.places])).encode())
        marks: dict[Path, bytes] = {}
        for file, _ in self.places:
            if file not in marks:
                with file.open("rb") as handle:
                    marks[file] = hashlib.file_digest(handle, "sha256").digest()
            total.update(marks[file])
        return total.hexdigest()


class InMemory:
    """Frames in an array: uint8 (n, C, H, W)."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """See :meth:`Reader.read`."""
        return self.pixels[list(ids)]

    def digest(self) -> str:
        """See :meth:`Reader.digest`."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def from_sequences(
    pixels: np.ndarray | Tensor,
    labels: Sequence[int],
    *,
    anchor: int | None = None,
    name: str = "sequences",
    class_names: Sequence[str] | None = None,
) -> FrameSet:
    """Return sequences of frames of one picture each as videos, all frames with the label of their sequence.

    Args:
        pixels: (n, frames, C, H, W): bytes, or floating-point values in [0, 1], which come onto 256 levels; for instance
            what ``perturb`` or :class:`robustscope.data.benchmarks.Sequences` return.
        labels: (n,) classes.
        anchor: place of the anchor in its sequence; the middle if left out.
        name: for tables.
        class_names: one for each class, or None.

    Raises:
        InvalidValue: for other shapes, values or labels, or an anchor outside.

    Example:
        >>> frames = from_sequences(torch.rand(2, 5, 1, 8, 8), [3, 7])
        >>> frames.anchors, frames.offsets[0], frames.names[:2]
        ((2, 7), (-2, -1, 1, 2), ('0/-2', '0/-1'))
    """
    values = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else np.asarray(pixels)
    middle = values.shape[1] // 2 if anchor is None and values.ndim == 5 else anchor
    sound = values.ndim == 5 and values.dtype.kind in "uf" and (values.dtype.kind == "f" or values.dtype == np.uint8)
    if not sound or middle is None or not 0 <= middle < values.shape[1]:
        raise InvalidValue(
            f"pixels of {values.dtype} and shape {values.shape}, and anchor={anchor}, were given",
            "bytes or floats (n, frames, C, H, W), and an anchor among the frames, are allowed",
            "Stack the frames of each sequence.",
        )
    if values.dtype.kind == "f":
        if not ((values >= 0) & (values <= 1)).all():
            raise InvalidValue("values outside [0, 1] were given", "[0, 1] is allowed", "Divide bytes by 255.")
        values = np.rint(values * 255).astype(np.uint8)
    classes = check_labels(np.asarray(labels), len(values), "labels", error=InvalidValue).tolist()
    count = values.shape[1]
    around = [i for i in range(count) if i != middle]
    firsts = range(0, len(values) * count, count)
    return FrameSet(
        name=name,
        shape=tuple(values.shape[2:]),
        names=tuple(f"{n}/{i - middle}" for n in range(len(values)) for i in range(count)),
        labels=tuple((label,) for label in classes for _ in range(count)),
        anchors=tuple(first + middle for first in firsts),
        members=tuple(tuple(first + i for i in around) for first in firsts),
        offsets=tuple(tuple(i - middle for i in around) for _ in firsts),
        reader=InMemory(values.reshape(-1, *values.shape[2:])),
        class_names=None if class_names is None else tuple(class_names),
    )


def _place(root: Path, name: str) -> tuple[Path, int | None]:
    match = re.fullmatch(r"(.+)#(\d+)", name)
    if match and Path(match[1]).suffix.lower() in VIDEOS:
        return root / match[1], int(match[2])
    return root / name, None
