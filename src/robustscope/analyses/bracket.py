"""The bracket of each sample: what is certified, what is estimated, and the nearest adversarial example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import MEASURED, class_name, frame, join, models
from robustscope.analyses.certified import refuse

COLUMNS = {
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "largest": "Float64",
    "sample": "Int64",
    "y": "Int64",
    "class_name": "object",
    "certified": "Float64",
    "certifier": "object",
    "estimate": "Float64",
    "estimator": "object",
    "nearest": "Float64",
    "attack": "object",
    "flags": "object",
    "contradicts": "bool",
    "failed": "object",
    "fit": "object",
}
SLACK = 1e-6
"""Relative difference of two radii that rounding alone may make."""
ABOVE, BELOW = "estimate above the nearest example", "estimate below the certified radius"
"""Flags: the first contradicts the estimate."""
DOUBTS = {
    "capped": "estimate at the sampling radius",
    "bad_fit": "bad fit",
    "zero_gradients": "zero gradients",
    "far": "fitted location far beyond what was sampled",
    "no_maximum": "no fit",
}
_FIT = ("location", "scale", "shape", "p_value", "statistic", "maxima", "rival", "margin", "capped", "warnings")


@MEASURED.register(
    "bracket",
    version=1,
    source="this project; CLEVER above an attack's radius as a sign of masked gradients: Goodfellow, 2018, arXiv:1804.07870",
    ranges={"certified": (0.0, float("inf")), "estimate": (0.0, float("inf")), "nearest": (0.0, float("inf"))},
    direction=dict.fromkeys(("certified", "estimate", "nearest"), "higher is more robust"),
    columns=COLUMNS,
)
def bracket(table: pd.DataFrame, measured: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Put certified radius, estimate and nearest adversarial example of each sample side by side.

    The true radius of a sample lies between ``certified`` and ``nearest``. An estimate may lie anywhere: above the nearest
    example it is wrong, below the certified radius it only says less than the certificate. The nearest example is the nearest that any attack of the run found in the norm.

    Args:
        table: one row for each (cell, sample).
        measured: one row for each (measure, sample).
        plan: the plan of the run.

    Returns:
        One row for each sample of each bracket that is classified correctly, by ascending nearest example, those without
        one last. ``largest``: the radius at which the search for a certificate and the estimate end. ``contradicts``:
        whether the estimate lies above the nearest example. ``flags``: what else speaks against it; ``fit``: its fitted distribution, or
        None.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
        Contradiction: for a certified radius above the distance of an adversarial example.
    """
    asked = [measure for measure in plan.get("measures", ()) if measure["kind"] in ("radius", "estimate")]
    if not asked:
        return frame((), COLUMNS)
    rows = join(table, plan)
    found: list[dict[str, Any]] = []
    for model in models(rows, plan):
        mine = [measure for measure in asked if measure["model"] == model]
        for norm, epsilon in dict.fromkeys((m["norm"], float(m["at"])) for m in mine):
            both = {m["kind"]: m for m in mine if (m["norm"], float(m["at"])) == (norm, epsilon)}
            found += _bracket(rows, measured, plan, (model, norm, epsilon), both)
    return frame(found, COLUMNS)


def _bracket(
    rows: pd.DataFrame,
    measured: pd.DataFrame,
    plan: Mapping[str, Any],
    spot: tuple[str, str, float],
    both: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the rows of one model at one threat model."""
    model, norm, epsilon = spot
    examples = rows[(rows["model"] == model) & (rows["norm"] == norm) & rows["success"]]
    nearest = examples.sort_values(["distance", "cell"]).drop_duplicates("sample").set_index("sample")
    labels = {cell["index"]: cell["label"] for cell in plan["cells"]}
    parts = {kind: measured[measured["measure"] == m["index"]].set_index("sample") for kind, m in both.items()}
    some = next(iter(parts.values()))
    found = []
    for sample in some.index[some["clean_correct"].fillna(False).astype(bool)]:
        label = int(some.loc[sample, "y"])
        entry: dict[str, Any] = {"model": model, "norm": norm, "epsilon": epsilon, "sample": int(sample), "y": label}
        entry |= {"class_name": class_name(plan, model, label), "largest": float(next(iter(both.values()))["epsilon"])}
        entry |= dict.fromkeys(
            ("certified", "certifier", "estimate", "estimator", "nearest", "attack", "fit", "failed")
        )
        for kind, name, by in (("radius", "certified", "certifier"), ("estimate", "estimate", "estimator")):
            if kind in parts:
                row = parts[kind].loc[sample]
                entry[by] = both[kind]["method"]
                entry[name] = None if row["status"] != "ok" else float(row["value"])
                if row["status"] != "ok":
                    entry["failed"] = f"{both[kind]['method']}: {row['note']}"
        if sample in nearest.index:
            entry["nearest"] = float(nearest.loc[sample, "distance"])
            entry["attack"] = labels[int(nearest.loc[sample, "cell"])]
        detail = json.loads(parts["estimate"].loc[sample, "detail"]) if "estimate" in parts else {}
        entry["fit"] = {key: detail.get(key) for key in _FIT} if detail.get("maxima") else None
        entry["flags"], entry["contradicts"] = _flags(entry, detail.get("warnings") or ())
        if entry["certified"] is not None and both["radius"]["sound"] == "deterministic":
            above = entry["nearest"] is not None and entry["certified"] > entry["nearest"] * (1 + SLACK)
            refuse({int(sample)} if above else set(), both["radius"])
        found.append(entry)
    return sorted(found, key=lambda e: (e["nearest"] is None, e["nearest"] or 0.0, e["sample"]))


def _flags(entry: Mapping[str, Any], warnings: Any) -> tuple[list[str], bool]:
    """Return what speaks against an estimate, and whether it is contradicted."""
    value, nearest, certified = entry["estimate"], entry["nearest"], entry["certified"]
    above = value is not None and nearest is not None and value > nearest * (1 + SLACK)
    below = value is not None and certified is not None and value < certified * (1 - SLACK)
    doubts = [text for code, text in DOUBTS.items() if code in warnings]
    return [ABOVE] * above + [BELOW] * below + doubts, above
