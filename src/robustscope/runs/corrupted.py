"""Corrupted copies of a data set in files, so that any model in any program can be evaluated on them.

Layout of the folder::

    request.json                            what was asked, and the versions that can change a byte; written first
    fog/3/SHA256SUMS                        the files of a part as ``sha256sum -c`` reads them; written when all are there
    fog/3/CLASS/00017.png                   sample 17 in fog of severity 3; opened by ``folder:OUT/fog/3``
    manifest.json                           the request, the data's fingerprint, every part; written last

Pictures are whole or absent, so that a request which was killed goes on where it stopped. Each is a function of the request
and the sample, whatever the number of processes and restarts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from robustscope import __version__
from robustscope.core.errors import BadFile, InvalidValue, did_you_mean
from robustscope.core.files import read_json, write_atomically, write_json
from robustscope.core.threads import torch_threads
from robustscope.corruptions import CORRUPTIONS, SUITES
from robustscope.corruptions.tables import Constants, Rounding, benchmark
from robustscope.data.base import Dataset
from robustscope.data.datasets import load_data
from robustscope.data.pictures import decode, encode, pillow
from robustscope.data.selection import select
from robustscope.data.sources.folder import SPLITS
from robustscope.runs.corruption_suites import BENCHMARKS, check_pictures, corrupted
from robustscope.runs.engines.local import end_with, in_processes

ROWS, VALUES = 64, 2_000_000
"""Samples, and values, that are corrupted together at most."""
SUMS = "SHA256SUMS"
LAST = {"png": b"IEND\xaeB`\x82", "jpeg": b"\xff\xd9"}
"""How a whole file ends; a decoder forgives when it does not."""


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Args:
        data: data source, e.g. "cifar10:FOLDER".
        suite: a benchmark of :data:`BENCHMARKS`, or names of corruptions, each then at all of its severities.
        constants: benchmark whose constants are taken; None for those that the suite's name stands for.
        samples: which, as for an evaluation.
        seed: decides random draws, and random subsets.
        format: "png", which keeps every value, or "jpeg" of quality 85, as ImageNet-C is published.
        rounding: how values come onto 256 levels: "truncate" as the published benchmarks did, or "nearest".
    """

    data: str
    suite: tuple[str, ...] = ("imagenet-c",)
    constants: Constants | None = None
    samples: str = "all"
    seed: int = 0
    format: Literal["png", "jpeg"] = "png"
    rounding: Rounding = "truncate"

    def parts(self) -> list[tuple[str, int]]:
        """Return the (corruption, severity) of the suite.

        Raises:
            InvalidValue: for no name, an unknown one, one given twice, or a benchmark among corruptions.
        """
        if len(self.suite) == 1 and self.suite[0] in BENCHMARKS:
            return list(SUITES[BENCHMARKS[self.suite[0]][0]])
        unknown = [name for name in self.suite if name not in CORRUPTIONS]
        if unknown or not self.suite or len(set(self.suite)) < len(self.suite):
            names = [*BENCHMARKS, *(card.name for card in CORRUPTIONS)]
            raise InvalidValue(
                f"the suite {', '.join(self.suite) or 'of nothing'} was given",
                f"one of {', '.join(BENCHMARKS)}, or different corruptions, are allowed",
                did_you_mean(unknown[0] if unknown else "", names),
            )
        return [(name, level + 1) for name in self.suite for level in range(CORRUPTIONS[name].severities)]


def constants_for(request: Request, data: Dataset) -> Constants:
    """Return the benchmark whose constants are taken for these pictures."""
    named = BENCHMARKS[request.suite[0]][1] if request.suite[0] in BENCHMARKS else "auto"
    asked = named if request.constants is None else request.constants
    return cast(Constants, benchmark(asked, torch.empty(1, *data.shape)))


def corrupted_rows(
    data: Dataset, part: tuple[str, int], ids: Sequence[int], request: Request, constants: Constants
) -> Tensor:
    """Return samples in a corruption of a severity, on 256 levels: float32 (B, C, H, W)."""
    return corrupted(data.read(ids), part, ids, request.seed, constants, request.rounding)


