"""What published benchmarks of shifts share: blocks of severities, lists of classes, sequences of frames.

Nothing is downloaded, and no list of classes is shipped: lists come from a file or from the names of folders.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustscope.core.errors import BadFile, InvalidValue, did_you_mean
from robustscope.data.arrays import ArrayDataset, Mapped
from robustscope.data.base import Dataset, check_labels, existing
from robustscope.data.pictures import decode

SEVERITIES = 5
ROWS = 10_000
"""Test images of CIFAR-10 and CIFAR-100, hence rows of one severity."""
WNID = re.compile(r"n\d{8}")
FRAMES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})


def array(path: Path, shape: Sequence[int], what: str) -> Mapped:
    """Open an ``.npy`` file of bytes, and check its shape.

    Args:
        path: the file.
        shape: what is expected; 0 stands for any number.
        what: of which benchmark, for messages.

    Raises:
        MissingFile, BadFile: if it is absent, truncated, or of another shape or dtype.
        UnsafeFile: if it holds pickled objects.
    """
    found = Mapped.npy(existing(path, f"an array of {what}"))
    fits = len(found.shape) == len(shape) and all(s in (0, f) for s, f in zip(shape, found.shape, strict=True))
    if not fits or found.dtype != "|u1" or found.order != "C" or 0 in found.shape:
        expected = " x ".join(str(s) if s else "any" for s in shape)
        raise BadFile(
            f"{path} holds {np.dtype(found.dtype).name} of shape {found.shape}",
            f"uint8 of shape {expected}, as published, is allowed for {what}",
            "Copy the file again; arrays of your own are read by npy:FOLDER.",
        )
    return found


def labels_of(path: Path, count: int, num_classes: int) -> np.ndarray:
    """Return the labels (n,) of an ``.npy`` file, checked.

    Raises:
        MissingFile, BadFile: if it is absent, or its labels do not fit.
    """
    values = Mapped.npy(existing(path, "an array of labels")).rows(slice(None))
    return check_labels(values, count, str(path), num_classes)


def present(names: Sequence[str], asked: str, where: Path, example: str) -> str:
    """Return the corruption that was asked for, if it is there.

    Raises:
        BadFile: if there are none.
        InvalidValue: if it is not among them, or none was asked for.
    """
    if not names:
        raise BadFile(f"{where} holds no corruption", "the folder as published is expected", f"Write e.g. {example}.")
    if asked not in names:
        given = f"the corruption {asked!r} was asked of {where}" if asked else f"no corruption of {where} was named"
        raise InvalidValue(given, f"one that it holds is allowed, as in {example}", did_you_mean(asked, names))
    return asked


def cifar_c(name: str, path: str, split: str, class_names: Sequence[str]) -> Dataset:
    """Read one corruption of CIFAR-10-C or CIFAR-100-C: 50,000 rows, of which each severity has 10,000.

    Args:
        name: of the source.
        path: folder of ``CORRUPTION.npy`` and ``labels.npy``.
        split: "fog_3" for one severity, "fog" for all five.
        class_names: of the data set.

    Raises:
        MissingFile, BadFile: if files are absent or of other counts and shapes.
        InvalidValue: for a corruption that is not there.
    """
    folder = existing(path, "the folder of the arrays")
    example = f"{name}:FOLDER#fog_3"
    names = sorted(file.stem for file in folder.glob("*.npy") if file.stem != "labels")
    match = re.fullmatch(rf"(\w+)_([1-{SEVERITIES}])", split)
    chosen = present(names, match[1] if match else split, folder, example)
    whole = array(folder / f"{chosen}.npy", (SEVERITIES * ROWS, 32, 32, 3), name)
    labels = labels_of(folder / "labels.npy", SEVERITIES * ROWS, len(class_names))
    if not (labels.reshape(SEVERITIES, ROWS) == labels[:ROWS]).all():
        raise BadFile(
            f"{folder / 'labels.npy'} holds other labels for other severities",
            "the same 10,000 labels five times are allowed",
            "Copy the file again.",
        )
    if match:
        first = (int(match[2]) - 1) * ROWS
        whole = replace(whole, shape=(ROWS, 32, 32, 3), offset=whole.offset + first * 32 * 32 * 3)
        labels = labels[:ROWS]
    return ArrayDataset(f"{name} {split}", [whole], labels, class_names, channels_last=True)


def read_wnids(path: str | Path) -> list[str]:
    """Return WordNet ids in the order of their classes.

    Args:
        path: a text file with one at the start of each line, in the order of the model's outputs; or a folder with a
            sub-folder for each, whose alphabetical order counts.

    Raises:
        MissingFile, BadFile: for no ids, other words, and an id given twice.
    """
    place = existing(path, "a list of WordNet ids, or a folder of folders named by them")
    if place.is_dir():
        found = sorted(child.name for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))
    else:
        try:
            lines = place.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadFile(f"{place} could not be read ({error})", "a text file is allowed", "Check it.") from error
        found = [line.split()[0] for line in lines if line.strip()]
    wrong = [word for word in found if not WNID.fullmatch(word)]
    if wrong or not found or len(set(found)) < len(found):
        twice = next((word for word in found if found.count(word) > 1), "") if not wrong else ""
        what = f"{wrong[0]!r}" if wrong else f"{twice} twice" if twice else "nothing"
        raise BadFile(
            f"{place} holds {what}", "different WordNet ids such as n01440764 are allowed", "Correct the list."
        )
    return found


def positions(subset: Sequence[str], whole: Sequence[str]) -> np.ndarray:
    """Return where the classes of a subset stand in the whole list: ``logits[:, positions]`` are theirs.

    ImageNet-A and -R hold 200 of the 1,000 classes; accuracy on them is published over these outputs alone.

    Args:
        subset: WordNet ids of the subset, in the order of its labels.
        whole: WordNet ids of all outputs of the model.

    Returns:
        int64 (len(subset),).

    Raises:
        InvalidValue: if a class of the subset is not in the whole list.

    Example:
        >>> positions(["n00000002", "n00000005"], ["n00000001", "n00000002", "n00000005"]).tolist()
        [1, 2]
    """
    order = {wnid: k for k, wnid in enumerate(whole)}
    missing = [wnid for wnid in subset if wnid not in order]
    if missing:
        raise InvalidValue(
            f"{len(missing)} of {len(subset)} classes are not among the {len(whole)}, e.g. {missing[0]}",
            "classes that the list of all classes names are allowed",
            "Check that both lists are of one data set.",
        )
    return np.asarray([order[wnid] for wnid in subset], dtype=np.int64)


class Sequences:
    """Sequences of frames on disk: one array for all, or one folder for each.

    Args:
        path: an ``.npy`` file (n, frames, H, W, C) of bytes, as CIFAR-10-P is published; or a folder that holds, at any
            depth, a folder of numbered frames for each sequence. Videos must be unpacked into frames first.

    Raises:
        MissingFile, BadFile: for other shapes, no frames, and sequences of different lengths or sizes.

    Example:
        ``frames = Sequences("CIFAR-10-P/snow.npy").read(range(100))`` has the form that ``perturb`` returns.
    """

    def __init__(self, path: str | Path) -> None:
        place = existing(path, "an array or a folder of sequences")
        self._array: Mapped | None = None
        self._files: list[list[Path]] = []
        if place.is_dir():
            self._files = [frames for child in sorted(place.rglob("*")) if (frames := frame_files(child))]
            counts = {len(frames) for frames in self._files}
            if len(counts) != 1:
                raise BadFile(
                    f"{place} holds sequences of {' and '.join(map(str, sorted(counts))) or 'no'} frames",
                    "a folder of as many frames for each sequence is allowed",
                    "Unpack videos into frames, and remove broken sequences.",
                )
            self.count, self.frames = len(self._files), counts.pop()
            self.shape = decode(self._files[0][0], 3, str(self._files[0][0])).shape
        else:
            self._array = array(place, (0, 0, 0, 0, 3), "sequences")
            self.count, self.frames, height, width, channels = self._array.shape
            self.shape = (channels, height, width)
        if self.frames < 2:
            raise BadFile(f"{place} holds one frame each", "two or more are needed", "A sequence compares frames.")

    def __len__(self) -> int:
        return self.count

    def read(self, ids: Sequence[int]) -> Tensor:
        """Return sequences float32 (B, frames, C, H, W) in [0, 1].

        Raises:
            InvalidValue: if an id is out of range.
            BadFile: if a frame cannot be read or has another size.
        """
        index = np.asarray(ids, dtype=np.int64)
        if ((index < 0) | (index >= self.count)).any():
            raise InvalidValue(
                f"the sequences {index.min()} to {index.max()} were asked for",
                f"0 to {self.count - 1} are allowed",
                "Sequences are counted from 0.",
            )
        if self._array is not None:
            pixels = np.moveaxis(self._array.rows(index), -1, 2)
        else:
            pixels = np.empty((len(index), self.frames, *self.shape), np.uint8)
            for row, i in enumerate(index.tolist()):
                for number, file in enumerate(self._files[i]):
                    frame = decode(file, 3, str(file))
                    if frame.shape != self.shape:
                        raise BadFile(f"{file} is {frame.shape}", f"{self.shape} is allowed", "Resize the frames.")
                    pixels[row, number] = frame
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32).div_(255)


def frame_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their numbers."""
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() in FRAMES and not file.name.startswith(".")]
    return sorted(files, key=lambda file: (_number(file.stem), file.name))


def _number(stem: str) -> float:
    found = re.findall(r"\d+", stem)
    return int(found[-1]) if found else math.inf
