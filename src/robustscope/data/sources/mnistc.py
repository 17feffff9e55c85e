"""MNIST-C."""

from __future__ import annotations

from robustscope.data.arrays import ArrayDataset
from robustscope.data.base import Dataset, existing
from robustscope.data.benchmarks import array, labels_of, present
from robustscope.data.datasets import SOURCES

COUNTS = {"test": 10_000, "train": 60_000}


@SOURCES.register("mnistc", version=1, source="Mu & Gilmer 2019, arXiv:1906.02337", example="mnistc:FOLDER#fog")
def mnistc(path: str, split: str) -> Dataset:
    """Read one corruption of MNIST-C from its folder of arrays; the pixels stay on disk.

    Args:
        path: folder of one folder for each corruption, with ``test_images.npy``, ``test_labels.npy`` and the same of
            "train".
        split: "fog" for the test images in fog, "fog_train" for the training images; "identity" is the clean set.

    Raises:
        MissingFile, BadFile: if files are absent or of other counts and shapes.
        InvalidValue: for a corruption that is not there.
    """
    folder = existing(path, "the folder of MNIST-C")
    names = sorted(file.parent.name for file in folder.glob("*/*_images.npy"))
    part = "train" if split.endswith("_train") else "test"
    chosen = folder / present(sorted(set(names)), split.removesuffix("_train"), folder, "mnistc:FOLDER#fog")
    images = array(chosen / f"{part}_images.npy", (COUNTS[part], 28, 28, 1), "mnistc")
    labels = labels_of(chosen / f"{part}_labels.npy", COUNTS[part], 10)
    return ArrayDataset(f"mnistc {split}", [images], labels, [str(k) for k in range(10)], channels_last=True)
