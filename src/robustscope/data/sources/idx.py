"""IDX files, the format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustscope.core.errors import BadFile, InvalidValue
from robustscope.data.arrays import ArrayDataset, Mapped, Rows
from robustscope.data.base import Dataset, check_labels, existing
from robustscope.data.datasets import SOURCES

_IMAGES = re.compile(r"^(?P<split>.+)[-.]images[-.]idx3-ubyte(?P<gz>\.gz)?$")


@SOURCES.register(
    "idx",
    version=1,
    source="LeCun, Cortes & Burges, THE MNIST DATABASE of handwritten digits, file formats",
    example="idx:IMAGES,LABELS",
    splits=(),
)
def idx(path: str, split: str) -> Dataset:
    """Read any pair of IDX files of bytes, plain or gzip.

    Args:
        path: image file and label file with a comma between.
        split: none.

    Raises:
        InvalidValue: if the path does not name two files.
        MissingFile, BadFile: if they cannot be read.
    """
    names = path.split(",")
    if len(names) != 2:
        raise InvalidValue(f"idx:{path} was given", "IMAGES,LABELS is allowed", "Write both files: idx:IMAGES,LABELS.")
    return read_pair("idx", existing(names[0], "an IDX image file"), existing(names[1], "an IDX label file"))


def read_folder(name: str, path: str, split: str, class_names: Sequence[str]) -> Dataset:
    """Read the pair of IDX files of one split from a folder.

    Pairs are files named ``PREFIX-images-idx3-ubyte[.gz]`` and ``PREFIX-labels-idx1-ubyte[.gz]``; the prefix
    "train" is the training split, "t10k" or "test" the test split. Without a split the test pair is taken, or the
    only pair there is.

    Raises:
        MissingFile, BadFile: if the folder, the pair or a file cannot be read.
    """
    folder = existing(path, "a folder of IDX files")
    if not folder.is_dir():
        raise BadFile(f"{folder} is a file", "a folder of IDX files is allowed", "Name a pair with idx:IMAGES,LABELS.")
    pairs = _pairs(folder) or _pairs(folder / "raw")
    wanted = {"train": ("train",), "test": ("t10k", "test"), "": ("t10k", "test")}[split]
    prefix = next((p for p in wanted if p in pairs), None)
    if prefix is None and not split and len(pairs) == 1:
        prefix = next(iter(pairs))
    if prefix is None:
        raise BadFile(
            f"{folder} holds no {split or 'test'} pair of IDX files (found: {', '.join(sorted(pairs)) or 'none'})",
            f"{wanted[0]}-images-idx3-ubyte and {wanted[0]}-labels-idx1-ubyte, plain or .gz, are expected",
            "Name another split, or the two files themselves with idx:IMAGES,LABELS.",
        )
    return read_pair(name, *pairs[prefix], class_names)


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return prefix -> (images, labels); a plain file wins over its .gz twin, because it can be mapped."""
    found: dict[str, tuple[Path, Path]] = {}
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    for image in sorted(names, key=lambda n: (n.endswith(".gz"), n)):
        match = _IMAGES.match(image)
        if not match or match["split"] in found:
            continue
        stem = image.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        label = next((n for n in (stem, f"{stem}.gz") if n in names), None)
        if label is not None:
            found[match["split"]] = (folder / image, folder / label)
    return found


def read_pair(name: str, images: Path, labels: Path, class_names: Sequence[str] | None = None) -> Dataset:
    """Read an image file and a label file.

    Raises:
        BadFile: for another format, truncated files, unequal counts, and labels outside the classes.
    """
    x, y = read_idx(images), read_idx(labels)
    if len(x.shape) < 2:
        raise BadFile(f"{images} holds one dimension", "an image file is expected", "Name the images first.")
    if len(y.shape) != 1:
        raise BadFile(
            f"{labels} holds {len(y.shape)} dimensions", "a label file is expected", "Name the labels second."
        )
    values = y.rows(slice(None)) if isinstance(y, Mapped) else y
    classes = len(class_names) if class_names is not None else None
    checked = check_labels(values, x.shape[0], f"{images.name} and {labels.name}", classes)
    shape = (1, *x.shape[1:]) if len(x.shape) == 3 else x.shape[1:]
    return ArrayDataset(name, [x], checked, class_names, shape=shape)


def read_idx(path: Path) -> Rows:
    """Open one IDX file of bytes: mapped if plain, decompressed into memory if gzip.

    Raises:
        BadFile: for another magic number, and for more or fewer bytes than the header declares.
    """
    body = b""
    if path.suffix == ".gz":
        try:
            body = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise BadFile(
                f"{path} could not be decompressed ({error})", "a whole gzip file is allowed", "Copy it again."
            ) from error
        head, size = body[:64], len(body)
    else:
        with path.open("rb") as file:
            head = file.read(64)
        size = path.stat().st_size
    shape, offset = _header(path, head)
    if size != offset + math.prod(shape):
        raise BadFile(
            f"{path} has {size} bytes after decompression" if body else f"{path} has {size} bytes",
            f"its header declares {' x '.join(map(str, shape))} values, hence {offset + math.prod(shape)} bytes",
            "The file is truncated or damaged: copy it again.",
        )
    if math.prod(shape) == 0:
        raise BadFile(f"{path} holds no values", "one sample or more is allowed", "Check how the file was written.")
    if body:
        return np.frombuffer(body, np.uint8, offset=offset).reshape(shape)
    return Mapped(path, shape, "|u1", offset)


def _header(path: Path, head: bytes) -> tuple[tuple[int, ...], int]:
    """Return the shape and the number of bytes of the header."""
    dimensions = head[3] if len(head) > 3 else 0
    if head[:3] != b"\x00\x00\x08" or not 1 <= dimensions <= 4:
        raise BadFile(
            f"{path} begins with bytes {head[:4].hex(' ') or 'none'}",
            "00 00 08 and the number of dimensions, 1 to 4, is allowed (IDX file of unsigned bytes)",
            "Check that this is an IDX file, and that its name ends in .gz if it is compressed.",
        )
    offset = 4 + 4 * dimensions
    if len(head) < offset:
        raise BadFile(f"{path} ends inside its header", "a whole IDX file is allowed", "Copy it again.")
    return tuple(int(v) for v in np.frombuffer(head, ">u4", dimensions, 4)), offset
