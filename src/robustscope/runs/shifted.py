"""What is stored of shifts: what each model says of each shifted picture. No torch here.

One row for each (part, model, sample) of a shift, in shards beside those of attacks; a part is a (corruption, severity) or
a family of sequences. ``orders`` is for sequences alone: the most probable classes of every frame, the best first, one
frame after the other. A picture that could not be made or judged is a row in error, never a number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
Keep = Callable[[pd.DataFrame], pd.DataFrame]


def read_shift(run: str | Path, index: int, keep: Keep = lambda rows: rows) -> dict[str, pd.DataFrame]:
    """Read the rows of one shift of a finished run.

    Args:
        run: run folder.
        index: which of the plan's shifts.
        keep: what to keep of the rows of a shard where not all is needed, part and sample at least: shards are read one by
            one, so that memory holds no more than that of all of them.

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
    ids = [i for shard in shards for i in shard["ids"]]
    found = {model["name"]: _Rows(ids, len(entry["parts"])) for model in plan["models"]}
    for shard in shards:
        (rows,) = read_shards(run, plan, [shard], columns)
        rows["corruption"] = pd.Categorical.from_codes(codes[rows["part"]], names)
        rows["severity"] = severities[rows["part"]]
        rows["correct"] = (rows["prediction"] == rows["y"]) & (rows["y"] >= 0)  # -1 both where nothing could be made
        rows["failed"] = rows["status"] != "ok"
        rows["note"] = pd.Series(np.where(rows["failed"], rows["note"], ""), dtype="category")
        for position, own in enumerate(found.values()):
            mine = rows[rows["model"] == position].drop(columns=["shard", "shift", "model", "status"])
            own.add(keep(mine))
    return {name: found.pop(name).frame() for name in list(found)}


class _Rows:
    """The rows of one model, written to their places shard by shard: kept in pieces, they would break the memory up."""

    def __init__(self, ids: list[int], parts: int) -> None:
        self.ids, self.parts = np.sort(ids), parts
        self.columns: dict[str, np.ndarray] = {}
        self.texts: dict[str, dict[str, int]] = {}

    def add(self, rows: pd.DataFrame) -> None:
        """Put the rows of a shard to their places in the order of (part, sample)."""
        places = rows["part"].to_numpy().astype(np.int64) * len(self.ids) + np.searchsorted(self.ids, rows["sample"])
        for name, column in rows.items():
            values = (
                self._coded(str(name), column) if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()
            )
            if name not in self.columns:
                self.columns[str(name)] = np.empty(len(self.ids) * self.parts, values.dtype)
            self.columns[str(name)][places] = values

    def _coded(self, name: str, column: pd.Series) -> np.ndarray:
        """Return the numbers of categories, the same in every shard: int32."""
        known = self.texts.setdefault(name, {})
        codes = np.array([known.setdefault(text, len(known)) for text in column.cat.categories], np.int32)
        return codes[column.cat.codes]

    def frame(self) -> pd.DataFrame:
        """Return all rows."""
        columns: dict[str, Any] = dict(self.columns)
        for name, texts in self.texts.items():
            columns[name] = pd.Categorical.from_codes(columns[name], list(texts))
        return pd.DataFrame(columns, copy=False)
