"""NumPy archives."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from robustscope.core.errors import BadFile
from robustscope.data.arrays import from_file_arrays, unsafe
from robustscope.data.base import Dataset, existing
from robustscope.data.datasets import SOURCES

_SAMPLES = ("x", "X", "images", "data")
_LABELS = ("y", "Y", "labels", "targets")


@SOURCES.register(
    "npz", version=1, source="numpy.savez", example="npz:FILE", splits=("train", "test", "val", "validation")
)
def npz(path: str, split: str) -> Dataset:
    """Read an ``.npz`` archive with samples and labels; it is loaded whole, use ``npy:FOLDER`` for large sets.

    Args:
        path: the archive. Keys: "x", "images" or "data", and "y", "labels" or "targets"; for splits "x_test" and
            "y_test", or "test_images" and "test_labels", and so on. "class_names", an array of texts, is optional.
            Layouts: see :func:`robustscope.data.arrays.from_file_arrays`.
        split: which of them; "test" if the archive has splits.

    Raises:
        MissingFile: if the file does not exist.
        BadFile: for other files, missing keys, dtypes, NaN, and labels that do not fit.
        UnsafeFile: if an array holds pickled objects.
    """
    file = existing(path, "an .npz archive")
    if not zipfile.is_zipfile(file):
        raise BadFile(f"{file} is no .npz archive", "an archive of arrays is allowed", "Write it with numpy.savez.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            key_x, key_y = find_keys(archive.files, split, file)
            x, y = archive[key_x], archive[key_y]
            names = archive["class_names"].tolist() if "class_names" in archive.files else None
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, BadFile):
            raise
        if "Object arrays" in str(error) or "allow_pickle" in str(error):
            raise unsafe(file) from error
        raise BadFile(f"{file} could not be read ({error})", "a whole archive is allowed", "Write it again.") from error
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
        raise BadFile(f"{file} holds no arrays", "an archive of arrays is allowed", "Write it with numpy.savez.")
    return from_file_arrays(file.stem, x, y, str(file), None if names is None else [str(name) for name in names])


def find_keys(names: Iterable[str], split: str, where: Path) -> tuple[str, str]:
    """Return the names of samples and labels among ``names``.

    Raises:
        BadFile: if there are none for the split.
    """
    known = set(names)
    tails = (split,) if split else ("", "test")
    for tail in tails:
        x = next((k for name in _SAMPLES for k in _spellings(name, tail) if k in known), None)
        y = next((k for name in _LABELS for k in _spellings(name, tail) if k in known), None)
        if x and y:
            return x, y
    wanted = f"'x_{split}' and 'y_{split}'" if split else "'x' and 'y', or 'x_test' and 'y_test',"
    raise BadFile(
        f"{where} holds {', '.join(sorted(known)) or 'nothing'}",
        f"{wanted} are expected ('images' and 'labels' are accepted too)",
        "Rename the arrays, or name a split that is there.",
    )


def _spellings(name: str, tail: str) -> tuple[str, ...]:
    return (f"{name}_{tail}", f"{tail}_{name}") if tail else (name,)