class Writer:
    """Writes the pictures of a request into a folder; every process has its own.

    Args:
        request: what to write.
        out: folder.

    Raises:
        InvalidValue: for another suite, samples that are no pictures, or classes of which none was chosen.
    """

    def __init__(self, request: Request, out: Path) -> None:
        self.request, self.out, self.parts = request, out, request.parts()
        self.data = load_data(request.data)
        self.ids = select(self.data, request.samples, request.seed)
        check_pictures(self.data, self.parts)
        self.folders = class_folders(self.data, self.ids)
        self.benchmark = constants_for(request, self.data)
        step = max(1, min(ROWS, VALUES // int(np.prod(self.data.shape))))
        self.chunks = [self.ids[start : start + step] for start in range(0, len(self.ids), step)]

    def folder(self, part: int) -> Path:
        """Return where the pictures of a part are."""
        name, severity = self.parts[part]
        return self.out / name / str(severity)

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the files of samples, as seen from the folder of a part."""
        width, ending = len(str(len(self.data) - 1)), self.request.format
        return [f"{self.folders[int(self.data.labels[i])]}/{i:0{width}d}.{ending}" for i in ids]

    def write(self, part: int, chunk: int) -> tuple[int, list[tuple[str, str]]]:
        """Write the pictures of a chunk that are not there yet; return the part, and each file's name and sha-256."""
        ids = self.chunks[chunk]
        names = self.names(ids)
        found = [self._stored(self.folder(part) / name) for name in names]
        if None in found:
            pixels = self.pictures(part, ids)
            for row, name in enumerate(names):
                if found[row] is None:
                    body = encode(pixels[row], self.request.format)
                    write_atomically(self.folder(part) / name, lambda to, body=body: to.write_bytes(body), flush=False)
                    found[row] = hashlib.sha256(body).hexdigest()
        return part, [(name, digest) for name, digest in zip(names, found, strict=True) if digest is not None]

    def pictures(self, part: int, ids: Sequence[int]) -> np.ndarray:
        """Return the corrupted pictures uint8 (B, C, H, W)."""
        x = corrupted_rows(self.data, self.parts[part], ids, self.request, self.benchmark)
        return (x * 255).round().to(torch.uint8).numpy()

    def _stored(self, path: Path) -> str | None:
        """Return the sha-256 of a picture that is there and whole."""
        try:
            body = path.read_bytes()
            decode(body, self.data.shape[0], str(path))
        except (OSError, BadFile):
            return None
        return hashlib.sha256(body).hexdigest() if body.endswith(LAST[self.request.format]) else None

    def listed(self, part: int) -> bool:
        """Tell whether a part is complete: its list is there, names these files, and all of them exist."""
        try:
            lines = (self.folder(part) / SUMS).read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        names = [line[66:] for line in lines]
        return names == sorted(self.names(self.ids)) and all((self.folder(part) / name).is_file() for name in names)

    def close(self, part: int, digests: Mapping[str, str]) -> None:
        """Write the list of a part whose pictures are all there."""
        folder = self.folder(part)
        for left in folder.glob("*/*.part"):  # of a process that was killed
            left.unlink(missing_ok=True)
        os.sync()
        text = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
        write_atomically(folder / SUMS, lambda to: to.write_text(text, encoding="utf-8"))


def write_corrupted(
    writer: Writer,
    *,
    workers: int = 1,
    begin: Callable[[int, int], object] = lambda done, total: None,
    report: Callable[[int], object] = lambda more: None,
) -> dict[str, Any]:
    """Write a corrupted copy of a data set, or go on with one.

    Args:
        writer: of the request, into its folder.
        workers: processes; the files do not depend on it.
        begin: told how many pictures are there and how many there will be.
        report: told about so many more.

    Returns:
        The manifest.

    Raises:
        InvalidValue: if the folder holds anything else.
        StoreError: if a file could not be written or a worker died; what is stored is kept.
    """
    claim_folder(writer.out, {**asdict(writer.request), "suite": list(writer.request.suite)})
    open_parts = [part for part in range(len(writer.parts)) if not writer.listed(part)]
    total = len(writer.ids) * len(writer.parts)
    begin(total - len(writer.ids) * len(open_parts), total)
    tasks = [(part, chunk) for part in open_parts for chunk in range(len(writer.chunks))]
    waiting: dict[int, dict[str, str]] = {}
    for part, files in _carried_out(writer, tasks, workers):
        waiting.setdefault(part, {}).update(files)
        if len(waiting[part]) == len(writer.ids):
            writer.close(part, waiting.pop(part))
        report(len(files))
    return _finish(writer)


def class_folders(data: Dataset, ids: Sequence[int]) -> dict[int, str]:
    """Return the folder of each class, named so that ``folder:`` numbers the classes as ``data`` does.

    Names of classes are kept if they can be names of folders and their alphabetical order is that of the classes; else
    each gets its number in front.

    Raises:
        InvalidValue: if a class has no sample, as folders cannot say that.
    """
    missing = sorted(set(range(data.num_classes)) - set(data.labels[list(ids)].tolist()))
    if missing:
        raise InvalidValue(
            f"no sample of {len(missing)} of the {data.num_classes} classes of {data.name!r} was chosen, e.g. of "
            f"class {missing[0]}",
            "one sample or more of each class is allowed, because folders of pictures number the classes that are there",
            "Choose more samples.",
        )
    width = len(str(data.num_classes - 1))
    numbers = [f"{k:0{width}d}" for k in range(data.num_classes)]
    if data.class_names is None:
        return dict(enumerate(numbers))
    names = list(data.class_names)
    plain = all(re.fullmatch(r"\w[\w \-]*", name, re.ASCII) for name in names)
    if plain and names == sorted(set(names)) and not set(names) <= SPLITS:
        return dict(enumerate(names))
    return {k: f"{numbers[k]}_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}" for k, name in enumerate(names)}


def claim_folder(folder: Path, request: Mapping[str, Any]) -> None:
    """Write a request and the versions that can change its answer, or check that the folder belongs to both.

    Raises:
        InvalidValue: if the folder was begun for another request, or holds other files.
    """
    versions = {"robustscope": __version__, "torch": torch.__version__, "numpy": np.__version__}
    versions["pillow"] = str(pillow().__version__)
    wanted = {**request, "versions": versions}
    path = folder / "request.json"
    if path.is_file():
        there = read_json(path)
        apart = [key for key in wanted if there.get(key) != wanted[key]]
        if apart:
            raise InvalidValue(
                f"{folder} was begun with {apart[0]}={there.get(apart[0])!r}, not {wanted[apart[0]]!r}",
                "the same request and versions are allowed, so that all of a folder belongs together",
                "Write into another folder.",
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidValue(
            f"{folder} holds other files", "a new or empty folder, or one begun before, is allowed", "Name another."
        )
    write_json(path, wanted)


def _finish(writer: Writer) -> dict[str, Any]:
    """Write the manifest."""
    parts = []
    for part, (name, severity) in enumerate(writer.parts):
        digest = hashlib.sha256((writer.folder(part) / SUMS).read_bytes()).hexdigest()
        version = CORRUPTIONS[name].version
        parts.append({"corruption": name, "severity": severity, "version": version, SUMS: digest})
    names = writer.data.class_names or [str(k) for k in range(writer.data.num_classes)]
    manifest = {
        **read_json(writer.out / "request.json"),
        "constants": writer.benchmark,
        "name": writer.data.name,
        "fingerprint": writer.data.fingerprint(writer.ids),
        "shape": list(writer.data.shape),
        "count": len(writer.ids),
        "classes": {writer.folders[k]: names[k] for k in range(writer.data.num_classes)},
        "parts": parts,
    }
    write_json(writer.out / "manifest.json", manifest)
    return manifest


Task = tuple[int, int]
Done = tuple[int, list[tuple[str, str]]]


def _carried_out(writer: Writer, tasks: Sequence[Task], workers: int) -> Generator[Done]:
    if workers == 1 or len(tasks) < 2:
        with torch_threads(1):  # sums of several threads can round otherwise
            for task in tasks:
                yield writer.write(*task)
        return
    yield from in_processes(_work, tasks, workers, _start, (asdict(writer.request), str(writer.out)))


_worker: dict[str, Writer] = {}


def _start(request: Mapping[str, Any], out: str, parent: int) -> None:
    end_with(parent)
    torch.set_num_threads(1)
    _worker["writer"] = Writer(Request(**request), Path(out))


def _work(task: Task) -> Done:
    return _worker["writer"].write(*task)
