"""What all analyses share: their cards, the checked join of table and plan, and one verdict for each sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from robustscope.core.errors import CorruptRun, InvalidValue
from robustscope.core.registry import Card, Registry

FAILED = ("error", "timeout")
FACTS = ("y", "clean_correct", "clean_prediction", "clean_confidence", "clean_margin")
_NEEDED = ("cell", "sample", "status", "note", "success", "distance", "y_adv", "forward", "backward", *FACTS)


@dataclass(frozen=True)
class AnalysisCard(Card):
    """What an analysis says about the table it returns.

    Args:
        ranges: column -> (lowest, highest) possible value, inclusive.
        direction: column -> "higher is more robust", "lower is more robust" or "neither".
        columns: column -> pandas dtype; nullable dtypes, so that a missing number is an explicit gap.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    direction: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)


ANALYSES: Registry[AnalysisCard] = Registry("analysis", AnalysisCard)
"""Functions (table, plan) of the rows of attacks."""
MEASURED: Registry[AnalysisCard] = Registry("analysis of measures", AnalysisCard)
"""Functions (table, measured, plan) of the rows of attacks and of those of certificates, estimates and probes."""


def frame(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return rows as a table with the declared columns and nullable dtypes; None becomes an explicit gap."""
    listed = list(rows)
    return pd.DataFrame(
        {name: pd.Series([row[name] for row in listed], dtype=dtype) for name, dtype in columns.items()}
    )


def join(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table with the facts of each row's cell beside it: model, norm, epsilon.

    Args:
        table: one row for each (cell, sample).
        plan: the plan of the run.

    Raises:
        InvalidValue: for a table without rows or without a needed column; nothing can be said about nothing.
        CorruptRun: for a cell that the plan does not have, and for missing or doubled rows.
    """
    absent = [name for name in _NEEDED if name not in table.columns]
    if absent:
        raise InvalidValue(
            f"a table without the columns {absent} was given",
            f"all of {list(_NEEDED)} are needed",
            "Pass the table of a run, as runs.store.read_table returns it.",
        )
    if table.empty:
        raise InvalidValue(
            "a table without rows was given",
            "at least one row is needed, for no rate can be computed from nothing",
            "Run the evaluation first; check that the selection of samples is not empty.",
        )
    cells = pd.DataFrame(plan["cells"])[["index", "model", "norm", "epsilon"]].rename(columns={"index": "cell"})
    cells["epsilon"] = cells["epsilon"].astype(float)
    unknown = sorted(set(table["cell"].unique()) - set(cells["cell"]))
    if unknown:
        raise CorruptRun(
            f"rows of the cells {unknown[:5]} were given",
            f"the plan has the cells 0 to {len(cells) - 1}",
            "Analyse each table with the plan of its own run.",
        )
    keep = [name for name in table.columns if name not in ("model", "norm", "epsilon")]
    rows = table[keep].merge(cells, on="cell", how="left", validate="many_to_one")
    for name in ("model", "norm"):
        rows[name] = rows[name].astype("category")  # codes compare a hundred times faster than texts
    rows["success"] = rows["success"].astype("boolean").fillna(False).astype(bool)
    rows["clean_correct"] = rows["clean_correct"].astype("boolean")
    _check_whole(rows, cells)
    return rows


def _check_whole(rows: pd.DataFrame, cells: pd.DataFrame) -> None:
    """Refuse missing and doubled rows: an absent attack would otherwise count as one that was withstood."""
    doubled = int(rows.duplicated(["cell", "sample"]).sum())
    if doubled:
        raise CorruptRun(
            f"{doubled} rows are doubled",
            "one row for each cell and sample is allowed",
            "Remove the doubled shard, or run the evaluation again into an empty folder.",
        )
    counts = cells.groupby("model")["cell"].size()
    for model, part in rows.groupby("model", observed=True):
        wanted = part["sample"].nunique() * int(counts[model])
        if len(part) != wanted:
            raise CorruptRun(
                f"{len(part)} rows of the model {model!r} were given",
                f"{wanted} are needed: one for each of its cells and samples",
                "Resume the run; it adds what is missing.",
            )


def facts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each (model, sample), indexed so, with its label and what the model says of the clean input.

    Raises:
        CorruptRun: if rows of the same model and sample disagree about the label or the clean verdict.
    """
    groups = rows.groupby(["model", "sample"], sort=True, observed=True)
    for name in ("y", "clean_correct"):
        split = groups[name].nunique(dropna=False)
        if (split > 1).any():
            model, sample = next(iter(split[split > 1].to_dict()))
            raise CorruptRun(
                f"rows of model {model!r}, sample {sample} disagree about {name}",
                "one value for each model and sample is allowed",
                "The model or the data changed during the run; start it again into an empty folder.",
            )
    return pd.DataFrame(groups[list(FACTS)].first())


def radii(plan: Mapping[str, Any], model: str) -> list[tuple[str, float, bool]]:
    """Return (norm, epsilon, headline) of a model's cells, each once: norms in the plan's order, radii ascending.

    Cells that ran for a bracket, on a few samples, have no accuracy of their own.
    """
    found: dict[tuple[str, float], bool] = {}
    norms: dict[str, int] = {}
    for cell in plan["cells"]:
        if cell["model"] == model and "subset" not in cell:
            norms.setdefault(cell["norm"], len(norms))
            spot = (cell["norm"], float(cell["epsilon"]))
            found[spot] = found.get(spot, False) or bool(cell["headline"])
    return [(*spot, found[spot]) for spot in sorted(found, key=lambda spot: (norms[spot[0]], spot[1]))]


def models(rows: pd.DataFrame, plan: Mapping[str, Any]) -> list[str]:
    """Return the names of the models that have rows, in the order of the plan."""
    present = set(rows["model"].unique())
    return [model["name"] for model in plan["models"] if model["name"] in present]


def verdict(rows: pd.DataFrame, known: pd.DataFrame, model: str, norm: str, epsilon: float) -> pd.DataFrame:
    """Return one row for each sample: was it broken, by which radius on, and is the answer known at all?

    A sample counts as broken at epsilon if any attack broke it at epsilon or at a smaller radius of the same norm:
    the smaller ball lies inside the larger one. An attack without a limit (epsilon = inf) broke it from the distance of
    its example on.

    Args:
        rows: what :func:`join` returned.
        known: what :func:`facts` returned.
        model, norm, epsilon: whose verdict.

    Returns:
        Table indexed by sample: the facts, ``broken`` (bool), ``failed`` (bool: an attack that counts here ended in an
        error or ran out of time), ``robust`` (bool: correct and not broken; meaningless where ``failed``).
    """
    mine = rows[(rows["model"] == model) & (rows["norm"] == norm)]
    part = mine[mine["epsilon"] <= epsilon]
    near = mine[(mine["epsilon"] == math.inf) & (mine["distance"] <= epsilon)]
    table = known.loc[model].copy()
    table["broken"] = table.index.isin([*part.loc[part["success"], "sample"], *near.loc[near["success"], "sample"]])
    table["failed"] = table.index.isin(part.loc[part["status"].isin(FAILED), "sample"])
    table["robust"] = table["clean_correct"].fillna(False).astype(bool) & ~table["broken"]
    return table


def why_withheld(rows: pd.DataFrame, plan: Mapping[str, Any], model: str, norm: str, epsilon: float) -> str | None:
    """Return why no robust accuracy can be stated at a radius, or None if one can.

    An attack that ended in an error found nothing, which is not the same as there being nothing to find.
    """
    part = rows[rows["model"] == model]
    unknown = int(part.loc[part["clean_correct"].isna(), "sample"].nunique())
    if unknown:
        return f"the clean prediction of {unknown} samples is unknown"
    part = part[(part["norm"] == norm) & (part["epsilon"] <= epsilon) & part["status"].isin(FAILED)]
    if part.empty:
        return None
    labels = {cell["index"]: cell["label"] for cell in plan["cells"]}
    names = sorted({labels[cell] for cell in part["cell"]})
    first = part.sort_values(["cell", "sample"]).iloc[0]
    note = str(first["note"] or first["status"]).strip()
    note = note if len(note) <= 200 else note[:199] + "…"
    return f"{len(part)} rows of {', '.join(names)} ended in an error or ran out of time (first: {note})"


def class_name(plan: Mapping[str, Any], model: str, index: int) -> str:
    """Return the name of a class: the model's, else the data's, else its number."""
    entry = next((entry for entry in plan["models"] if entry["name"] == model), {})
    for names in (entry.get("class_names"), plan["data"].get("class_names")):
        if names and 0 <= index < len(names):
            return str(names[index])
    return str(index)
