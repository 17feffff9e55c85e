"""The record of a run: a plan, write-once shards, evidence, and what truly ran. No torch here.

Layout of a run folder::

    plan.json                     what was asked, defaults filled in; its id names everything that can change a result
    stages/001.json               cells and shards that the audit of the rows so far adds to the plan; see ``runs.audit``
    shards/00000.parquet          one row for each (cell, sample) of the shard; others: ``runs.measured``, ``runs.shifted``
    evidence/00000.safetensors    every adversarial example that supports a row, and some clean images to show
    record.json                   versions, device, seconds, warnings; written when all shards are there
    partial/00000/                how far a shard that is not stored yet has come; see ``runs.partial``

A shard exists if and only if its Parquet file exists: evidence is written before it, and both are written to a
``.part`` file, flushed to the disk, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from robustscope.core.errors import CorruptRun
from robustscope.core.files import RESTORE, read_json, write_atomically

FORMAT = 1

COLUMNS: dict[str, str] = {
    "shard": "INTEGER",
    "cell": "INTEGER",
    "sample": "BIGINT",
    "y": "BIGINT",
    "status": "VARCHAR",
    "note": "VARCHAR",
    "success": "BOOLEAN",
    "distance": "DOUBLE",
    "y_adv": "BIGINT",
    "adv_confidence": "DOUBLE",
    "adv_margin": "DOUBLE",
    "survives_8bit": "BOOLEAN",
    "survives_alone": "BOOLEAN",
    "forward": "BIGINT",
    "backward": "BIGINT",
    "clean_correct": "BOOLEAN",
    "clean_prediction": "BIGINT",
    "clean_confidence": "DOUBLE",
    "clean_margin": "DOUBLE",
}
LATER = ("survives_alone",)
"""Columns that runs of earlier versions lack; empty when these are read."""
STATUSES = ("ok", "skipped", "error", "timeout")
BESIDE = {"measures", "shifts"}
OWN_WORK = ("cells", *sorted(BESIDE))
"""What a shard names that has no rows of attacks, and one that does not run all cells of its model."""


def shard_path(run: Path, shard: int) -> Path:
    """Return where the rows of a shard are stored."""
    return run / "shards" / f"{shard:05d}.parquet"


def evidence_path(run: Path, shard: int) -> Path:
    """Return where the examples of a shard are stored."""
    return run / "evidence" / f"{shard:05d}.safetensors"


def plan_id(content: Mapping[str, Any]) -> str:
    """Return the id of a plan: 16 hex digits of sha-256 over its canonical JSON."""
    text = json.dumps(portable(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def portable(content: Any) -> Any:
    """Return plain data in which an infinite radius is the text "inf": JSON has no infinity.

    Example:
        >>> portable({"epsilon": math.inf, "steps": [1, 0.5]})
        {'epsilon': 'inf', 'steps': [1, 0.5]}
    """
    if isinstance(content, Mapping):
        return {key: portable(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [portable(value) for value in content]
    return "inf" if isinstance(content, float) and content == math.inf else content


def sealed(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan with its id and its seal, a hash over all of it: also over names and what is only shown."""
    named = {key: value for key, value in plan.items() if key != "seal"}
    named["id"] = plan_id(essence(plan))
    return {**named, "seal": plan_id(named)}


