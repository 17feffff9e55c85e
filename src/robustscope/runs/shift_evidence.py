"""Check rows of shifts: make the pictures of some samples again, and ask the models again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustscope.attacks.verify import TIE
from robustscope.core.draws import shuffled
from robustscope.core.errors import explain
from robustscope.corruptions import CORRUPTIONS
from robustscope.corruptions.sequences import SEQUENCES
from robustscope.data.base import Dataset
from robustscope.models.classifier import Classifier
from robustscope.models.randomness import random_state, same_random_state
from robustscope.runs.shifted import COLUMNS
from robustscope.runs.shifting import SHOWN, Pictures, judged, logits_of
from robustscope.runs.store import read_shards

SAMPLES = 16
"""Samples of each shift that are looked at, in all of its parts."""
SURE = 1e-4
"""Difference of two probabilities that rounding may make."""
Entry = Mapping[str, Any]


@dataclass
class Remade:
    """What was found.

    Args:
        rows: whose pictures were made again and judged again.
        problems: (shard, sample, problem) of each thing that does not hold.
        left_out: why rows could not be made again, in words.
    """

    rows: int = 0
    problems: list[tuple[int, int, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def check_shifts(run: Path, plan: Entry, models: Sequence[Classifier], data: Dataset, samples: int = SAMPLES) -> Remade:
    """Judge some samples of every shift again, in all parts and by all models.

    Label, class and probability must be the stored ones, of sequences the order of the classes in every frame, but for
    logits that tie to within ``TIE``. All shards are read, so that a missing or doubled row is found in any.

    Args:
        run: folder of a finished run.
        plan: of the run.
        models: all of the plan, in its order.
        data: of the plan.
        samples: how many of each shift, a subset drawn by the seed; 0 reads the shards alone.

    Raises:
        CorruptRun: if a shard is missing or damaged, or a row is missing, doubled or foreign to the plan.
    """
    found = Remade()
    for entry in plan.get("shifts", ()):
        shards = [shard for shard in plan["shards"] if entry["index"] in shard.get("shifts", ())]
        ids = [i for shard in shards for i in shard["ids"]]
        chosen = set(shuffled(ids, plan["seed"], f"verify/shift/{entry['name']}")[:samples])
        changed = _changed(entry)
        if changed is not None:
            found.left_out.append(changed)
            chosen = set()
        for shard in shards:
            (rows,) = read_shards(run, plan, [shard], COLUMNS)
            own = [i for i in shard["ids"] if i in chosen]
            if own:
                _check_rows(found, plan, entry, shard["index"], own, models, data, rows)
    found.left_out = list(dict.fromkeys(found.left_out))
    return found


def _changed(entry: Entry) -> str | None:
    """Return why pictures cannot be made as in the run; None if they can."""
    cards = {card.name: card for card in (SEQUENCES if entry["kind"] == "sequences" else CORRUPTIONS)}
    for name, version in entry.get("versions", {}).items():
        now = f"version {cards[name].version}" if name in cards else "not registered"
        if now != f"version {version}":
            return f"{entry['name']}: {name} was of version {version} in the run and is {now} here"
    return None


def _check_rows(
    found: Remade,
    plan: Entry,
    entry: Entry,
    shard: int,
    ids: list[int],
    models: Sequence[Classifier],
    data: Dataset,
    rows: pd.DataFrame,
) -> None:
    """Check the rows of some samples of a shard."""
    source = Pictures(entry, data, ids, plan["seed"], plan["request"]["settings"]["device"])
    rows = rows[rows["sample"].isin(ids)].set_index(["part", "model", "sample"]).sort_index()
    for part, (name, severity) in enumerate(entry["parts"]):
        where = f"{entry['name']}, {name}" + (f" of severity {severity}" if severity else "")
        try:
            x, y = source.part(part)
        except Exception as error:  # whatever a reader raises, it is told
            found.left_out.append(f"{where}: the pictures cannot be made here ({explain(error)})")
            continue
        for position, model in enumerate(models):
            label = plan["models"][position]["name"]
            stored = rows.loc[(part, position)].loc[ids].assign(due=y)
            told = _judged_again(model, x, entry["columns"].get(label), stored)
            if isinstance(told, str):
                found.left_out.append(f"{label}: {told}")
                continue
            found.rows += int((stored["status"] == "ok").sum())
            found.problems += [(shard, sample, f"{where}, {label}: {problem}") for sample, problem in told]


def _judged_again(
    model: Classifier, x: Tensor, columns: list[int] | None, stored: pd.DataFrame
) -> list[tuple[int, str]] | str:
    """Return (sample, problem) of each row that does not hold; or why there is nothing to compare with."""
    before = random_state()
    try:
        logits = logits_of(model, x, columns)
    except Exception as error:  # as above
        logits = error
    if not same_random_state(before, random_state()):
        return "it draws random numbers, so that no second look need agree with the first"
    sound = (stored["status"] == "ok").to_numpy(copy=True)
    if isinstance(logits, Exception):
        return [(int(i), f"the model cannot judge it now ({explain(logits)})") for i in stored.index[sound]]
    frames = len(logits) // len(stored)
    keep = torch.as_tensor(sound, device=logits.device).repeat_interleave(frames)
    rows = stored[sound]
    return list(_problems(logits[keep], rows, x.dim() == 5, model.access == "decisions")) if len(rows) else []


def _problems(logits: Tensor, stored: pd.DataFrame, sequences: bool, decisions: bool) -> Iterator[tuple[int, str]]:
    """Yield (sample, problem) of each row whose label, classes or probability are not those that are stored."""
    orders = stored["orders"] if sequences else stored["prediction"].to_numpy()[:, None]
    width = len(logits) // len(stored) * min(SHOWN, logits.shape[1]) if sequences else 1
    known = np.stack([order if np.size(order) == width else np.full(width, -1) for order in orders]).astype(np.int64)
    changed = _reordered(logits, torch.as_tensor(known, device=logits.device).view(len(logits), -1))
    changed = changed.view(len(stored), -1).any(1).tolist()
    said = judged(logits, decisions)
    slack = SURE + TIE * logits.abs().amax(1).cpu().numpy()
    columns = stored[["y", "due", "prediction", "confidence"]].itertuples(index=True, name=None)
    for i, (sample, y, due, prediction, confidence) in enumerate(columns):
        if y != due:
            yield int(sample), f"label {y} is stored, the data say {due}"
        if changed[i] and sequences:
            yield int(sample), "the model now orders the classes of its frames otherwise than is stored"
        elif changed[i]:
            yield int(sample), f"class {prediction} is stored, the model says {said['prediction'][i]}"
        elif not (sequences or decisions) and not abs(confidence - said["confidence"][i]) <= slack[i]:
            yield int(sample), f"probability {confidence:.6f} is stored, the model says {said['confidence'][i]:.6f}"


def _reordered(logits: Tensor, stored: Tensor) -> Tensor:
    """Tell which rows of logits (N, K) do not order the classes as stored (N, P), but for ties: bool (N,)."""
    now = logits.sort(dim=1, descending=True, stable=True).values[:, : stored.shape[1]]
    inside = stored.clamp(0, logits.shape[1] - 1)
    apart = (now - logits.gather(1, inside)).abs() > TIE * logits.abs().amax(1, keepdim=True)
    return ((stored != inside) | apart).any(1)
