"""Carry out a shard of shifts: each picture is made once, and every model of the run says what it sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import explain
from robustscope.corruptions.sequences import perturb
from robustscope.data.base import Dataset
from robustscope.models.classifier import Classifier
from robustscope.runs.corruption_suites import corrupted
from robustscope.runs.shift_plans import mark_of, stored
from robustscope.runs.shifted import COLUMNS

SHOWN = 5
"""Classes of a frame that are kept, the most probable first."""
Entry = Mapping[str, Any]


def shift_shard(plan: Entry, shard: Entry, models: Sequence[Classifier], data: Dataset) -> pd.DataFrame:
    """Make the pictures of a shard and judge them.

    Args:
        plan: of the run.
        shard: with one shift and its sample ids.
        models: all of the plan, in its order.
        data: of the plan; benchmarks on disk are opened here.

    Returns:
        One row for each (part, model, sample), columns as in ``runs.shifted``. What cannot be made is a row in error for
        every model, what a model cannot judge one of that model.
    """
    (index,) = shard["shifts"]
    entry, ids = plan["shifts"][index], list(shard["ids"])
    device = plan["request"]["settings"]["device"]
    source = Pictures(entry, data, ids, plan["seed"], device)
    frames = []
    for part in range(len(entry["parts"])):
        try:
            x, y = source.part(part)
        except Exception as error:  # a part that fails is rows in error; the run goes on
            x, y = error, np.full(len(ids), -1)
        for position, model in enumerate(models):
            head = {"shard": shard["index"], "shift": index, "part": part, "model": position}
            columns = entry["columns"].get(plan["models"][position]["name"])
            found = _judged(model, x, columns)
            frames.append(pd.DataFrame({**head, "sample": ids, "y": y, **found}))
    return pd.concat([frame[list(COLUMNS)] for frame in frames], ignore_index=True)


class Pictures:
    """The pictures of one shift for the samples of a shard; what all parts share is read once."""

    def __init__(self, entry: Entry, data: Dataset, ids: list[int], seed: int, device: str) -> None:
        self.entry, self.ids, self.seed, self.device = entry, ids, seed, device
        self.sequences = entry["kind"] == "sequences"
        self.x = None if "sources" in entry else data.read(ids).to(device)
        self.y = data.labels[ids] if self.x is not None or entry["paired"] else np.full(len(ids), -1)

    def part(self, index: int) -> tuple[Tensor, np.ndarray]:
        """Return the pictures (B, C, H, W), or sequences (B, F, C, H, W), of a part, and their classes (B,)."""
        name, severity = self.entry["parts"][index]
        if self.x is None:
            pictures = stored(self.sequences, self.entry["sources"][index])
            y = pictures.labels[self.ids] if isinstance(pictures, Dataset) else self.y
            return pictures.read(self.ids).to(self.device), y
        constants, rounding = self.entry["constants"], self.entry["rounding"]
        if not self.sequences:
            return corrupted(self.x, (name, severity), self.ids, self.seed, constants, rounding), self.y
        draws = Draws(self.seed, tuple(self.ids))
        return perturb(name, self.x, draws=draws, rounding=rounding, constants=constants), self.y


def _judged(model: Classifier, x: Tensor | Exception, columns: list[int] | None) -> dict[str, Any]:
    """Return what a model says of pictures, or of every frame of sequences; rows in error if there are none."""
    nothing = {"prediction": -1, "confidence": np.nan, "orders": None}
    if isinstance(x, Exception):
        return {"status": "error", "note": explain(x), **nothing}
    try:
        logits = logits_of(model, x, columns)
    except Exception as error:  # as above, of this model alone
        return {"status": "error", "note": explain(error), **nothing}
    plain = {"status": "ok", "note": ""}
    if x.dim() == 4:
        return {**plain, **judged(logits, model.access == "decisions"), "orders": None}
    order = logits.sort(dim=1, descending=True, stable=True).indices[:, :SHOWN].reshape(len(x), -1)
    return {**plain, **nothing, "orders": list(order.to(torch.int32).cpu().numpy())}


def logits_of(model: Classifier, x: Tensor, columns: list[int] | None) -> Tensor:
    """Return the logits of pictures, or of every frame of sequences: (N, K), of some classes alone if they are given."""
    logits = model.logits(x.flatten(0, -4))
    return logits if columns is None else logits[:, torch.tensor(columns, device=logits.device)]


def judged(logits: Tensor, decisions: bool = False) -> dict[str, np.ndarray]:
    """Return the predicted classes and the probability of each; a model that tells decisions only has none.

    Args:
        logits: (B, K).
        decisions: whether the logits say nothing but the decision.
    """
    best = logits.double().softmax(1).amax(1).cpu().numpy()
    return {
        "prediction": logits.argmax(1).cpu().numpy(),
        "confidence": np.full(len(best), np.nan) if decisions else best,
    }


def stored_marks(plan: Entry) -> Iterator[tuple[str, str, str]]:
    """Yield (what it is, sha-256 of the plan, sha-256 now) of every part of every benchmark on disk; reads all its pictures."""
    for entry in plan.get("shifts", ()):
        if "sources" not in entry:
            continue
        ids = [i for shard in plan["shards"] if entry["index"] in shard.get("shifts", ()) for i in shard["ids"]]
        for (name, severity), place, mark in zip(entry["parts"], entry["sources"], entry["fingerprints"], strict=True):
            now = mark_of(stored(entry["kind"] == "sequences", place), ids)
            yield f"the benchmark {entry['name']} ({name}, severity {severity})", str(mark), now
