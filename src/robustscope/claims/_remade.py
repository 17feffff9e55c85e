"""Training sets made of others."""

from __future__ import annotations

from torch import Tensor

from robustscope.data.arrays import from_tensors
from robustscope.data.base import Dataset


def remade(data: Dataset, x: Tensor, y: Tensor | None = None) -> Dataset:
    """Return a data set in memory with the classes of another.

    Args:
        data: the other.
        x: (n, *S), its inputs.
        y: int64 (n,), its labels; those of the other if left out.
    """
    names = data.class_names or tuple(str(k) for k in range(data.num_classes))
    labels = data.labels if y is None else y
    return from_tensors(x.cpu(), labels, f"{data.name}, made anew", names)


def whole(data: Dataset) -> Tensor:
    """Return all inputs of a data set: (n, *S)."""
    return data.read(range(len(data)))
