"""A folder of two NumPy arrays, for sets larger than the memory."""

from __future__ import annotations

from robustscope.core.errors import BadFile
from robustscope.data.arrays import Mapped, from_file_arrays
from robustscope.data.base import Dataset, existing
from robustscope.data.datasets import SOURCES
from robustscope.data.sources.npz import find_keys


@SOURCES.register(
    "npy", version=1, source="numpy.save", example="npy:FOLDER", splits=("train", "test", "val", "validation")
)
def npy(path: str, split: str) -> Dataset:
    """Read samples and labels from two ``.npy`` files; the samples stay on disk.

    Args:
        path: folder with ``x.npy`` and ``y.npy`` (or ``images.npy`` and ``labels.npy``), or ``x_test.npy`` and so on.
            Layouts: see :func:`robustscope.data.arrays.from_file_arrays`.
        split: as the names say; "test" if there are splits.

    Raises:
        MissingFile: if the folder does not exist.
        BadFile: for missing or truncated files, other dtypes, and labels that do not fit. NaN in the samples is
            found when they are read.
        UnsafeFile: if an array holds pickled objects.
    """
    folder = existing(path, "a folder with x.npy and y.npy")
    if not folder.is_dir():
        raise BadFile(f"{folder} is a file", "a folder with x.npy and y.npy is allowed", "Give the folder.")
    key_x, key_y = find_keys((f.stem for f in folder.glob("*.npy")), split, folder)
    x, labels = Mapped.npy(folder / f"{key_x}.npy"), Mapped.npy(folder / f"{key_y}.npy")
    return from_file_arrays(folder.name, x, labels.rows(slice(None)), str(folder))
