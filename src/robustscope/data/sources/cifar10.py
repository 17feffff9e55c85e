"""CIFAR-10."""

from __future__ import annotations

from robustscope.data.base import Dataset
from robustscope.data.cifar_files import Layout, read_cifar
from robustscope.data.datasets import SOURCES

LAYOUT = Layout(
    name="cifar10",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    label_bytes=1,
    binary={"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)},
    pickled={"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)},
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    label_key="labels",
)


@SOURCES.register(
    "cifar10",
    version=1,
    source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    example="cifar10:FOLDER-or-RECORD-FILE#test",
    splits=("train", "test"),
)
def cifar10(path: str, split: str) -> Dataset:
    """Read CIFAR-10 in its binary or its Python layout.

    Args:
        path: the folder, the folder above it, a file of binary records, or a tar archive of the folder.
        split: "test" (default) or "train"; none for a file of records.

    Raises:
        MissingFile, BadFile, UnsafeFile: if the files cannot be read, or not without running code.
    """
    return read_cifar(LAYOUT, path, split)
