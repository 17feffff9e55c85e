"""Data sets whose samples are rows of arrays, in memory or in a file that is mapped while it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robustscope.core.errors import BadFile, InvalidType, InvalidValue, UnsafeFile
from robustscope.data.base import CHUNK_BYTES, Dataset, check_finite, check_labels


@dataclass(frozen=True)
class Mapped:
    """An array in a file. The file is mapped for each read only, so that pages already read do not stay resident.

    Args:
        path: the file.
        shape: shape of the whole array, samples first.
        dtype: NumPy's text for the dtype, byte order included.
        offset: bytes before the first value.
        order: "C" or "F", as NumPy names the memory order.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str = "|u1"
    offset: int = 0
    order: Literal["C", "F"] = "C"

    @classmethod
    def npy(cls, path: Path) -> Mapped:
        """Read the header of an ``.npy`` file.

        Raises:
            UnsafeFile: if it holds pickled objects.
            BadFile: if it is no such file or is truncated.
        """
        try:
            view = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, EOFError, OSError) as error:
            raise _unreadable(path, error) from error
        order: Literal["C", "F"] = "C" if view.flags.c_contiguous else "F"
        return cls(path, view.shape, view.dtype.str, int(view.offset), order)

    def rows(self, ids: np.ndarray | slice, column: int | None = None) -> np.ndarray:
        """Return a copy of the rows with these ids, or of one column of them."""
        try:
            view = np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape, self.order)
        except (ValueError, OSError) as error:
            raise _unreadable(self.path, error) from error
        picked = view[ids] if column is None else view[ids, column]
        return np.array(picked) if isinstance(ids, slice) else np.asarray(picked)  # A list of ids has copied already.

    def column(self, index: int) -> np.ndarray:
        """Return one column of all rows (n,), read in chunks."""
        step = max(1, CHUNK_BYTES // int(np.prod(self.shape[1:])))
        parts = [self.rows(slice(start, start + step), index) for start in range(0, self.shape[0], step)]
        return np.concatenate(parts) if parts else np.empty(0, np.dtype(self.dtype))


Rows = np.ndarray | Mapped


def _unreadable(path: Path, error: Exception) -> BadFile:
    if "Python objects" in str(error) or "pickle" in str(error).lower():
        return unsafe(path)
    return BadFile(f"{path} could not be read ({error})", "a whole array file is allowed", "Write or copy it again.")


def unsafe(path: Path) -> UnsafeFile:
    """Build the error for an array file that holds pickled objects."""
    return UnsafeFile(
        f"{path} holds Python objects instead of numbers",
        "arrays of numbers are allowed, because reading objects can run code",
        "Save one plain array of one shape and dtype.",
    )


class ArrayDataset(Dataset):
    """Samples in the rows of one or several arrays.

    Args:
        name: short name for tables and messages.
        parts: arrays of shape (n_i, ...) and one dtype, read one after the other as one data set.
        labels: (n,) classes, already checked.
        class_names: one name for each class, or None.
        shape: shape of one sample; the shape of a row if not given.
        scale: the stored integer that stands for 1.0.
        skip: values at the start of each row that are no part of the sample, such as the label of a CIFAR record.
        channels_last: rows are (H, W, C); samples are handed out as (C, H, W).
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Rows],
        labels: np.ndarray,
        class_names: Sequence[str] | None = None,
        *,
        shape: Sequence[int] | None = None,
        scale: int = 255,
        skip: int = 0,
        channels_last: bool = False,
    ) -> None:
        row = tuple(parts[0].shape[1:])
        self._row = tuple(shape) if shape is not None else row
        self._parts, self._skip, self._channels_last = tuple(parts), skip, channels_last
        self._ends = np.cumsum([part.shape[0] for part in parts])
        sample = (self._row[2], self._row[0], self._row[1]) if channels_last else self._row
        super().__init__(name, sample, np.dtype(parts[0].dtype), labels, class_names, scale)

    def raw(self, ids: np.ndarray) -> np.ndarray:
        """See :meth:`Dataset.raw`."""
        if len(self._parts) == 1:
            out = self._rows(0, ids)
        else:
            owner = np.searchsorted(self._ends, ids, side="right")
            out = np.empty((len(ids), *self._row), self.dtype)
            for k in np.unique(owner).tolist():
                out[owner == k] = self._rows(k, ids[owner == k])
        return np.moveaxis(out, -1, 1) if self._channels_last else out

    def _rows(self, k: int, ids: np.ndarray) -> np.ndarray:
        part = self._parts[k]
        local = ids - (self._ends[k] - part.shape[0])
        rows = part.rows(local) if isinstance(part, Mapped) else part[local]
        rows = rows[:, self._skip :] if self._skip else rows
        return rows.reshape(len(ids), *self._row)


def check_dtype(dtype: Any, where: str, error: type[InvalidType] | type[BadFile] = BadFile) -> None:
    """Refuse sample values that are neither 8-bit nor floating point."""
    dtype = np.dtype(dtype)
    if dtype != np.uint8 and not (dtype.kind == "f" and dtype.itemsize <= 8):
        raise error(
            f"{where}: samples of dtype {dtype}",
            "uint8 in 0..255, or floating point, is allowed",
            "Convert 8-bit images with .astype('uint8'), other values with .astype('float32') on the model's range.",
        )


def from_file_arrays(
    name: str, x: Rows, y: np.ndarray, where: str, class_names: Sequence[str] | None = None
) -> ArrayDataset:
    """Build a data set from arrays found in a file, whatever their layout.

    (n, D) gives vectors; (n, H, W) gives grey images (1, H, W); (n, C, H, W) is kept; (n, H, W, C) with C = 1 or 3
    is handed out as (C, H, W) unless the second dimension is 1 or 3 too.

    Raises:
        BadFile: for other dtypes and shapes, NaN, and labels that do not fit.
    """
    if len(x.shape) < 2:
        raise BadFile(f"{where}: samples of shape {x.shape}", "(n, *S) is allowed", "Put the samples first.")
    check_dtype(x.dtype, where)
    labels = check_labels(y, x.shape[0], where, len(class_names) if class_names is not None else None)
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        check_finite_array(x, where)
    shape = (1, *x.shape[1:]) if len(x.shape) == 3 else None
    channels_last = len(x.shape) == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3)
    return ArrayDataset(name, [x], labels, class_names, shape=shape, channels_last=channels_last)


def check_finite_array(x: np.ndarray, where: str, error: type[InvalidValue] | type[BadFile] = BadFile) -> None:
    """Refuse NaN and infinite values in an array in memory, looking at one chunk at a time."""
    step = max(1, CHUNK_BYTES // max(1, x[:1].nbytes))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        check_finite(part, np.arange(start, start + len(part)), where, error)


def _as_numpy(values: Any, what: str) -> np.ndarray:
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        array = np.asarray(values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidType(
            f"{what} of type {type(values).__name__} were given that make no array ({str(error).splitlines()[0][:120]})",
            "a dense tensor or an array of numbers is allowed",
            "Stack the samples into one tensor first: torch.stack(samples).",
        ) from error
    if array.dtype.kind not in "biuf":
        raise InvalidType(
            f"{what} of dtype {array.dtype} were given",
            "a tensor or an array of numbers is allowed",
            "Stack the samples into one tensor first: torch.stack(samples).",
        )
    return array


def from_tensors(x: Any, y: Any, name: str = "tensors", class_names: Sequence[str] | None = None) -> Dataset:
    """Make a data set of arrays in memory; they are not copied.

    Args:
        x: (n, *S) tensor or array; floating-point values are kept as they are, uint8 is divided by 255.
        y: (n,) integer classes.
        name: short name for tables and messages.
        class_names: one name for each class.

    Raises:
        InvalidType: for other dtypes.
        InvalidValue: for empty sets, unequal lengths, NaN, and labels outside the classes.

    Example:
        >>> data = from_tensors(torch.zeros(4, 1, 2, 2), [0, 1, 0, 1])
        >>> len(data), data.shape, data.num_classes, data.read([2]).dtype
        (4, (1, 2, 2), 2, torch.float32)
    """
    values, labels = _as_numpy(x, "samples"), _as_numpy(y, "labels")
    if values.ndim < 2:
        raise InvalidValue(
            f"samples of shape {values.shape} were given", "(n, *S) is allowed", "Add a batch dimension: x[None]."
        )
    check_dtype(values.dtype, f"{name!r}", InvalidType)
    classes = len(class_names) if class_names is not None else None
    labels = check_labels(labels, len(values), f"{name!r}", classes, InvalidValue)
    if values.dtype.kind == "f":
        check_finite_array(values, f"{name!r}", InvalidValue)
    return ArrayDataset(name, [values], labels, class_names)


class PairsDataset(Dataset):
    """Samples of a sequence of (x, y) pairs, fetched one by one when they are read."""

    def __init__(self, pairs: Any, name: str, shape: Sequence[int], dtype: Any, labels: np.ndarray, names: Any) -> None:
        self._pairs = pairs
        super().__init__(name, shape, dtype, labels, names)

    def raw(self, ids: np.ndarray) -> np.ndarray:
        """See :meth:`Dataset.raw`."""
        out = np.empty((len(ids), *self.shape), self.dtype)
        for row, i in enumerate(ids.tolist()):
            x = _as_numpy(self._pairs[i][0], "samples")
            if x.shape != self.shape or x.dtype != self.dtype:
                raise InvalidValue(
                    f"sample {i} of {self.name!r} is {x.dtype} {x.shape}",
                    f"{self.dtype} {self.shape}, as the first sample, is allowed",
                    "Give all samples one shape and dtype.",
                )
            out[row] = x
        return out


def from_pairs(pairs: Any, name: str = "pairs", class_names: Sequence[str] | None = None) -> Dataset:
    """Make a data set of a list of (x, y) pairs or of a map-style ``torch.utils.data.Dataset``.

    One pass over it collects the labels; the samples are not kept, but fetched again when they are read. The pairs
    must therefore be the same each time: no random augmentation.

    Args:
        pairs: has a length, and gives (x, y) for each position; x is a (*S) tensor or array, y an integer.
        name: short name for tables and messages.
        class_names: one name for each class.

    Raises:
        InvalidType: if it has no length or positions, or gives something else than pairs.
        InvalidValue: as :func:`from_tensors`.

    Example:
        >>> data = from_pairs([(torch.zeros(3), 0), (torch.ones(3), 1)])
        >>> data.read([1]).tolist()
        [[1.0, 1.0, 1.0]]
    """
    if not hasattr(pairs, "__len__") or not hasattr(pairs, "__getitem__"):
        raise InvalidType(
            f"pairs of type {type(pairs).__name__} were given",
            "a list of (x, y) or a data set with a length and positions is allowed",
            "Turn a stream into a list first: list(stream).",
        )
    labels = []
    for i in range(len(pairs)):
        pair = pairs[i]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InvalidType(f"item {i} is {type(pair).__name__}", "a pair (x, y) is allowed", "Return x and y only.")
        labels.append(_as_numpy(pair[1], "labels").reshape(-1))
    classes = len(class_names) if class_names is not None else None
    flat = np.concatenate(labels) if labels else np.empty(0, np.int64)
    checked = check_labels(flat, len(pairs), f"{name!r}", classes, InvalidValue)
    first = _as_numpy(pairs[0][0], "samples")
    check_dtype(first.dtype, f"{name!r}", InvalidType)
    return PairsDataset(pairs, name, first.shape, first.dtype, checked, class_names)
