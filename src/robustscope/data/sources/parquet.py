"""Parquet files, read through DuckDB."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustscope.core.errors import BadFile, InvalidValue, MissingExtra, UnknownName, did_you_mean
from robustscope.data.base import Dataset, check_labels, existing
from robustscope.data.datasets import SOURCES
from robustscope.data.pictures import decode, split_names

_SAMPLES = ("image", "img", "x", "images", "pixels", "features")
_LABELS = ("label", "labels", "y", "fine_label", "target", "class")
_DTYPES = {"UTINYINT": np.uint8, "FLOAT": np.float32, "DOUBLE": np.float64}
_SPLIT = re.compile(r"^(train|test|validation|valid|val)\b")


@dataclass(frozen=True)
class _Options:
    """What may follow the path: ``?x=COLUMN&y=COLUMN&shape=3,32,32&scale=255``."""

    x: str = ""
    y: str = ""
    shape: str = ""
    scale: str = ""


@SOURCES.register(
    "parquet",
    version=1,
    source="Apache Parquet; images as Hugging Face datasets stores them",
    example="parquet:PATH?x=image&y=label&shape=3,32,32",
)
def parquet(path: str, split: str) -> Dataset:
    """Read Parquet files with a column of labels and one of samples; only the rows asked for are read.

    Samples are lists of numbers (UTINYINT, divided by 255; FLOAT or DOUBLE, kept; other integers only with
    ``scale``), nested or flat with a ``shape``; or pictures, as encoded bytes or as a struct with the field ``bytes``.

    Args:
        path: a file, or a folder of files that are read in the order of their names (also those in its folder
            ``data``). Options may follow: ``?x=COLUMN&y=COLUMN&shape=3,32,32&scale=255``; without them the usual
            names of columns are looked for.
        split: the files whose names begin with it; "test" if there are any such files.

    Raises:
        MissingFile: if the path does not exist.
        UnknownName, InvalidValue: for wrong options.
        BadFile: for other files, missing columns, and labels that do not fit.
    """
    where, _, text = path.partition("?")
    options = _options(text)
    place = existing(where, "a Parquet file or a folder of them")
    files = _files(place, split)
    columns = dict(
        _query("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM read_parquet(?))", [str(files[0])])
    )
    x = _column(options.x, _SAMPLES, columns, "x", place)
    y = _column(options.y, _LABELS, columns, "y", place)
    counts = [_query("SELECT num_rows FROM parquet_file_metadata(?)", [str(file)])[0][0] for file in files]
    labels = _labels(files, y, place)
    names = _class_names(files[0], y)
    checked = check_labels(labels, sum(counts), str(place), len(names) if names else None)
    return ParquetDataset(place.stem, files, counts, x, columns[x], options, checked, names)


class ParquetDataset(Dataset):
    """Samples in a column of Parquet files, read by row number."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        counts: Sequence[int],
        column: str,
        kind: str,
        options: _Options,
        labels: np.ndarray,
        class_names: Sequence[str] | None,
    ) -> None:
        self._files, self._column, self._ends = tuple(files), column, np.cumsum(counts)
        self._field = "['bytes']" if kind.startswith("STRUCT") else ""
        self._picture = bool(self._field) or kind == "BLOB"
        first = next(k for k, count in enumerate(counts) if count)
        value = self._rows(first, [0])[0][1]
        if self._picture:
            sample = _first_picture(value, f"{files[first]}, row 0")
            shape, dtype, scale = sample.shape, np.dtype(np.uint8), 255
        else:
            dtype, scale = _number_type(kind, options, column, files[first])
            sample = _as_array(value, dtype, f"{files[first]}, row 0")
            shape = _wanted_shape(options.shape, sample, files[first])
        super().__init__(name, shape, dtype, labels, class_names, scale)

    def _rows(self, file: int, rows: Sequence[int]) -> list[tuple[int, Any]]:
        """Return (row, value) of these rows of one file; row groups without any of them are skipped."""
        column = '"' + self._column.replace('"', '""') + '"' + self._field
        return _query(
            f"SELECT file_row_number, {column} FROM read_parquet(?, file_row_number = true) "
            "WHERE file_row_number IN (SELECT unnest(?::BIGINT[])) ORDER BY file_row_number",
            [str(self._files[file]), list(rows)],
        )

    def raw(self, ids: np.ndarray) -> np.ndarray:
        """See :meth:`Dataset.raw`."""
        out = np.empty((len(ids), *self.shape), self.dtype)
        owner = np.searchsorted(self._ends, ids, side="right")
        for k in np.unique(owner).tolist():
            mine = np.flatnonzero(owner == k)
            local = ids[mine] - (int(self._ends[k - 1]) if k else 0)
            found = dict(self._rows(k, np.unique(local).tolist()))
            for position, row in zip(mine, local.tolist(), strict=True):
                out[position] = self._sample(found.get(row), f"{self._files[k]}, row {row}")
        return out

    def _sample(self, value: Any, where: str) -> np.ndarray:
        if self._picture:
            sample = decode(_present(value, where), self.shape[0], where)
            fits = sample.shape == self.shape
        else:
            sample = _as_array(value, self.dtype, where)
            fits = sample.size == int(np.prod(self.shape))
        if not fits:
            raise BadFile(f"{where} has the shape {sample.shape}", f"{self.shape} is allowed", "Give all one shape.")
        return sample.reshape(self.shape)


def _first_picture(value: Any, where: str) -> np.ndarray:
    try:
        return decode(_present(value, where), 1, where)
    except BadFile:
        return decode(_present(value, where), 3, where)


def _present(value: Any, where: str) -> Any:
    if value is None:
        raise BadFile(
            f"{where} holds no value", "a sample in each row is allowed", "Remove the row, or embed the files."
        )
    return value


