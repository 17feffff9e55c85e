"""Write the next stage of a run: the cells and shards that its audit asks for, given the rows stored so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustscope.core.threats import make_threat
from robustscope.core.types import Bounds
from robustscope.runs.audit import next_stages
from robustscope.runs.plan import make_cell
from robustscope.runs.store import plan_id, portable, read_plan, read_table, stage_path, write_json


def extend(run: Path) -> bool:
    """Write the next stage of a run whose shards are all stored.

    What it holds follows from the plan and the stored rows, so that several workers who write it write the same.

    Returns:
        Whether there is one; False when the audit is done, or none was asked for.
    """
    plan = read_plan(run)
    if not plan.get("audit"):
        return False
    entries = next_stages(plan, read_table(run))
    if not entries:
        return False
    number = 1 + max((stage["stage"] for stage in plan.get("stages", ())), default=0)
    stage: dict[str, Any] = {"plan": plan["id"], "cells": [], "shards": [], "stages": []}
    for entry in entries:
        _add(plan, stage, entry, number)
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
