"""What is stored of shifts: what each model says of each shifted picture. No torch here.

One row for each (part, model, sample) of a shift, in shards beside those of attacks; a part is a (corruption, severity) or
a family of sequences. ``orders`` is for sequences alone: the most probable classes of every frame, the best first, one
frame after the other. A picture that could not be made or judged is a row in error, never a number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from robustscope.runs.store import read_plan, read_shards

COLUMNS: dict[str, str] = {
    "shard": "INTEGER",
    "shift": "SMALLINT",
    "part": "SMALLINT",
    "model": "SMALLINT",
    "sample": "INTEGER",
    "y": "INTEGER",
    "status": "VARCHAR",
    "note": "VARCHAR",
    "prediction": "INTEGER",
    "confidence": "FLOAT",
    "orders": "INTEGER[]",
}
SEQUENCES = "sequences"
"""The kind of a shift whose parts are sequences."""


def read_shift(run: str | Path, index: int) -> dict[str, pd.DataFrame]:
    """Read the rows of one shift of a finished run.

    Args:
        run: run folder.
        index: which of the plan's shifts.

    Returns:
        Model -> its rows: part, sample, y, prediction, confidence, corruption and note (categories), severity, correct,
        failed, and orders for sequences; in the order of (part, sample).

    Raises:
        CorruptRun: if a shard is missing or damaged, or a row is missing, doubled or foreign to the plan.
    """
    run = Path(run)
    plan = read_plan(run)
    entry = plan["shifts"][index]
    shards = [shard for shard in plan["shards"] if index in shard.get("shifts", ())]
    sequences = entry["kind"] == SEQUENCES
    columns = {name: kind for name, kind in COLUMNS.items() if sequences or name != "orders"}
    names = list(dict.fromkeys(name for name, _ in entry["parts"]))
    codes = np.array([names.index(name) for name, _ in entry["parts"]], dtype=np.int8)
    severities = np.array([severity for _, severity in entry["parts"]], dtype=np.int8)
    found: dict[str, list[pd.DataFrame]] = {model["name"]: [] for model in plan["models"]}
    for shard in shards:  # one by one: texts of millions of rows would fill the memory before they become categories
        (rows,) = read_shards(run, plan, [shard], columns)
        rows["corruption"] = pd.Categorical.from_codes(codes[rows["part"]], names)
        rows["severity"] = severities[rows["part"]]
        rows["correct"] = (rows["prediction"] == rows["y"]) & (rows["y"] >= 0)  # -1 both where nothing could be made
        rows["failed"] = rows["status"] != "ok"
        rows["note"] = pd.Series(np.where(rows["failed"], rows["note"], ""), dtype="category")
        for position, name in enumerate(found):
            found[name].append(rows[rows["model"] == position].drop(columns=["shard", "shift", "model", "status"]))
    return {name: _joined(found.pop(name)) for name in list(found)}


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all shards in the order of (part, sample)."""
    notes = union_categoricals([part["note"] for part in parts])
    rows = pd.concat([part.drop(columns="note") for part in parts], ignore_index=True).assign(note=notes)
    return rows.sort_values(["part", "sample"], kind="stable", ignore_index=True)