def _as_array(value: Any, dtype: np.dtype, where: str) -> np.ndarray:
    try:
        array = np.asarray(_present(value, where))
        if array.dtype.kind in "iuf":
            return array.astype(dtype)
    except ValueError as error:
        raise BadFile(f"{where}: {error}", "lists of one length are allowed", "Give all samples one shape.") from error
    raise BadFile(f"{where} holds gaps or other things than numbers", "numbers are allowed", "Correct the row.")


def _number_type(kind: str, options: _Options, column: str, file: Path) -> tuple[np.dtype, int]:
    """Return the dtype of the values of a list column and the integer that stands for 1."""
    if "[" not in kind:
        raise BadFile(
            f"the column {column!r} of {file} has the type {kind}",
            "lists of numbers, encoded pictures, or a struct with the field 'bytes' are allowed",
            "Name another column with ?x=COLUMN.",
        )
    base = kind.partition("[")[0]
    if base in _DTYPES:
        return np.dtype(_DTYPES[base]), int(options.scale or 255)
    if base in ("TINYINT", "SMALLINT", "USMALLINT", "INTEGER", "UINTEGER", "BIGINT", "UBIGINT") and options.scale:
        return np.dtype(np.int64), int(options.scale)
    raise BadFile(
        f"the column {column!r} of {file} has the type {kind}",
        f"lists of {', '.join(_DTYPES)}, or of integers with ?scale=, are allowed",
        "Say which integer stands for 1.0, e.g. ?scale=255 for pixels.",
    )


def _wanted_shape(text: str, sample: np.ndarray, file: Path) -> tuple[int, ...]:
    shape = tuple(int(part) for part in text.split(",")) if text else sample.shape
    if int(np.prod(shape)) != sample.size:
        raise BadFile(
            f"samples of {file} have {sample.size} values",
            f"shape={text} needs {int(np.prod(shape))}",
            "Correct ?shape=, channels first.",
        )
    return (1, *shape) if len(shape) == 2 else shape


def _options(text: str) -> _Options:
    given = dict(part.partition("=")[::2] for part in text.split("&") if part)
    known = tuple(_Options.__dataclass_fields__)
    for name, value in given.items():
        if name not in known:
            raise UnknownName(f"the option {name!r} was given to parquet", "", did_you_mean(name, known))
        pattern = {"shape": r"[1-9]\d*(,[1-9]\d*)*", "scale": r"[1-9]\d*"}.get(name, r".+")
        if not re.fullmatch(pattern, value):
            raise InvalidValue(
                f"{name}={value!r} was given to parquet",
                "shape=3,32,32, scale=255, x=COLUMN and y=COLUMN are forms allowed",
                "Correct the option.",
            )
    return _Options(**given)


def _files(place: Path, split: str) -> list[Path]:
    if place.is_file():
        if split:
            raise InvalidValue(f"#{split} was asked of the file {place.name}", "no split is allowed", "Leave it out.")
        return [place]
    files = sorted(place.glob("*.parquet")) or sorted((place / "data").glob("*.parquet"))
    if not files:
        raise BadFile(f"{place} holds no .parquet files", "one or more are expected", "Check the folder.")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        if match := _SPLIT.match(file.name):
            by_split.setdefault(match[1], []).append(file)
    chosen = split_names(set(by_split), split, str(place))
    return by_split[chosen] if chosen else files


def _column(asked: str, usual: Sequence[str], columns: dict[str, str], option: str, place: Path) -> str:
    found = asked if asked in columns else next((c for c in usual if c in columns and not asked), None)
    if found is None:
        raise BadFile(
            f"{place} has the columns {', '.join(columns)}",
            f"{asked or ', '.join(usual)} is expected",
            f"Name the column with ?{option}=COLUMN.",
        )
    return found


def _labels(files: Sequence[Path], column: str, place: Path) -> np.ndarray:
    """Return the labels of all rows, in the order of files and rows."""
    quoted = '"' + column.replace('"', '""') + '"'
    parts = []
    for file in files:
        found = _numpy(
            f"SELECT {quoted} AS label FROM read_parquet(?, file_row_number = true) ORDER BY file_row_number",
            [str(file)],
        )
        if isinstance(found, np.ma.MaskedArray) and found.mask.any():
            raise BadFile(f"{file} has rows without a label", "a label in each row is allowed", "Remove these rows.")
        parts.append(np.asarray(found))
    return np.concatenate(parts)


def _class_names(file: Path, column: str) -> list[str] | None:
    """Return the class names that Hugging Face datasets writes into the metadata of a file, or None."""
    rows = _query("SELECT value FROM parquet_kv_metadata(?) WHERE key = 'huggingface'::BLOB", [str(file)])
    try:
        names = json.loads(bytes(rows[0][0]))["info"]["features"][column]["names"]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in (names.values() if isinstance(names, dict) else names)]


def _connect() -> Any:
    try:
        import duckdb
    except Exception as error:
        raise MissingExtra(
            f"DuckDB could not be imported ({type(error).__name__}: {error})",
            "it reads Parquet files",
            "Install it with: pip install duckdb.",
        ) from error
    return duckdb.connect(config={"threads": 1}), duckdb.Error


def _run(sql: str, parameters: list[Any], fetch: str) -> Any:
    connection, failure = _connect()
    try:
        return getattr(connection.execute(sql, parameters), fetch)()
    except failure as error:
        raise BadFile(
            f"{parameters[0]} could not be read ({error})", "a whole Parquet file is allowed", "Write or copy it again."
        ) from error
    finally:
        connection.close()


def _query(sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
    return _run(sql, parameters, "fetchall")


def _numpy(sql: str, parameters: list[Any]) -> np.ndarray:
    return _run(sql, parameters, "fetchnumpy")["label"]
