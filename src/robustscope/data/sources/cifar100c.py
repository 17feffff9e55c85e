"""CIFAR-100-C."""

from __future__ import annotations

from robustscope.data.base import Dataset
from robustscope.data.benchmarks import cifar_c
from robustscope.data.datasets import SOURCES
from robustscope.data.sources.cifar100 import LAYOUT


@SOURCES.register(
    "cifar100c",
    version=1,
    source="Hendrycks & Dietterich 2019, arXiv:1903.12261",
    example="cifar100c:FOLDER#fog_3",
)
def cifar100c(path: str, split: str) -> Dataset:
    """Read one corruption of CIFAR-100-C from its arrays; the pixels stay on disk.

    Args:
        path: folder of ``CORRUPTION.npy`` and ``labels.npy``.
        split: "fog_3" for one severity (10,000 images), "fog" for all five.

    Raises:
        MissingFile, BadFile, InvalidValue: as :func:`robustscope.data.benchmarks.cifar_c`.
    """
    return cifar_c("cifar100c", path, split, LAYOUT.class_names)
