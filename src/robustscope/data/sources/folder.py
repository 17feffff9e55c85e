"""Folders of pictures, one sub-folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustscope.core.errors import BadFile
from robustscope.data.base import Dataset, check_labels, existing
from robustscope.data.datasets import SOURCES
from robustscope.data.pictures import CHANNELS, decode, header, split_names

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})
SPLITS = frozenset({"train", "test", "val", "valid", "validation"})


class PicturesDataset(Dataset):
    """Pictures of one size in files, decoded when they are read."""

    def __init__(
        self, name: str, files: Sequence[Path], shape: Sequence[int], labels: np.ndarray, class_names: Sequence[str]
    ) -> None:
        self.files = tuple(files)
        super().__init__(name, shape, np.dtype(np.uint8), labels, class_names)

    def raw(self, ids: np.ndarray) -> np.ndarray:
        """See :meth:`Dataset.raw`."""
        out = np.empty((len(ids), *self.shape), np.uint8)
        for row, i in enumerate(ids.tolist()):
            file = self.files[i]
            out[row] = _sized(decode(file, self.shape[0], str(file)), self.shape, file)
        return out


def _sized(pixels: np.ndarray, shape: Sequence[int], file: Path) -> np.ndarray:
    if pixels.shape != tuple(shape):
        raise BadFile(
            f"{file} is now {pixels.shape}",
            f"{tuple(shape)}, as when the set was opened, is allowed",
            "Restore the file.",
        )
    return pixels


@SOURCES.register("folder", version=1, source="one sub-folder for each class", example="folder:PATH")
def folder(path: str, split: str) -> Dataset:
    """Read a folder of pictures; the sorted names of its sub-folders are the classes.

    Files that are no pictures by their ending, and hidden ones, are left out. All pictures have one size. They are
    grey (1, H, W) if every one is grey, else (3, H, W) with the grey ones repeated. Only the headers are read here.

    Args:
        path: the folder of the class folders, or the folder of split folders above it ("train", "test", "val", …).
        split: name of a split folder; without one, "test" if the folder holds split folders.

    Raises:
        MissingFile: if the path does not exist.
        BadFile: for no classes, an empty class, unreadable pictures, and pictures of different sizes.
    """
    root = existing(path, "a folder with one sub-folder for each class")
    if not root.is_dir():
        raise BadFile(f"{root} is a file", "a folder is allowed", "Give the folder with one sub-folder for each class.")
    inside = {child.name for child in _folders(root)}
    chosen = split_names(inside if inside and inside <= SPLITS else set(), split, str(root))
    place = root / chosen if chosen else root
    classes = _folders(place)
    if not classes:
        raise BadFile(
            f"{place} has no sub-folders", "one sub-folder for each class is expected", "Sort the pictures by class."
        )
    files, labels = class_pictures(classes)
    shape = common_shape(files)
    names = [child.name for child in classes]
    return PicturesDataset(root.name, files, shape, check_labels(labels, len(files), path), names)


def class_pictures(classes: Sequence[Path]) -> tuple[list[Path], np.ndarray]:
    """Return the pictures in the folders of classes, and the place of its folder for each: int64 (n,).

    Raises:
        BadFile: for a folder without pictures.
    """
    files: list[Path] = []
    labels: list[int] = []
    for label, child in enumerate(classes):
        here = sorted(f for f in child.iterdir() if f.suffix.lower() in ENDINGS and not f.name.startswith("."))
        if not here:
            raise BadFile(
                f"the class folder {child} holds no pictures",
                f"files ending in {', '.join(sorted(ENDINGS))} are expected",
                "Remove the folder, or fill it; a folder of train and test folders wants #train or #test.",
            )
        files += here
        labels += [label] * len(here)
    return files, np.asarray(labels, dtype=np.int64)


def _folders(place: Path) -> list[Path]:
    return sorted(child for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))


def common_shape(files: Sequence[Path]) -> tuple[int, int, int]:
    """Return (C, H, W) of all pictures.

    Raises:
        BadFile: naming the first that differs in size.
    """
    channels, (_, height, width) = 0, header(files[0])
    for file in files:
        mode, h, w = header(file)
        if (h, w) != (height, width):
            raise BadFile(
                f"{file} is {h} x {w} pixels, {files[0]} is {height} x {width}",
                "pictures of one size are allowed",
                "Resize and crop them first, as the model's own preprocessing does.",
            )
        channels = max(channels, CHANNELS[mode])
    return channels, height, width
