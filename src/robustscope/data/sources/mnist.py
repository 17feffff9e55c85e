"""MNIST."""

from __future__ import annotations

from robustscope.data.base import Dataset
from robustscope.data.datasets import SOURCES
from robustscope.data.sources.idx import read_folder


@SOURCES.register(
    "mnist",
    version=1,
    source="LeCun, Bottou, Bengio & Haffner 1998, doi:10.1109/5.726791",
    example="mnist:FOLDER#test",
    splits=("train", "test"),
)
def mnist(path: str, split: str) -> Dataset:
    """Read MNIST from a folder of IDX files, plain or gzip.

    Args:
        path: the folder.
        split: "test" (default) or "train".

    Raises:
        MissingFile, BadFile: if the files cannot be read.
    """
    return read_folder("mnist", path, split, [str(k) for k in range(10)])
