"""The files of CIFAR-10 and CIFAR-100: binary records, Python batches, and archives of either."""

from __future__ import annotations

import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from robustscope.core.errors import BadFile, InvalidValue, UnsafeFile
from robustscope.data.arrays import ArrayDataset, Mapped, Rows
from robustscope.data.base import Dataset, check_labels, existing

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """How the files of one of the two sets are named and laid out.

    Args:
        name: name of the data set.
        class_names: its classes in label order.
        label_bytes: bytes in front of the pixels of a binary record; the last of them is the class.
        binary: split -> names of the files of binary records.
        pickled: split -> names of the Python batches.
        folders: usual names of the folders that hold them.
        label_key: where a Python batch keeps the classes.
    """

    name: str
    class_names: tuple[str, ...]
    label_bytes: int
    binary: Mapping[str, tuple[str, ...]]
    pickled: Mapping[str, tuple[str, ...]]
    folders: tuple[str, ...]
    label_key: str


def read_cifar(layout: Layout, path: str, split: str) -> Dataset:
    """Read the set from a folder, a file of binary records, or a tar archive.

    Files of binary records are mapped; Python batches and archives are read into memory as bytes.

    Raises:
        MissingFile: if the path does not exist.
        InvalidValue: if a split of a single file was asked for.
        BadFile: if nothing there fits, or a file is truncated or has labels outside the classes.
        UnsafeFile: if a Python batch holds anything but arrays, numbers, texts, lists and dictionaries.
    """
    place = existing(path, f"a {layout.name} folder, record file or archive")
    wanted = split or "test"
    if place.is_dir():
        return _read_folder(layout, place, wanted)
    if ".tar" in place.suffixes or place.suffix == ".tgz":
        return _read_archive(layout, place, wanted)
    if split:
        raise InvalidValue(
            f"#{split} was asked of the single file {place.name}", "no split is allowed", "Leave out the split."
        )
    return _from_records(layout, [_open_records(layout, place)], str(place.name))


def _read_folder(layout: Layout, place: Path, split: str) -> Dataset:
    for folder in (place, *(place / name for name in layout.folders)):
        records = [folder / name for name in layout.binary[split]]
        if all(file.is_file() for file in records):
            return _from_records(layout, [_open_records(layout, file) for file in records], str(folder.name))
        batches = [folder / name for name in layout.pickled[split]]
        if all(file.is_file() for file in batches):
            return _from_batches(layout, {str(file): file.read_bytes() for file in batches})
    raise BadFile(
        f"{place} holds no whole {split} split",
        f"{', '.join(layout.binary[split])} or {', '.join(layout.pickled[split])} are expected",
        "Name the folder of the extracted files, the archive, or one file of binary records.",
    )


