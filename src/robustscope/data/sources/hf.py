"""Hugging Face data sets on disk."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from robustscope.core.errors import BadFile, InvalidValue, UnsafeFile, missing_extra
from robustscope.data.base import Dataset, check_labels, existing
from robustscope.data.datasets import SOURCES
from robustscope.data.pictures import CHANNELS, decode, split_names

_SAMPLES = ("image", "img", "x", "pixels", "features")
_LABELS = ("label", "labels", "y", "fine_label", "target", "class")


@SOURCES.register(
    "hf", version=1, source="Lhoest et al. 2021, Datasets, arXiv:2109.02846", example="hf:PATH#test", extra="hf"
)
def hf(path: str, split: str) -> Dataset:
    """Read a Hugging Face data set from a local folder; nothing is downloaded.

    A folder written by ``save_to_disk`` is opened as it is (memory-mapped); any other folder goes through
    ``load_dataset``, which recognises pictures, Parquet, CSV and JSON.

    Args:
        path: the folder.
        split: name of a split; "test" if there are splits.

    Raises:
        MissingFile: if the folder does not exist.
        UnsafeFile: if the folder holds a loading script.
        MissingExtra: if ``datasets`` cannot be imported.
        BadFile: for no columns of samples and labels, other dtypes, and labels that do not fit.
    """
    place = existing(path, "a local folder of a Hugging Face data set")
    scripts = sorted(place.glob("*.py")) if place.is_dir() else []
    if scripts:
        raise UnsafeFile(
            f"{place} holds the script {scripts[0].name}",
            "data files without code are allowed",
            "Convert the data set to Parquet, then use parquet:PATH.",
        )
    try:
        datasets = importlib.import_module("datasets")
    except Exception as error:
        raise missing_extra("datasets", "hf", error) from error
    saved = any((place / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json"))
    try:
        found = datasets.load_from_disk(str(place)) if saved else datasets.load_dataset(str(place))
    except Exception as error:  # The library raises its own and Arrow's types.
        raise BadFile(
            f"{place} could not be loaded ({type(error).__name__}: {error})",
            "a data set that the datasets library recognises is allowed",
            "Write it again with save_to_disk.",
        ) from error
    if isinstance(found, dict):
        present = {str(name) for name in found}
        chosen = split_names(present, split, str(place)) if len(present) > 1 or split else next(iter(present), "")
        table = found[chosen]
    elif split:
        raise InvalidValue(f"#{split} was asked of {place}", "no split is allowed", "The set has none: leave it out.")
    else:
        table = found
    return HuggingFaceDataset(place, table)


class HuggingFaceDataset(Dataset):
    """Rows of a ``datasets.Dataset``, fetched when they are read."""

    def __init__(self, place: Path, table: Any) -> None:
        columns = list(table.column_names)
        x = next((name for name in _SAMPLES if name in columns), None)
        y = next((name for name in _LABELS if name in columns), None)
        if x is None or y is None:
            raise BadFile(
                f"{place} has the columns {', '.join(columns)}",
                f"one of {', '.join(_SAMPLES)} and one of {', '.join(_LABELS)} are expected",
                "Rename the columns with rename_column and save the set again.",
            )
        self._table, self._column = table.select_columns([x]), x
        names = getattr(table.features[y], "names", None)
        values = np.asarray(table.with_format("numpy").select_columns([y])[:][y])
        labels = check_labels(values, len(table), str(place), len(names) if names else None)
        first = self._table[0][x]
        if hasattr(first, "mode"):
            modes = CHANNELS.get(first.mode, 3)
            self._channels, sample = modes, decode(first, modes, f"{place}, row 0")
        else:
            self._channels, sample = 0, self._numbers(first, f"{place}, row 0")
        super().__init__(place.name, sample.shape, sample.dtype, labels, names)

    def raw(self, ids: np.ndarray) -> np.ndarray:
        """See :meth:`Dataset.raw`."""
        out = np.empty((len(ids), *self.shape), self.dtype)
        for row, i in enumerate(ids.tolist()):
            value, where = self._table[i][self._column], f"{self.name}, row {i}"
            sample = decode(value, self._channels, where) if self._channels else self._numbers(value, where)
            if sample.shape != self.shape:
                raise BadFile(
                    f"{where} has the shape {sample.shape}", f"{self.shape} is allowed", "Resize the samples."
                )
            out[row] = sample
        return out

    def _numbers(self, value: Any, where: str) -> np.ndarray:
        """Return lists of numbers as float32; integers are refused, because their range is not said."""
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise BadFile(f"{where}: {error}", "lists of one length are allowed", "Give all one shape.") from error
        if array.dtype.kind != "f":
            raise BadFile(
                f"{where} holds values of dtype {array.dtype}",
                "pictures or floating-point numbers are allowed",
                "Cast the column to Image or to float32 in the model's range.",
            )
        return array[None] if array.ndim == 2 else array
