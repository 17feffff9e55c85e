"""Files of a run folder: written whole or not at all, read with an error that says what to do. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robustscope.core.errors import CorruptRun, MissingFile, StoreError

RESTORE = "Restore it from a copy, or run the evaluation again into a new folder."


@contextmanager
def _store_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{path} could not be written ({error.strerror or error})",
            "a writable folder with free space is allowed",
            "Free space or choose another folder, then run again: stored shards are kept.",
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object], *, once: bool = False, flush: bool = True) -> None:
    """Write a file whole or not at all.

    Args:
        path: final place.
        write: writes the content to the temporary path that it is given.
        once: keep a file that is already there.
        flush: wait until the disk has it. Without that, which is far faster for many small files, the promise holds
            when the process dies, but not when the power fails.

    Raises:
        StoreError: if the folder cannot be written or the disk is full; nothing is left behind.
    """
    with _store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            write(part)
            if flush:
                with part.open("rb") as handle:
                    os.fsync(handle.fileno())
            if once and path.exists():
                return
            part.replace(path)
            if flush:
                _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, in UTF-8."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises:
        MissingFile, CorruptRun: if it is absent or not a JSON object.
    """
    if not path.is_file():
        raise MissingFile(f"{path} does not exist", "a run folder is allowed", "Check the path, or run it first.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CorruptRun(f"{path} cannot be read ({error})", "the file as written is allowed", RESTORE) from error
    if not isinstance(content, dict):
        raise CorruptRun(f"{path} is not a JSON object", "the file as written is allowed", RESTORE)
    return content
