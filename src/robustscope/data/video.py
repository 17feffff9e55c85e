"""Anchor frames of videos and the similar frames around them: from lists, the published layout, or video files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustscope.core.errors import BadFile, InvalidValue
from robustscope.data.base import existing
from robustscope.data.frames import FrameSet, Stored
from robustscope.data.sources.wnids import sides

LISTS = ("frames.csv", "frames.json")
REVIEWS = ("similar", "different", "")
_PUBLISHED = ("metadata/pmsets.json", "metadata/labels.json", "misc/imagenet_vid_class_index.json")


def load_frames(spec: str | Path, *, unreviewed: bool = False) -> FrameSet:
    """Open anchors with their frames.

    Args:
        spec: a folder with ``frames.csv`` or ``frames.json``, such a file itself, or the folder of ImageNet-Vid-Robust as
            published (``metadata/pmsets.json``, ``metadata/labels.json``). Behind it ``?resize=256&crop=224`` brings
            frames of any size to one. A list has a row for each frame of an anchor, and one for the anchor itself:

            - ``path``: of the frame, relative to the list; ``clip.mp4#17`` is frame 17 of a video;
            - ``anchor``: path of the anchor it stands beside, its own for an anchor;
            - ``label``: classes that count as right, ``3`` or ``3|5``; may be empty beside an anchor;
            - ``offset``, optional: frames after the anchor; else the difference of the last numbers in the names;
            - ``review``, optional: ``similar``, ``different`` (left out), or empty where nobody has looked yet.
        unreviewed: take frames that nobody has looked at; without it they are refused.

    Raises:
        MissingFile, BadFile: if nothing is there, or it does not fit together.
        InvalidValue: for other options, and for frames that nobody has reviewed.
        MissingExtra: for videos without PyAV.

    Source: Shankar et al. 2019, arXiv:1906.02168; the layout of modestyachts/imagenet-vid-robust-example.
    """
    where, wanted = sides(str(spec))
    root = existing(where, "a list of frames, or the folder that holds it")
    if root.is_dir() and (root / _PUBLISHED[0]).is_file():
        return _published(root, wanted)
    found = [root] if root.is_file() else [root / name for name in LISTS if (root / name).is_file()]
    if len(found) != 1:
        raise BadFile(
            f"{root} holds {' and '.join(file.name for file in found) or 'no list of frames'}",
            f"one of {', '.join(LISTS)}, or {_PUBLISHED[0]}, is expected",
            "Write a list; robustscope.data.mining.mine proposes one for review.",
        )
    rows = [_row(entry, found[0]) for entry in _entries(found[0])]
    return _assembled(found[0], [row for row in rows if row["review"] != "different"], wanted, unreviewed)


def number_of(name: str) -> int | None:
    """Return the last number in the name of a frame, or None."""
    found = re.findall(r"\d+", name if "#" in name else Path(name).stem)
    return int(found[-1]) if found else None


def _entries(file: Path) -> list[Mapping[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        entries: Any = list(csv.DictReader(text.splitlines())) if file.suffix.lower() == ".csv" else json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        raise BadFile(
            f"{file} could not be read ({error})", "a list of frames is allowed", "Write it again."
        ) from error
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {"path", "anchor"} <= set(e) for e in entries):
        raise BadFile(
            f"{file} has rows without path and anchor",
            "a row with path, anchor and label for each frame is allowed",
            "Name the columns in the first line.",
        )
    return entries


def _row(entry: Mapping[str, Any], file: Path) -> dict[str, Any]:
    label, review = entry.get("label"), str(entry.get("review") or "").strip()
    texts = label if isinstance(label, list) else str("" if label is None else label).split("|")
    labels = tuple(str(text).strip() for text in texts if str(text).strip())
    offset = str("" if entry.get("offset") is None else entry["offset"]).strip()
    if review not in REVIEWS or not all(text.isdecimal() for text in labels) or not re.fullmatch(r"[+-]?\d*", offset):
        raise BadFile(
            f"{file} says label={label!r}, review={review!r}, offset={offset!r} of {entry['path']}",
            "classes such as 3 or 3|5, similar, different or nothing, and a whole number are allowed",
            "Correct this row.",
        )
    return {
        "path": str(entry["path"]),
        "anchor": str(entry["anchor"]),
        "labels": tuple(sorted({int(text) for text in labels})),
        "offset": int(offset) if offset else None,
        "review": review if "review" in entry else None,
    }


def _assembled(
    file: Path, rows: Sequence[Mapping[str, Any]], wanted: tuple[int, int] | None, unreviewed: bool
) -> FrameSet:
    pending = [row for row in rows if row["review"] == "" and row["path"] != row["anchor"]]
    if pending and not unreviewed:
        raise InvalidValue(
            f"{len(pending)} frames of {file} were never reviewed, the first is {pending[0]['path']}",
            "frames that somebody found to look like their anchor are allowed",
            "Write similar or different into the column review, or accept them as they are with unreviewed=True "
            "(--unreviewed).",
        )
    labels: dict[str, tuple[int, ...]] = {}
    sets: dict[str, dict[str, int | None]] = {row["anchor"]: {} for row in rows if row["path"] == row["anchor"]}
    for row in rows:
        path, anchor = row["path"], row["anchor"]
        known = labels.get(path, ())
        if known and row["labels"] and known != row["labels"]:
            raise BadFile(
                f"{file} gives {path} the labels {known} and {row['labels']}", "one is allowed", "Correct the list."
            )
        labels[path] = known or row["labels"]
        if anchor not in sets or path in sets[anchor]:
            why = "twice" if anchor in sets else f"beside {anchor}, which has no row of its own"
            raise BadFile(
                f"{file} names {path} {why}",
                "a row for every anchor, and one for each frame beside it, are allowed",
                "Correct the list.",
            )
        sets[anchor][path] = row["offset"]
    for anchor, mine in sets.items():
        mine.pop(anchor)
    return _framed(file.resolve().parent.name, file.parent, labels, sets, wanted, None, len(pending))


def _framed(
    name: str,
    root: Path,
    labels: Mapping[str, tuple[int, ...]],
    sets: Mapping[str, Mapping[str, int | None]],
    wanted: tuple[int, int] | None,
    class_names: Sequence[str] | None,
    pending: int = 0,
) -> FrameSet:
    names = tuple(dict.fromkeys(path for anchor, mine in sets.items() for path in (anchor, *mine)))
    if not names:
        raise BadFile(f"{name} has no anchor", "one or more are needed", "Check the list of frames.")
    place = {path: i for i, path in enumerate(names)}
    reader = Stored(root, names, wanted)
    return FrameSet(
        name=name,
        shape=reader.shape,
        names=names,
        labels=tuple(labels.get(path, ()) for path in names),
        anchors=tuple(place[anchor] for anchor in sets),
        members=tuple(tuple(place[path] for path in mine) for mine in sets.values()),
        offsets=tuple(
            tuple(_offset(path, anchor) if given is None else given for path, given in mine.items())
            for anchor, mine in sets.items()
        ),
        reader=reader,
        class_names=None if class_names is None else tuple(class_names),
        unreviewed=pending,
    )


def _offset(path: str, anchor: str) -> int:
    here, there = number_of(path), number_of(anchor)
    if here is None or there is None:
        raise BadFile(
            f"{path} stands beside {anchor}, and one of them has no number",
            "names that end in the number of the frame, or a column offset, are allowed",
            "Write the column offset.",
        )
    return here - there


def _published(root: Path, wanted: tuple[int, int] | None) -> FrameSet:
    """Read ImageNet-Vid-Robust, or a set in its layout."""
    sets, labels = (_object(root / name) for name in _PUBLISHED[:2])
    names: list[str] | None = None
    if (root / _PUBLISHED[2]).is_file():
        index = _object(root / _PUBLISHED[2])
        names = [str(index[str(k)][-1]) for k in range(len(index))]
    try:
        own = {str(path): tuple(sorted({int(k) for k in _several(found)})) for path, found in labels.items()}
        members = {str(anchor): dict.fromkeys(map(str, found)) for anchor, found in sets.items()}
    except (TypeError, ValueError) as error:
        raise BadFile(f"{root}: {error}", "the published form is allowed", "Copy both files again.") from error
    return _framed(root.resolve().name, root, own, members, wanted, names)


def _several(found: Any) -> Iterable[Any]:
    return found if isinstance(found, list) else [found]


def _object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(existing(file, "a file of the published layout").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadFile(
            f"{file} could not be read ({error})", "the published file is allowed", "Copy it again."
        ) from error
    if not isinstance(content, dict):
        raise BadFile(f"{file} holds no object", "the published file is allowed", "Copy it again.")
    return content
