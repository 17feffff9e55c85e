"""The door of the data room: from a text such as ``"mnist:FOLDER#test"`` to a data set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.data.arrays import from_pairs, from_tensors
from robustscope.data.base import Dataset
from robustscope.data.selection import select

__all__ = ["SOURCES", "Dataset", "SourceCard", "from_pairs", "from_tensors", "load_data", "select"]


@dataclass(frozen=True)
class SourceCard(Card):
    """What a source of data says about itself; its function is ``(path, split) -> Dataset``.

    Args:
        example: a specification as the user writes it.
        splits: names allowed after "#"; None if the files decide.
        extra: the extra of robustscope that it needs, empty if none.
    """

    example: str = ""
    splits: tuple[str, ...] | None = None
    extra: str = ""


SOURCES: Registry[SourceCard] = Registry("data source", SourceCard)


def load_data(spec: str) -> Dataset:
    """Open the data set that ``spec`` names.

    Args:
        spec: ``SOURCE``, ``SOURCE:PATH`` or either with ``#SPLIT``, for instance ``digits``, ``digits#train``,
            ``mnist:FOLDER``, ``cifar10:FOLDER-or-RECORD-FILE#train``. Without a split: the test split where the
            source has one, else everything.

    Raises:
        InvalidType: if the specification is no text.
        InvalidValue: if it is empty, or names a split that the source does not have.
        UnknownName: if the source is not known.
        MissingFile: if the path does not exist.
        BadFile: if what is there cannot be read as this source; :class:`UnsafeFile` if that would run code.
        MissingExtra: if an optional package is needed.

    Example:
        >>> load_data("digits").shape
        (1, 8, 8)
    """
    if not isinstance(spec, (str, Path)):
        raise InvalidType(
            f"data of type {type(spec).__name__} was given",
            "a text such as 'digits' or 'mnist:FOLDER' is allowed",
            "For tensors use from_tensors(x, y), for a torch data set from_pairs(dataset).",
        )
    text = str(spec).strip()
    source, _, path = text.partition(":")
    split = ""
    if not path:
        source, _, split = source.partition("#")
    # A file may really be named "a#b"; then "b" is no split.
    elif (match := re.search(r"#([A-Za-z_]\w*)$", path)) and not Path(path).expanduser().exists():
        path, split = path[: match.start()], match[1]
    if not source:
        raise InvalidValue(
            f"data={str(spec)!r} was given", "SOURCE:PATH is allowed", "Write e.g. digits, mnist:FOLDER or npz:FILE."
        )
    card = SOURCES[source]
    if split and card.splits is not None and split not in card.splits:
        raise InvalidValue(
            f"the split {split!r} was asked of the source {source!r}",
            f"{' or '.join('#' + s for s in card.splits) or 'no split'} is allowed",
            f"Write e.g. {card.example}.",
        )
    return card.function(path, split)
