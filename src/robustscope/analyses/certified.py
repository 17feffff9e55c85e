"""Certified accuracy: what is proved, beside what no attack has broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import FAILED, MEASURED, facts, frame, join, models, verdict
from robustscope.analyses.intervals import proportion
from robustscope.core.errors import Contradiction

COLUMNS = {
    "measure": "Int64",
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "method": "object",
    "sound": "object",
    "n": "Int64",
    "k": "Int64",
    "accuracy": "Float64",
    "low": "Float64",
    "high": "Float64",
    "timeouts": "Int64",
    "undecided": "Int64",
    "reason": "object",
}
_UNIT = (0.0, 1.0)


@MEASURED.register(
    "certified",
    version=1,
    source="Wong & Kolter, 2018, arXiv:1711.00851 (certified accuracy); intervals: Clopper and Pearson, 1934",
    ranges={"accuracy": _UNIT, "low": _UNIT, "high": _UNIT},
    direction={"accuracy": "higher is more robust"},
    columns=COLUMNS,
)
def certified(table: pd.DataFrame, measured: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Compute the certified accuracy: correct and proved to have no adversarial example in the threat set / all.

    Args:
        table: one row for each (cell, sample).
        measured: one row for each (measure, sample).
        plan: the plan of the run.

    Returns:
        One row for each certificate of the plan. ``undecided``: samples that are neither proved nor broken, a gap where a
        certificate is about another classifier than was attacked, and then proves nothing of this one;
        ``timeouts``: those whose time was up, which count as not proved. A gap, with a reason, where a certificate failed.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
        Contradiction: for a sample that is proved to be robust and that an attack broke.
    """
    asked = [measure for measure in plan.get("measures", ()) if measure["kind"] == "certificate"]
    if not asked:
        return frame((), COLUMNS)
    rows = join(table, plan)
    known = facts(rows)
    present = models(rows, plan)
    found = []
    for measure in asked:
        if measure["model"] not in present:
            continue
        mine = measured[measured["measure"] == measure["index"]].set_index("sample")
        spot = (measure["model"], measure["norm"], float(measure["epsilon"]))
        state = verdict(rows, known, *spot)
        proved = set(mine.index[mine["holds"].fillna(False).astype(bool)])
        deterministic = measure["sound"] == "deterministic"
        if deterministic:
            refuse(proved & set(state.index[state["broken"]]), measure)
        failed = int(mine["status"].isin(FAILED[:1]).sum())
        n, k = len(mine), len(proved)
        value, low, high = proportion(k, n)
        gap = {"accuracy": None, "low": None, "high": None, "k": None}
        entry = {key: measure[key] for key in ("model", "norm", "method", "sound")}
        entry |= {"measure": measure["index"], "epsilon": spot[2], "n": n, "k": k}
        entry |= {"accuracy": value, "low": low, "high": high}
        entry |= {"timeouts": int((mine["status"] == "timeout").sum()), "reason": None}
        entry["undecided"] = int((state["robust"] & ~state.index.isin(proved)).sum()) if deterministic else None
        if failed:
            note = str(mine.loc[mine["status"] == "error", "note"].iloc[0])
            entry |= {**gap, "undecided": None, "reason": f"{failed} certificates ended in an error (first: {note})"}
        found.append(entry)
    return frame(found, COLUMNS)


def refuse(samples: set[int], measure: Mapping[str, Any]) -> None:
    """Refuse a run in which samples are proved robust and broken: one of the two methods has a fault.

    Raises:
        Contradiction: naming the first sample.
    """
    if samples:
        raise Contradiction(
            f"{len(samples)} sample(s) of {measure['model']!r}, the first {min(samples)}, are certified by "
            f"{measure['method']} and broken by an attack in {measure['norm']} within the same radius",
            "one of the two at most can be true, so that neither number of this run can be stated",
            "`robustscope verify` shows whether the examples hold. If they do, the certifier is wrong: please report it, "
            "and evaluate again without it.",
        )
