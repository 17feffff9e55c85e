"""Write the next stage of a run: the cells and shards that its audit asks for, given the rows stored so far; at last the
probes, which ask whether the result can be trusted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from robustscope.core.draws import shuffled
from robustscope.core.files import write_json
from robustscope.core.threats import make_threat
from robustscope.core.types import Bounds
from robustscope.runs.audit import next_stages
from robustscope.runs.cells import make_cell
from robustscope.runs.measured import read_measures
from robustscope.runs.store import plan_id, portable, read_plan, read_table, stage_path


def extend(run: Path) -> bool:
    """Write the next stage of a run whose shards are all stored.

    What it holds follows from the plan and the stored rows, so that several workers who write it write the same.

    Returns:
        Whether there is one; False when audit and probes are done, or none was asked for.
    """
    plan = read_plan(run)
    number = 1 + max((shard.get("stage", 0) for shard in plan["shards"]), default=0)
    stage: dict[str, Any] = {"plan": plan["id"], "cells": [], "shards": [], "stages": []}
    done = {index for shard in plan["shards"] for index in shard.get("measures", ())}
    waiting = [m for m in plan.get("measures", ()) if m["kind"] == "trust" and m["index"] not in done]
    if not plan.get("audit") and not waiting:
        return False
    table = read_table(run)
    for entry in next_stages(plan, table, read_measures(run)):
        _add(plan, stage, entry, number)
    if not stage["shards"]:
        _add_probes(plan, stage, waiting, table, number)
    if not stage["shards"]:
        return False
    stage = portable(stage)
    write_json(stage_path(run, number), {**stage, "seal": plan_id(stage)})
    return True


def _add(plan: dict[str, Any], stage: dict[str, Any], entry: dict[str, Any], number: int) -> None:
    """Add the cells and shards of one entry."""
    model = next(one for one in plan["models"] if one["name"] == entry["model"])
    threat = make_threat(entry["norm"], entry["epsilon"], Bounds.of(model["bounds"]))
    cells = []
    for name, parameters in entry["attacks"]:
        index = len(plan["cells"]) + len(stage["cells"])
        cell = make_cell(index, entry["model"], threat, name, parameters, True)
        stage["cells"].append({**cell, "label": f"{entry['kind']}: {cell['label']}", "stage": number})
        cells.append(index)
    size = plan["request"]["settings"]["shard_size"]
    for start in range(0, len(entry["ids"]), size):
        index = len(plan["shards"]) + len(stage["shards"])
        ids = entry["ids"][start : start + size]
        stage["shards"].append({"index": index, "model": entry["model"], "ids": ids, "cells": cells, "stage": number})
    kept = {key: entry[key] for key in ("kind", "model", "norm", "epsilon", "ids", "population")}
    stage["stages"].append({"stage": number, **kept, "cells": cells})


def _add_probes(
    plan: dict[str, Any], stage: dict[str, Any], waiting: list[dict[str, Any]], table: pd.DataFrame, number: int
) -> None:
    """Add a shard for each measure of trust that has none: so many of the samples that are classified correctly."""
    for measure in waiting:
        cells = [cell["index"] for cell in plan["cells"] if cell["model"] == measure["model"]]
        mine = table[table["cell"].isin(cells) & table["clean_correct"].fillna(False).astype(bool)]
        ids = sorted(shuffled(set(mine["sample"].tolist()), plan["seed"], "trust")[: measure["samples"]])
        if ids:
            index = len(plan["shards"]) + len(stage["shards"])
            entry = {"index": index, "model": measure["model"], "ids": ids, "measures": [measure["index"]]}
            stage["shards"].append({**entry, "stage": number})
