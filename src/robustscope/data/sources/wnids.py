"""Folders of pictures named by WordNet ids: ImageNet-C, -A, -R and -O, and subsets of ImageNet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustscope.core.errors import BadFile, InvalidValue
from robustscope.data.base import Dataset, check_labels, existing
from robustscope.data.benchmarks import positions, read_wnids
from robustscope.data.datasets import SOURCES
from robustscope.data.pictures import decode, header, pillow
from robustscope.data.sources.folder import PicturesDataset, class_pictures, common_shape

KNOWN = {1000: "ImageNet", 200: "ImageNet-A, -R, -O and Tiny ImageNet"}


class CroppedDataset(PicturesDataset):
    """Pictures of any size: the shorter side is resized, and the middle cut out, as ImageNet models expect."""

    def __init__(
        self, name: str, files: Sequence[Path], sides: tuple[int, int], labels: np.ndarray, class_names: Sequence[str]
    ) -> None:
        self.resize, crop = sides
        super().__init__(name, files, (3, crop, crop), labels, class_names)

    def raw(self, ids: np.ndarray) -> np.ndarray:
        """See :meth:`Dataset.raw`."""
        out = np.empty((len(ids), *self.shape), np.uint8)
        for row, i in enumerate(ids.tolist()):
            out[row] = cropped(decode(self.files[i], 3, str(self.files[i])), self.resize, self.shape[1])
        return out


def cropped(pixels: np.ndarray, resize: int, crop: int) -> np.ndarray:
    """Return the middle of a picture whose shorter side was resized, bilinearly by Pillow: uint8 (3, crop, crop).

    Args:
        pixels: uint8 (3, H, W).
        resize: pixels of the shorter side; the longer one is cut to whole pixels.
        crop: pixels of each side of what is cut out, at most ``resize``.
    """
    height, width = pixels.shape[1:]
    short = min(height, width)
    image = pillow()
    size = (resize * width // short, resize * height // short)
    seen = image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).resize(size, image.Resampling.BILINEAR)
    left, top = (round((side - crop) / 2) for side in size)
    return np.asarray(seen)[top : top + crop, left : left + crop].transpose(2, 0, 1)


@SOURCES.register(
    "wnids",
    version=1,
    source="Hendrycks et al. 2021, arXiv:1907.07174 (ImageNet-A, -O) and arXiv:2006.16241 (-R); folders as ImageNet's",
    example="wnids:FOLDER,LIST?resize=256&crop=224",
)
def wnids(path: str, split: str) -> Dataset:
    """Read folders of pictures named by WordNet ids, with the classes numbered as a list of all classes says.

    A folder of ImageNet-C is one (corruption, severity): ``wnids:ImageNet-C/fog/3``. Without a list there must be 1,000
    or 200 folders, which are numbered alphabetically, as ImageNet is. With the list of the 1,000 classes, the labels of
    ImageNet-A or -R are places among them; published accuracies on these two are over the 200 outputs alone, which
    :func:`robustscope.data.benchmarks.positions` picks.

    Args:
        path: ``FOLDER`` or ``FOLDER,LIST``; the list as :func:`robustscope.data.benchmarks.read_wnids` takes it. Behind
            it ``?resize=256&crop=224`` brings pictures of any size to one; without it all must have one size.
        split: none.

    Raises:
        MissingFile, BadFile: if the path or pictures cannot be read, or folders are not named by WordNet ids.
        InvalidValue: for another split or other options, a folder that the list does not name, or another number of
            folders without a list.
    """
    if split:
        raise InvalidValue(f"#{split} was asked of wnids", "no split is allowed", "Name the folder of the split.")
    where, wanted = sides(path)
    place, _, listed = where.partition(",")
    root = existing(place, "a folder of folders named by WordNet ids")
    if not root.is_dir():
        raise BadFile(f"{root} is a file", "a folder of folders is allowed", "Unpack the archive, and name the folder.")
    here = read_wnids(root)
    if not listed and len(here) not in KNOWN:
        raise InvalidValue(
            f"{len(here)} folders are in {root}, and no list of all classes was given",
            " or ".join(f"{count} ({name})" for count, name in KNOWN.items()) + " are allowed without one",
            "Write wnids:FOLDER,LIST with a file of all WordNet ids in the order of the model's outputs.",
        )
    everything = read_wnids(listed) if listed else here
    own = positions(here, everything)
    files, labels = class_pictures([root / wnid for wnid in here])
    labels = check_labels(own[labels], len(files), str(root))
    if wanted is None:
        return PicturesDataset(root.name, files, common_shape(files), labels, everything)
    for file in files:
        header(file)
    return CroppedDataset(root.name, files, wanted, labels, everything)


def sides(path: str) -> tuple[str, tuple[int, int] | None]:
    """Return a path without the ``?resize=N&crop=M`` behind it, and the two numbers, or None where there are none.

    Raises:
        InvalidValue: for other options.
    """
    where, mark, text = path.partition("?")
    if not mark:
        return where, None
    match = re.fullmatch(r"resize=(\d+)&crop=(\d+)", text)
    if not match or not 0 < int(match[2]) <= int(match[1]):
        raise InvalidValue(
            f"?{text} was given behind {where}",
            "?resize=N&crop=M with 0 < M <= N is allowed",
            "Write e.g. ?resize=256&crop=224.",
        )
    return where, (int(match[1]), int(match[2]))
