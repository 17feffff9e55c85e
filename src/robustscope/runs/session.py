"""From a configuration to a finished run folder: start, resume, finish."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from robustscope.core.errors import InvalidValue, StoreError
from robustscope.core.files import write_json
from robustscope.runs.audit import verdicts
from robustscope.runs.config import config_from_dict
from robustscope.runs.engines.local import part, run_here, run_in_processes
from robustscope.runs.execute import check_subjects
from robustscope.runs.measured import read_measures
from robustscope.runs.plan import Subjects, load_subjects
from robustscope.runs.stages import extend
from robustscope.runs.store import missing_shards, portable, read_plan, read_table, shard_record


class Watcher(Protocol):
    """Who wants to know how far a run is."""

    def begin(self, plan: Mapping[str, Any], done: int, total: int) -> None:
        """Called once, with the samples that are stored already and all of them."""

    def advance(self, samples: int) -> None:
        """Called after each shard."""


class Nobody:
    """A watcher that does not watch."""

    def begin(self, plan: Mapping[str, Any], done: int, total: int) -> None:
        """Ignore."""

    def advance(self, samples: int) -> None:
        """Ignore."""


def start(plan: dict[str, Any], out: str | Path) -> None:
    """Write a plan into the folder ``out``.

    A folder that holds the same plan already is taken up where it was left.

    Raises:
        InvalidValue: if the folder holds another plan or other files.
        StoreError: if it cannot be written.
    """
    out = Path(out)
    check_folder(out)
    if (out / "plan.json").exists():
        there = read_plan(out)
        if there["id"] != plan["id"]:
            raise InvalidValue(
                f"{out} holds the run {there['id']}, but {plan['id']} was asked for",
                "an empty folder, or one with the same plan, is allowed",
                "Choose another --out, or finish that run with `robustscope run`.",
            )
    write_json(out / "plan.json", portable(plan))


def check_folder(out: Path) -> None:
    """Refuse a run folder that is a file, cannot be written, or holds something else.

    Raises:
        InvalidValue, StoreError: saying which.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(out.iterdir()) and not (out / "plan.json").exists()
        writable = os.access(out, os.W_OK | os.X_OK)
    except OSError as error:
        raise StoreError(
            f"the folder {out} could not be made ({error.strerror})",
            "a writable folder is allowed",
            "Choose another --out.",
        ) from error
    if not writable:
        raise StoreError(f"the folder {out} is read-only", "a writable folder is allowed", "Choose another --out.")
    leftovers = [p.name for p in out.iterdir() if not p.name.endswith(".part")] if occupied else []
    if leftovers:
        raise InvalidValue(
            f"{out} holds other files ({', '.join(sorted(leftovers)[:3])})",
            "an empty folder is allowed",
            "Choose another --out; nothing was changed.",
        )


def carry_out(
    run: str | Path,
    *,
    workers: int = 1,
    share: str | None = None,
    subjects: Subjects | None = None,
    watcher: Watcher | None = None,
) -> bool:
    """Run the shards that are missing in a run folder, and finish it when none is left.

    Args:
        run: folder with a plan.
        workers: processes; 1 runs here.
        share: "i/n" runs every n-th shard only, for job arrays.
        subjects: models and data in memory; loaded from the plan when None.
        watcher: told about progress.

    Returns:
        Whether the run is finished.

    Raises:
        RobustscopeError: for a damaged folder, changed models or data, a full disk.
    """
    run = Path(run)
    if workers < 1:
        raise InvalidValue(f"workers={workers} was given", "an integer >= 1 is allowed", "Write e.g. --workers 2.")
    watcher = watcher or Nobody()
    done = _carry_out(run, read_plan(run), workers, share, subjects, watcher)
    while done and extend(run):  # the audit; whoever is here carries out its stages, whatever the share
        done = _carry_out(run, read_plan(run), workers, None, subjects, watcher)
    if done:
        finish(run, read_plan(run))
    return done