def essence(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a plan that can change a result: what its id is computed from."""
    models = [{k: m[k] for k in ("fingerprint", "bounds", "mean", "std")} for m in plan["models"]]
    position = {m["name"]: i for i, m in enumerate(plan["models"])}
    cell_keys = ("index", "norm", "epsilon", "attack", "version", "parameters")
    cells = [{"model": position[c["model"]], **{k: c[k] for k in cell_keys}} for c in plan["cells"]]
    shards = [{"index": s["index"], "model": position[s["model"]], "ids": s["ids"]} for s in plan["shards"]]
    engine = {k: plan[k] for k in ("format", "seed", "batch_size", "threads")}
    if plan.get("twin", "off") != "off":  # left out otherwise, so that runs from before there were twins keep their id
        engine["twin"] = plan["twin"]
    added: dict[str, Any] = {"audit": plan["audit"]} if "audit" in plan else {}
    if plan.get("measures"):
        keys = ("index", "kind", "norm", "epsilon", "method", "version", "parameters", "samples")
        added["measures"] = [{"model": position[m["model"]], **{k: m[k] for k in keys}} for m in plan["measures"]]
    if plan.get("shifts"):
        shown = ("name", "sources", "families", "columns")
        added["shifts"] = [{k: v for k, v in shift.items() if k not in shown} for shift in plan["shifts"]]
        for entry, shift in zip(added["shifts"], plan["shifts"], strict=True):
            entry["columns"] = {str(position[name]): columns for name, columns in shift["columns"].items()}
    if added.keys() & {"measures", "shifts"}:
        added["parts"] = [{k: s[k] for k in ("index", *OWN_WORK) if k in s} for s in plan["shards"]]
    return {**engine, "models": models, "data": plan["data"]["fingerprint"], "cells": cells, "shards": shards, **added}


def runs_all_cells(shard: Mapping[str, Any]) -> bool:
    """Tell whether a shard runs all cells of its model; all models see the same samples in these."""
    return not shard.keys() & set(OWN_WORK)


def cells_of(plan: Mapping[str, Any], shard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells that a shard runs: those of its stage, or all of its model that belong to none."""
    if shard.keys() & BESIDE:
        return []
    if "cells" in shard:
        return [plan["cells"][index] for index in shard["cells"]]
    return [cell for cell in plan["cells"] if cell["model"] == shard["model"] and "stage" not in cell]


def stage_path(run: Path, number: int) -> Path:
    """Return where a stage of the audit is stored."""
    return run / "stages" / f"{number:03d}.json"


def with_stages(plan: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Return a plan with the cells and shards of all stages that are stored; "stages" then lists what they do.

    Raises:
        CorruptRun: for a stage that was edited, or belongs to another plan.
    """
    if not stage_path(run, 1).exists():
        return dict(plan)
    whole = {**plan, "cells": list(plan["cells"]), "shards": list(plan["shards"]), "stages": []}
    number = 1
    while stage_path(run, number).exists():
        path = stage_path(run, number)
        stage = read_json(path)
        if stage.get("seal") != plan_id({k: v for k, v in stage.items() if k != "seal"}) or stage["plan"] != plan["id"]:
            raise CorruptRun(f"{path} was edited or is of another plan", "a stage as written is allowed", RESTORE)
        for name in ("cells", "shards", "stages"):
            whole[name] += stage[name]
        number += 1
    return whole


def read_plan(run: str | Path) -> dict[str, Any]:
    """Read and check the plan of a run folder.

    Raises:
        MissingFile: if there is no plan.
        CorruptRun: if it was edited: id and seal are recomputed.
    """
    path = Path(run) / "plan.json"
    plan = read_json(path)
    try:
        expected = sealed(plan)
        for key in ("request", "threats", "cost", "suite"):  # needed, though they are no part of the id
            plan[key]
        for entry in (*plan["cells"], *plan["threats"], *plan.get("measures", ())):
            entry["epsilon"] = float(entry["epsilon"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptRun(f"{path} lacks {error}", "a plan as written is allowed", RESTORE) from error
    for key in ("id", "seal"):
        if plan.get(key) != expected[key]:
            raise CorruptRun(
                f"{path} says {key} {plan.get(key)!r} but its content has {key} {expected[key]!r}",
                "a plan as written is allowed",
                RESTORE,
            )
    return with_stages(plan, Path(run))


def read_record(run: str | Path) -> dict[str, Any]:
    """Read what truly ran."""
    return read_json(Path(run) / "record.json")


def write_shard(
    run: Path,
    shard: int,
    rows: pd.DataFrame,
    evidence: dict[str, np.ndarray],
    record: dict[str, Any],
    columns: Mapping[str, str] | None = None,
) -> None:
    """Store one shard: the evidence first, then the rows, which make the shard exist.

    Args:
        run: run folder.
        shard: index of the shard.
        rows: one row for each (cell, sample), columns as in ``columns``.
        evidence: arrays to keep.
        record: facts about how it ran; kept in the Parquet metadata, beside the hash of the evidence.
        columns: name -> type, such as those of ``runs.measured``; None: those of attacks.
    """
    raw = save_safetensors({key: np.ascontiguousarray(value) for key, value in evidence.items()})
    write_atomically(evidence_path(run, shard), lambda part: part.write_bytes(raw))
    record = {**record, "evidence": hashlib.sha256(raw).hexdigest()}
    casts = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in (columns or COLUMNS).items())

    def write(part: Path) -> None:
        metadata = json.dumps(record).replace("'", "''")
        target = str(part).replace("'", "''")
        try:
            with duckdb.connect() as connection:
                connection.register("rows", rows)
                connection.execute(
                    f"COPY (SELECT {casts} FROM rows) TO '{target}' (FORMAT parquet, KV_METADATA {{record: '{metadata}'}})"
                )
        except duckdb.IOException as error:  # the disk; anything else is a defect, and must read as one
            raise OSError(str(error)) from error

    write_atomically(shard_path(run, shard), write, once=True)


def missing_shards(run: Path, plan: Mapping[str, Any]) -> list[int]:
    """Return the indices of the shards that are not stored yet."""
    return [shard["index"] for shard in plan["shards"] if not shard_path(run, shard["index"]).is_file()]


def _query(paths: Sequence[Path], query: str) -> pd.DataFrame:
    """Run a DuckDB query over Parquet files, named ``$files``."""
    with _database(os.getpid()).cursor() as cursor:
        return cursor.execute(query, {"files": [str(path) for path in paths]}).df()


@lru_cache(maxsize=1)
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """Return the database through which a process reads files: to open one takes longer than to read a shard."""
    return duckdb.connect(config={"threads": 1})


def shard_record(run: Path, shard: int) -> dict[str, Any]:
    """Return the facts stored with a shard.

    Raises:
        CorruptRun: if the file is truncated or of another format.
    """
    path = shard_path(run, shard)
    try:
        found = _query([path], "SELECT value FROM parquet_kv_metadata($files) WHERE decode(key) = 'record'")
        return json.loads(bytes(found["value"][0]).decode())
    except (duckdb.Error, KeyError, IndexError, ValueError) as error:
        raise _bad_shard(path, error) from error


def _bad_shard(path: Path, error: Exception) -> CorruptRun:
    return CorruptRun(
        f"the shard {path} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
        "a Parquet file as written is allowed",
        "It is truncated or damaged. Delete it and run `robustscope run` on the folder: only that shard is recomputed.",
    )


def read_table(run: str | Path) -> pd.DataFrame:
    """Read all rows of attacks of a finished run, in the order of (cell, sample); ``runs.measured`` reads the others.

    Raises:
        CorruptRun: if a shard is missing or damaged, or a row is missing, doubled or foreign to the plan.
    """
    run = Path(run)
    plan = read_plan(run)
    parts = read_shards(run, plan, [shard for shard in plan["shards"] if not shard.keys() & BESIDE])
    parts += _not_drawn(plan, pd.concat(parts, ignore_index=True))
    table = pd.concat(parts, ignore_index=True).sort_values(["cell", "sample"], kind="stable", ignore_index=True)
    for name in ("success", "survives_8bit", "survives_alone", "clean_correct"):
        table[name] = table[name].astype("boolean")
    return table


def read_shards(
    run: Path, plan: Mapping[str, Any], shards: Sequence[Mapping[str, Any]], columns: Mapping[str, str] = COLUMNS
) -> list[pd.DataFrame]:
    """Read the rows of some shards, each checked against the plan.

    Raises:
        CorruptRun: if one is missing or damaged, or a row is missing, doubled or foreign to the plan.
    """
    missing = [shard for shard in shards if not shard_path(run, shard["index"]).is_file()]
    if missing:
        raise CorruptRun(
            f"{len(missing)} of {len(plan['shards'])} shards are missing in {run}",
            "a finished run is allowed",
            "Finish it with `robustscope run` on the folder.",
        )
    parts = []
    for shard in shards:
        path = shard_path(run, shard["index"])
        try:
            parts.append(_query([path], f"SELECT {_selected(path, columns)} FROM read_parquet($files)"))
        except duckdb.Error as error:
            raise _bad_shard(path, error) from error
        check_rows(parts[-1], plan, shard, path)
    return parts


def _selected(path: Path, columns: Mapping[str, str]) -> str:
    """Return what is to be selected from a file of rows: all columns, of those it may lack nothing."""
    if not set(LATER) & set(columns):
        return ", ".join(f'"{name}"' for name in columns)
    there = set(_query([path], "SELECT name FROM parquet_schema($files)")["name"])
    empty = {
        name: f'CAST(NULL AS {columns[name]}) AS "{name}"' for name in LATER if name in columns and name not in there
    }
    return ", ".join(empty.get(name, f'"{name}"') for name in columns)


def _not_drawn(plan: Mapping[str, Any], rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return a skipped row for each sample that a stage's cell did not attack, so that every cell speaks of all samples."""
    found = []
    for cell in plan["cells"]:
        if "stage" not in cell:
            continue
        first = next(c["index"] for c in plan["cells"] if c["model"] == cell["model"])
        drawn = rows.loc[rows["cell"] == cell["index"], "sample"]
        rest = rows[(rows["cell"] == first) & ~rows["sample"].isin(drawn)].copy()
        rest[["shard", "cell", "y_adv", "forward", "backward"]] = (-1, cell["index"], -1, 0, 0)
        stage = f"in stage {cell['stage']}" if cell["stage"] else "for the bracket"
        rest["status"], rest["note"] = "skipped", f"not drawn {stage}"
        rest[["distance", "adv_confidence", "adv_margin"]] = math.nan
        rest[["success", "survives_8bit", "survives_alone"]] = None
        found.append(rest)
    return found


def check_rows(rows: pd.DataFrame, plan: Mapping[str, Any], shard: Mapping[str, Any], path: Path) -> None:
    """Refuse a shard whose rows are not exactly (cells of its model, or measures, or parts x models) x (its sample ids).

    Raises:
        CorruptRun: naming a missing, doubled or foreign row.
    """
    if "shifts" in shard:
        (index,) = shard["shifts"]
        parts = range(len(plan["shifts"][index]["parts"]))
        names, levels = ("shift", "part", "model"), [[index], parts, range(len(plan["models"]))]
    elif "measures" in shard:
        names, levels = ("measure",), [shard["measures"]]
    else:
        names, levels = ("cell",), [[cell["index"] for cell in cells_of(plan, shard)]]
    expected = pd.MultiIndex.from_product([*levels, shard["ids"]])
    found = pd.MultiIndex.from_frame(rows[[*names, "sample"]].astype("int64"))
    for what, index in (
        ("doubled", found[found.duplicated()]),
        ("missing", expected.difference(found)),
        ("foreign", found.difference(expected)),
    ):
        if len(index):
            where = ", ".join(f"{name} {at}" for name, at in zip((*names, "sample"), index[0], strict=True))
            raise CorruptRun(
                f"{path} has {len(index)} {what} row(s), the first for {where}",
                f"exactly one row for each {' and '.join((*names, 'sample'))} of the plan is allowed",
                "Delete the file and run `robustscope run` on the folder: only that shard is recomputed.",
            )
    strange = set(rows["status"]) - set(STATUSES)
    if strange:
        raise CorruptRun(
            f"{path} holds the status {sorted(map(str, strange))[0]!r}", f"one of {STATUSES} is allowed", RESTORE
        )


def read_evidence(run: str | Path, shard: int) -> dict[str, np.ndarray]:
    """Read the examples of a shard.

    Raises:
        CorruptRun: if the file is missing or damaged.
    """
    return read_evidence_file(evidence_path(Path(run), shard))


def read_evidence_file(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of evidence."""
    try:
        return load_safetensors(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CorruptRun(
            f"the evidence {path} cannot be read ({error})",
            "a safetensors file as written is allowed",
            "Delete it and its shard, and run `robustscope run` on the folder: only that shard is recomputed.",
        ) from error


def evidence_digest(run: str | Path, shard: int) -> str:
    """Return the sha-256 of the evidence file of a shard."""
    path = evidence_path(Path(run), shard)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CorruptRun(f"the evidence {path} is missing", "one file for each shard is allowed", RESTORE) from error
