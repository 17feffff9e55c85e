"""Evaluate a classifier on corrupted pictures, made here or stored as a published benchmark.

Layout of the folder::

    request.json                 what is evaluated: fingerprints of model and data, the parts, versions
    parts/fog-3.safetensors      sample, y, prediction and confidence of every row of one (corruption, severity)

A part is whole or absent, so that an evaluation that was killed goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save
from torch import Tensor

from robustscope.core.errors import CorruptRun, InvalidValue
from robustscope.core.files import read_json, write_atomically
from robustscope.data.base import Dataset
from robustscope.data.datasets import load_data
from robustscope.data.selection import select
from robustscope.models.classifier import Classifier
from robustscope.models.fingerprints import fingerprint
from robustscope.runs.corrupted import Request, claim_folder, constants_for, corrupted_rows
from robustscope.runs.corruption_suites import check_pictures
from robustscope.runs.shifting import judged
from robustscope.runs.store import read_evidence_file

CLEAN = ("clean", 0)
Part = tuple[str, int]
COLUMNS = ("sample", "y", "prediction", "confidence")


class Source(Protocol):
    """Where pictures of several (corruption, severity) come from."""

    parts: Sequence[Part]

    def facts(self) -> dict[str, Any]:
        """Return all that decides the pictures, as plain data."""
        ...

    def open(self, part: Part) -> tuple[Dataset, Sequence[int], Callable[[Sequence[int]], Tensor]]:
        """Return the data of a part, the ids of its samples, and what reads some of them."""
        ...


class Made:
    """Pictures that are corrupted when they are needed, and the clean ones.

    Args:
        request: suite, samples, seed, constants and rounding; the format counts for nothing here.
        data: the data set; None opens the request's.

    Raises:
        InvalidValue: for another suite, or samples that are no pictures.
    """

    def __init__(self, request: Request, data: Dataset | None = None) -> None:
        self.request, self.data = request, load_data(request.data) if data is None else data
        self.parts: Sequence[Part] = [CLEAN, *request.parts()]
        self.ids = select(self.data, request.samples, request.seed)
        check_pictures(self.data, request.parts())
        self.constants = constants_for(request, self.data)

    def facts(self) -> dict[str, Any]:
        """See :meth:`Source.facts`."""
        own = {key: value for key, value in asdict(self.request).items() if key not in ("data", "format")}
        return {
            **own,
            "suite": list(self.request.suite),
            "constants": self.constants,
            "fingerprint": self.data.fingerprint(self.ids),
        }

    def open(self, part: Part) -> tuple[Dataset, Sequence[int], Callable[[Sequence[int]], Tensor]]:
        """See :meth:`Source.open`."""
        if part == CLEAN:
            return self.data, self.ids, self.data.read
        return self.data, self.ids, lambda ids: corrupted_rows(self.data, part, ids, self.request, self.constants)


class Stored:
    """A benchmark on disk.

    Args:
        specs: (corruption, severity) -> data source, such as ``{("fog", 3): "cifar10c:FOLDER#fog_3"}``; ("clean", 0) is
            the clean set. Samples of one id must belong to one image.
        samples: which, as for an evaluation.
        seed: decides random subsets.

    Raises:
        InvalidValue: for no part.
    """

    def __init__(self, specs: Mapping[Part, str], samples: str = "all", seed: int = 0) -> None:
        if not specs:
            raise InvalidValue("no part was given", "one or more are allowed", "Give (corruption, severity) -> source.")
        self.specs, self.samples, self.seed = dict(specs), samples, seed
        self.parts: Sequence[Part] = list(specs)

    def facts(self) -> dict[str, Any]:
        """See :meth:`Source.facts`; reads all pictures once."""
        marks = {}
        for (name, severity), spec in self.specs.items():
            data = load_data(spec)
            marks[f"{name}-{severity}"] = data.fingerprint(select(data, self.samples, self.seed))
        return {"samples": self.samples, "seed": self.seed, "fingerprints": marks}

    def open(self, part: Part) -> tuple[Dataset, Sequence[int], Callable[[Sequence[int]], Tensor]]:
        """See :meth:`Source.open`."""
        data = load_data(self.specs[part])
        return data, select(data, self.samples, self.seed), data.read


def evaluate_shifts(
    model: Classifier,
    source: Source,
    out: str | Path,
    *,
    rows: int = 256,
    report: Callable[[int], object] = lambda more: None,
) -> pd.DataFrame:
    """Evaluate a classifier on every part of a source, or go on with that.

    Args:
        model: evaluated where its weights are.
        source: :class:`Made` or :class:`Stored`.
        out: folder.
        rows: pictures that are held at once.
        report: told about so many more pictures.

    Returns:
        As :func:`read_shifts`.

    Raises:
        InvalidValue: if the folder holds anything else, or the model has fewer outputs than there are classes.
        ModelError: as the classifier does.

    Example:
        ``rows = evaluate_shifts(model, Made(Request("digits", ("fog",))), "shifts")``, then
        ``robustscope.analyses.shifts.shift_summary(rows)``.
    """
    folder = Path(out)
    mark = fingerprint(model.module, bounds=model.bounds, mean=model.mean, std=model.std)
    listed = [[name, severity] for name, severity in source.parts]
    claim_folder(folder, {"model": mark, "parts": listed, **source.facts()})
    for part in source.parts:
        path = _path(folder, part)
        if not path.is_file():
            body = save(_evaluated(model, *source.open(part), rows, report))
            write_atomically(path, lambda to, body=body: to.write_bytes(body))
    return read_shifts(folder)


def read_shifts(out: str | Path) -> pd.DataFrame:
    """Read the rows of a finished evaluation.

    Returns:
        One row for each (corruption, severity, sample), with y, prediction, correct, and confidence, the probability of
        the prediction.

    Raises:
        MissingFile: if there is no evaluation in the folder.
        CorruptRun: if a part is missing or damaged.
    """
    folder, tables = Path(out), []
    for name, severity in read_json(folder / "request.json").get("parts", ()):
        found = read_evidence_file(_path(folder, (name, severity)))
        if set(found) != set(COLUMNS):
            raise CorruptRun(
                f"{_path(folder, (name, severity))} holds {', '.join(sorted(found))}",
                f"{', '.join(COLUMNS)} are allowed",
                "Delete it, and evaluate again: only this part is recomputed.",
            )
        table = pd.DataFrame({"corruption": name, "severity": severity, **{key: found[key] for key in COLUMNS}})
        tables.append(table.assign(correct=table["prediction"] == table["y"]))
    if not tables:
        raise CorruptRun(f"{folder} holds no evaluation of shifts", "its folder is allowed", "Check the path.")
    return pd.concat(tables, ignore_index=True)


def _path(folder: Path, part: Part) -> Path:
    return folder / "parts" / f"{part[0]}-{part[1]}.safetensors"


def _evaluated(
    model: Classifier,
    data: Dataset,
    ids: Sequence[int],
    read: Callable[[Sequence[int]], Tensor],
    rows: int,
    report: Callable[[int], object],
) -> dict[str, np.ndarray]:
    weight = next(model.module.parameters(), torch.empty(0))
    y = data.labels[list(ids)]
    predictions, confidences = [], []
    for start in range(0, len(ids), rows):
        logits = model.logits(read(ids[start : start + rows]).to(weight.device))
        if logits.shape[1] <= y.max():
            raise InvalidValue(
                f"the model has {logits.shape[1]} outputs, and there is a label {y.max()}",
                "an output for each class is allowed",
                "Number the classes of the data as the model does, or take another model.",
            )
        said = judged(logits)
        predictions.append(said["prediction"])
        confidences.append(said["confidence"])
        report(len(logits))
    return {
        "sample": np.asarray(ids, dtype=np.int64),
        "y": y.astype(np.int64),
        "prediction": np.concatenate(predictions),
        "confidence": np.concatenate(confidences),
    }