def _carry_out(
    run: Path, plan: dict[str, Any], workers: int, share: str | None, subjects: Subjects | None, watcher: Watcher
) -> bool:
    """Run the shards of a plan that are missing; returns whether none is missing any more."""
    if workers > 1 and any("query_limit" in model for model in plan["models"]):
        raise InvalidValue(
            f"workers={workers} was given for a model with a query_limit",
            "one process is allowed, for each would count for itself",
            "Leave --workers out, or lift the limit.",
        )
    sizes = {shard["index"]: len(shard["ids"]) for shard in plan["shards"]}
    missing = set(missing_shards(run, plan))
    for index in sizes.keys() - missing:  # a stored shard that cannot be read is an error now, not after hours
        shard_record(run, index)
    mine = part(list(sizes), share)
    wanted = [index for index in mine if index in missing]
    total = sum(sizes[index] for index in mine)
    watcher.begin(plan, total - sum(sizes[index] for index in wanted), total)
    while wanted:
        _run(plan, run, wanted, min(workers, len(wanted)), subjects, watcher)
        missing = set(missing_shards(run, plan))
        wanted = [index for index in wanted if index in missing]
        if wanted:  # another worker holds them: wait for it to finish, or to die and free them
            threading.Event().wait(0.5)
    return not missing_shards(run, plan)  # of other shares


def _run(
    plan: dict[str, Any], run: Path, wanted: list[int], workers: int, subjects: Subjects | None, watcher: Watcher
) -> None:
    def report(index: int, samples: int) -> None:
        watcher.advance(samples)

    if subjects is None and not plan["request"]["models"][0]["source"]:
        raise InvalidValue(
            "the plan was made from a model in memory",
            "it can be resumed from Python only",
            "Call robustscope.evaluate again with the same model, data and out.",
        )
    if workers > 1 and subjects is None:
        run_in_processes(plan, run, wanted, workers, report)
        return
    if subjects is None:
        config = config_from_dict(plan["request"])
        subjects = load_subjects(config.models, config.data, config.settings)
    check_subjects(plan, subjects)
    run_here(plan, run, subjects, wanted, report)


def finish(run: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write record.json: what truly ran, gathered from the shards."""
    records = [shard_record(run, shard["index"]) for shard in plan["shards"]]
    seen = {tuple(sorted(record["versions"].items())) for record in records}
    record = {
        "plan_id": plan["id"],
        "complete": True,
        "audit": verdicts(plan, read_table(run), read_measures(run)) if plan.get("audit") else [],
        "trust": [verdict for record in records for verdict in record.get("trust", [])],
        "versions": dict(records[0]["versions"]) if records else {},
        "mixed_versions": len(seen) > 1,
        "device": " / ".join(sorted({record["device"] for record in records})),
        "platform": platform.platform(),
        "git": git_state(),
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "forward": sum(record["forward"] for record in records),
        "backward": sum(record["backward"] for record in records),
        "twins": twins_used(plan, records),
        "alone": attacked_alone(plan, records),
        "shards": [{k: r[k] for k in ("index", "seconds", "forward", "backward", "warnings")} for r in records],
        "warnings": sorted({warning for record in records for warning in record["warnings"]}),
        "flags": [flag for record in records for flag in record.get("flags", [])],
    }
    write_json(run / "record.json", record)
    shutil.rmtree(run / "partial", ignore_errors=True)  # of workers killed between storing a shard and forgetting this
    for lock in (run / "shards").glob("*.lock"):  # left by workers killed between storing a shard and unlocking it
        lock.unlink(missing_ok=True)
    return record


def twins_used(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the attacks on each model searched on: kind of twin, notes, and examples that fooled it alone."""
    found: dict[str, dict[str, Any]] = {}
    for shard, record in zip(plan["shards"], records, strict=True):
        twin = record.get("twin") or {"kind": "off", "notes": [], "reverted": 0}
        first = {"model": shard["model"], "kind": twin["kind"], "notes": twin["notes"], "reverted": 0}
        found.setdefault(shard["model"], first)["reverted"] += twin["reverted"]
    return list(found.values())


def attacked_alone(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each model how many samples were attacked again one by one, and the rows that this took."""
    nothing = {"samples": 0, "forward": 0, "backward": 0}
    found: dict[str, dict[str, Any]] = {}
    for shard, record in zip(plan["shards"], records, strict=True):
        entry = found.setdefault(shard["model"], {"model": shard["model"], **nothing})
        for name, count in record.get("alone", nothing).items():
            entry[name] += count
    return list(found.values())


def git_state() -> dict[str, Any] | None:
    """Return the revision of the working folder and whether it has uncommitted changes, or None outside git."""
    try:
        revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        if revision.returncode:
            return None
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"revision": revision.stdout.strip(), "dirty": bool(status.stdout.strip())}