def _read_archive(layout: Layout, place: Path, split: str) -> Dataset:
    wanted = {*layout.binary[split], *layout.pickled[split]}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(place, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in wanted:
                    file = archive.extractfile(member)
                    found[name] = file.read() if file is not None else b""
                if any(all(n in found for n in names) for names in (layout.binary[split], layout.pickled[split])):
                    break  # The rest of a compressed archive need not be unpacked.
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise BadFile(
            f"{place} could not be unpacked ({error})", "a whole tar archive is allowed", "Copy it again."
        ) from error
    if all(name in found for name in layout.binary[split]):
        width = layout.label_bytes + PIXELS
        parts: list[Rows] = []
        for name in layout.binary[split]:
            _check_size(layout, f"{name} in {place.name}", len(found[name]))
            parts.append(np.frombuffer(found[name], np.uint8).reshape(-1, width))
        return _from_records(layout, parts, place.name)
    if all(name in found for name in layout.pickled[split]):
        return _from_batches(layout, {f"{n} in {place.name}": found[n] for n in layout.pickled[split]})
    raise BadFile(
        f"{place} holds no whole {split} split",
        f"members named {', '.join(layout.binary[split])} are expected",
        "Check that this is an archive of this data set.",
    )


def _check_size(layout: Layout, where: str, size: int) -> None:
    width = layout.label_bytes + PIXELS
    if size == 0 or size % width:
        raise BadFile(
            f"{where} has {size} bytes",
            f"a whole number of {layout.name} records of {width} bytes, one or more, is allowed",
            "The file is empty, truncated or of another layout: copy it again.",
        )


def _open_records(layout: Layout, file: Path) -> Rows:
    size, width = file.stat().st_size, layout.label_bytes + PIXELS
    _check_size(layout, str(file), size)
    return Mapped(file, (size // width, width))


def _from_records(layout: Layout, parts: list[Rows], where: str) -> Dataset:
    at = layout.label_bytes - 1
    labels = np.concatenate([part.column(at) if isinstance(part, Mapped) else part[:, at] for part in parts])
    checked = check_labels(labels, len(labels), where, len(layout.class_names))
    names, skip = layout.class_names, layout.label_bytes
    return ArrayDataset(layout.name, parts, checked, names, shape=(3, 32, 32), skip=skip)


def _from_batches(layout: Layout, batches: Mapping[str, bytes]) -> Dataset:
    parts: list[Rows] = []
    labels = []
    for where, body in batches.items():
        batch = load_plain_pickle(body, where)
        batch = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
        data = batch.get("data")
        shape = data.shape if isinstance(data, np.ndarray) else None
        if data is None or shape is None or data.dtype != np.uint8 or len(shape) != 2 or shape[1] != PIXELS:
            raise BadFile(
                f"{where} holds no image array (found: {getattr(data, 'dtype', type(data).__name__)} {shape})",
                f"a dictionary with 'data', uint8 of shape (n, {PIXELS}), is allowed",
                "Check that this is a Python batch of this data set.",
            )
        names = len(layout.class_names)
        labels.append(check_labels(np.asarray(batch.get(layout.label_key, [])), len(data), where, names))
        parts.append(data)
    return ArrayDataset(layout.name, parts, np.concatenate(labels), layout.class_names, shape=(3, 32, 32))


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _encode(text: str, encoding: str) -> bytes:
    """What protocol 2 uses to write bytes; any other codec is refused."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the codec {encoding!r}")
    return text.encode("latin1")


_ARRAY = np.empty(1, np.uint8)
_ALLOWED = {
    ("multiarray", "_reconstruct"): _ARRAY.__reduce__()[0],
    ("numeric", "_frombuffer"): _ARRAY.__reduce_ex__(5)[0],
    ("", "ndarray"): np.ndarray,
    ("", "dtype"): np.dtype,
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds arrays and built-in containers; every other name in the file is refused, so none of its code runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if module == "numpy" or module.startswith(("numpy.core.", "numpy._core.")):
            allowed = _ALLOWED.get((module.rpartition(".")[2] if module != "numpy" else "", name))
            if allowed is not None:
                return allowed
        raise _Refused(f"{module}.{name}")


class _Refused(Exception):
    """A pickle names something that is not plain data."""


def load_plain_pickle(body: bytes, where: str) -> Any:
    """Return what a pickle of arrays and built-in containers holds, without running code of its own.

    Raises:
        UnsafeFile: if the pickle names any other function or class.
        BadFile: if it is truncated or no pickle.
    """
    try:
        return _PlainUnpickler(io.BytesIO(body), encoding="bytes").load()
    except _Refused as error:
        raise UnsafeFile(
            f"{where} asks for {error} to be run",
            "arrays, numbers, texts, lists and dictionaries are allowed in a Python batch",
            "Do not trust this file; use the binary version of the data set.",
        ) from error
    except Exception as error:  # A damaged pickle may raise almost anything.
        raise BadFile(
            f"{where} could not be read ({type(error).__name__}: {error})",
            "a whole Python batch is allowed",
            "Copy it again.",
        ) from error
