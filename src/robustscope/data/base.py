"""What a data set is: samples that are read by id, and labels."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustscope.core.errors import BadFile, InvalidType, InvalidValue, MissingFile, RobustscopeError

CHUNK_BYTES = 8 * 2**20


class Dataset(ABC):
    """Labelled samples of one shape, read by sample id; only the labels stay in memory.

    A sample id is a position in the data set, from 0, so it never depends on how the set is cut into batches.

    Args:
        name: short name for tables and messages.
        shape: shape of one sample, (C, H, W) or (D,).
        dtype: how the source stores a value; 8-bit and other integer values are divided by ``scale``.
        labels: (n,) classes, already checked by :func:`check_labels`.
        class_names: one name for each class, or None.
        scale: the stored value that stands for 1.0; integers only.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype,
        labels: np.ndarray,
        class_names: Sequence[str] | None = None,
        scale: int = 255,
    ) -> None:
        self.name, self.shape, self.dtype = name, tuple(int(s) for s in shape), np.dtype(dtype)
        self.labels, self.scale = labels, scale
        self.class_names = tuple(class_names) if class_names is not None else None
        self.num_classes = len(self.class_names) if self.class_names is not None else int(labels.max()) + 1

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, n={len(self)}, shape={self.shape}, classes={self.num_classes})"

    @abstractmethod
    def raw(self, ids: np.ndarray) -> np.ndarray:
        """Return the samples as the source stores them: (B, *S) of ``dtype``, a copy; ``ids`` int64 (B,), checked."""

    def read(self, ids: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Return the samples with these ids, in this order.

        Integers are divided by ``scale`` (255 for images) in float32; floating-point values are kept as they are,
        also outside [0, 1]: whether they fit the model's bounds is the classifier's question.

        Args:
            ids: B positions in [0, n); repetition is allowed.

        Returns:
            float32 (B, *S) on the CPU.

        Raises:
            InvalidType: if the ids are no integers.
            InvalidValue: if an id is out of range.
            BadFile: if a sample holds NaN or infinite values, or its file can no longer be read.
        """
        index = self._index(ids)
        values = torch.from_numpy(self._checked(index))
        if self.dtype.kind == "f":
            return values.to(torch.float32)
        return values.to(torch.float32).div_(self.scale)

    def fingerprint(self, ids: Sequence[int] | np.ndarray | Tensor | None = None) -> str:
        """Return the sha256 of what a result can depend on: shape, dtype, scale, labels and stored values.

        The file container does not enter: the same pixels from a folder of PNG files and from an array give the same
        fingerprint. Samples are streamed in chunks; the size of a chunk does not matter.

        Args:
            ids: the samples that count, in this order; None means all.
        """
        index = np.arange(len(self)) if ids is None else self._index(ids)
        header = {
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "scale": None if self.dtype.kind == "f" else self.scale,
            "count": len(index),
        }
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(self.labels[index].astype("<i8").tobytes())
        step = max(1, CHUNK_BYTES // max(1, self.dtype.itemsize * int(np.prod(self.shape))))
        for start in range(0, len(index), step):
            part = self._checked(index[start : start + step])
            ordered = np.ascontiguousarray(part, dtype=self.dtype.newbyteorder("<"))
            digest.update(ordered.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def _checked(self, index: np.ndarray) -> np.ndarray:
        """Return raw samples of native byte order, finite."""
        values = np.ascontiguousarray(self.raw(index), dtype=self.dtype.newbyteorder("="))
        if values.dtype.kind == "f":
            check_finite(values, index, f"data set {self.name!r}")
        return values

    def _index(self, ids: Sequence[int] | np.ndarray | Tensor) -> np.ndarray:
        index = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
        if index.size == 0:
            return np.empty(0, dtype=np.int64)
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise InvalidType(
                f"sample ids of dtype {index.dtype} and shape {index.shape} were given",
                "a flat sequence of integers is allowed",
                "Write e.g. dataset.read([0, 1, 2]).",
            )
        index = index.astype(np.int64)
        if index.min() < 0 or index.max() >= len(self):
            wrong = index[(index < 0) | (index >= len(self))][0]
            raise InvalidValue(
                f"the sample id {wrong} was given",
                f"0 to {len(self) - 1} are allowed for data set {self.name!r}",
                "Ids are positions in the data set, counted from 0.",
            )
        return index


def check_finite(values: np.ndarray, ids: np.ndarray, where: str, error: type[RobustscopeError] = BadFile) -> None:
    """Raise ``error`` naming the samples of ``values`` (B, *S) that hold NaN or infinite values."""
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        bad = ids[~finite]
        raise error(
            f"{where}: {len(bad)} sample(s) hold NaN or infinite values, the first is number {bad[0]}",
            "finite values are allowed",
            "Remove or correct these samples at the source.",
        )


def check_labels(
    labels: np.ndarray,
    count: int,
    where: str,
    num_classes: int | None = None,
    error: type[RobustscopeError] = BadFile,
) -> np.ndarray:
    """Return labels as int64 (n,), or say what is wrong with them.

    Args:
        labels: (n,) or (n, 1), integers.
        count: number of samples they belong to.
        where: what holds them, for the message.
        num_classes: number of classes if it is known.
        error: type of the error; :class:`BadFile` for files, :class:`InvalidValue` for arguments.

    Raises:
        error: for an empty set, another length, non-integers, and labels outside the classes.
    """
    labels = np.asarray(labels)
    if count == 0 and len(labels) == 0:
        raise error(f"{where}: no samples", "one labelled sample or more is allowed", "Check how the set was written.")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise error(
            f"{where}: labels of dtype {labels.dtype} and shape {labels.shape}",
            "integers of shape (n,) are allowed",
            "Give one class index for each sample: no one-hot rows, floats or texts.",
        )
    if len(labels) != count:
        raise error(
            f"{where}: {count} samples but {len(labels)} labels",
            "one label for each sample is allowed",
            "Check that both come from the same split.",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        top = f"0 to {num_classes - 1}" if num_classes is not None else "0 and above"
        raise error(
            f"{where}: labels from {low} to {high}",
            f"{top} are allowed",
            "Number the classes from 0, and check that the source and its format are the right ones.",
        )
    return np.ascontiguousarray(labels, dtype=np.int64)


def existing(path: str | Path, what: str) -> Path:
    """Return the path, user folder expanded, if it exists.

    Raises:
        InvalidValue: if no path was given.
        MissingFile: if there is nothing at the path.
    """
    if not str(path).strip():
        raise InvalidValue(f"no path to {what} was given", "SOURCE:PATH is allowed", "Write the path after the colon.")
    found = Path(path).expanduser()
    if not found.exists():
        raise MissingFile(f"{found} does not exist", f"{what} is expected there", "Check the path for a typing error.")
    return found
