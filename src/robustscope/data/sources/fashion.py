"""Fashion-MNIST."""

from __future__ import annotations

from robustscope.data.base import Dataset
from robustscope.data.datasets import SOURCES
from robustscope.data.sources.idx import read_folder

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@SOURCES.register(
    "fashion",
    version=1,
    source="Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747",
    example="fashion:FOLDER#test",
    splits=("train", "test"),
)
def fashion(path: str, split: str) -> Dataset:
    """Read Fashion-MNIST from a folder of IDX files, plain or gzip.

    Args:
        path: the folder.
        split: "test" (default) or "train".

    Raises:
        MissingFile, BadFile: if the files cannot be read.
    """
    return read_folder("fashion", path, split, CLASS_NAMES)
