"""What a report says of shifts: every suite, every model, from the stored rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from robustscope.analyses.effective_robustness import beyond_the_others
from robustscope.analyses.outliers import IMAGENET_O, aupr
from robustscope.analyses.sequences import measured, sequence_summary
from robustscope.analyses.shifts import CLEAN, Errors, add_differences, against, alexnet, errors_of
from robustscope.reports.formats import interval, number, percent, plain
from robustscope.runs.shifted import SEQUENCES, read_shift

ALEXNET = "alexnet"
NAMES = {
    "corruptions": "corruptions, at all severities",
    "imagenet-c": "corruptions of ImageNet-C",
    "imagenet-c-extra": "validation corruptions of ImageNet-C",
    "tiny-imagenet-c": "corruptions of Tiny ImageNet-C",
    "cifar10-c": "corruptions of CIFAR-10-C",
    "mnist-c": "corruptions of MNIST-C",
    "imagenet-p": "sequences of ImageNet-P",
    "imagenet-p-extra": "validation sequences of ImageNet-P",
    "cifar10-p": "sequences of CIFAR-10-P",
    "cifar10-p-extra": "validation sequences of CIFAR-10-P",
}
"""What stands behind the names of suites that are made on the fly."""


def shifts_of(run: Path, plan: Mapping[str, Any], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what the shifts of a run say, one entry for each, with one for each model inside.

    Args:
        run: run folder.
        plan: of the run.
        table: all rows of attacks, which say what each model does on the clean samples.

    Returns:
        {"name", "kind", "what", "n", "parts", "constants", "made", "reference", "models"}; of a model that could not judge
        everything, numbers are withheld and ``reason`` says why.
    """
    found = []
    for entry in plan.get("shifts", ()):
        rows = read_shift(run, entry["index"], partial(_needed, entry))
        reasons = {name: _reason(mine) for name, mine in rows.items()}
        one = _sequences if entry["kind"] == SEQUENCES else _corruptions
        summaries = one(plan, entry, {name: mine for name, mine in rows.items() if not reasons[name]}, table)
        models = []
        for name, reason in reasons.items():
            told = {"model": name, "reason": reason, **summaries.get(name, {})}
            models.append({**told, "sentence": _sentence(entry, told)})
        facts = {
            key: entry.get(key) for key in ("name", "kind", "constants", "rounding", "sources", "paired", "comparable")
        }
        facts |= {
            "what": NAMES.get(entry["name"], "benchmark on disk"),
            "n": entry["samples"],
            "outliers": _strange(entry),
        }
        facts |= {"parts": len(entry["parts"]), "made": "sources" not in entry, "reference": _reference(plan) or None}
        found.append({**facts, "models": models})
    return found


def _needed(entry: Mapping[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """Return what a report needs of the rows of a shard, so that the memory for all of them stays small."""
    if entry["kind"] != SEQUENCES:
        return rows.drop(columns=["y", "prediction"])
    rows = rows.drop(columns=["y", "prediction", "confidence"])
    sound = measured(rows[~rows["failed"]], _frames(entry), entry["noise"])
    return pd.concat([sound, rows[rows["failed"]].drop(columns="orders")])


def _frames(entry: Mapping[str, Any]) -> dict[str, int]:
    return {name: count for (name, _), count in zip(entry["parts"], entry["frames"], strict=True)}


def _reason(rows: pd.DataFrame) -> str | None:
    """Return why the numbers of a model are withheld; an error is not the same as a wrong prediction."""
    failed = rows[rows["failed"]]
    if failed.empty:
        return None
    first = failed.iloc[0]
    return f"{len(failed):,} of {len(rows):,} rows failed (first: {first['corruption']}: {plain(first['note'])})"


def _reference(plan: Mapping[str, Any]) -> str:
    return str(plan.get("request", {}).get("settings", {}).get("reference") or "")


def _corruptions(
    plan: Mapping[str, Any], entry: Mapping[str, Any], rows: Mapping[str, pd.DataFrame], table: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    """Return the summary of each model; the reference first, since the others are divided by it."""
    own = any(name == CLEAN for name, _ in entry["parts"])
    clean = {name: _clean(plan, table, name) if entry["comparable"] and not own else None for name in rows}
    reference: tuple[Errors, float | None] | None = None
    wanted = _reference(plan)
    if wanted in rows:
        reference = errors_of(against(rows[wanted], None, clean=clean[wanted]))
    elif wanted == ALEXNET and {name for name, _ in entry["parts"]} - {CLEAN} == set(alexnet()[0]):
        reference = alexnet()
    families = entry.get("families")
    found = {name: against(mine, reference, clean=clean[name], families=families) for name, mine in rows.items()}
    for name, summary in found.items():
        if wanted in rows and name != wanted:
            add_differences(summary, rows[name], rows[wanted])
        summary["outliers"] = _detected(rows[name], clean[name]) if _strange(entry) else None
    both = {name: summary for name, summary in found.items() if summary["clean"] is not None and not _strange(entry)}
    accuracies = ({name: own[kind]["value"] for name, own in both.items()} for kind in ("clean", "shifted"))
    beyond = {name: value for name, value in beyond_the_others(*accuracies).items() if value is not None}
    for name, summary in found.items():
        difference = {"value": beyond.get(name), "low": None, "high": None}
        summary["effective_robustness"] = difference if name in beyond else None
    return found


def _strange(entry: Mapping[str, Any]) -> bool:
    """Tell whether the pictures of a shift belong to none of the classes, so that no prediction of them can be right."""
    return IMAGENET_O in entry["name"].lower()


def _detected(rows: pd.DataFrame, clean: pd.DataFrame | None) -> dict[str, Any]:
    """Return how well low confidence tells the pictures of a shift from the clean ones; a gap with its reason."""
    told = {"aupr": None, "chance": None, "inliers": 0, "reason": None}
    if clean is None:
        reason = "the data of the run are not of the same classes, or were not all judged: give the folders of these classes as --data"
        return {**told, "reason": reason}
    scores = [-part["confidence"].to_numpy(dtype=float) for part in (rows, clean)]
    if np.isnan(np.concatenate(scores)).any():
        return {**told, "reason": "the model tells no confidence"}
    share = len(rows) / (len(rows) + len(clean))
    return {**told, "aupr": aupr(*scores), "chance": share, "inliers": len(clean)}


def _clean(plan: Mapping[str, Any], table: pd.DataFrame, model: str) -> pd.DataFrame | None:
    """Return what a model says of the clean samples, one row for each; None if it could not judge them all."""
    cell = next(cell["index"] for cell in plan["cells"] if cell["model"] == model)
    mine = table.loc[table["cell"] == cell, ["sample", "clean_correct", "clean_confidence"]]
    named = mine.rename(columns={"clean_correct": "correct", "clean_confidence": "confidence"})
    return None if named["correct"].isna().any() else named.assign(correct=named["correct"].astype(bool))


def _sequences(
    plan: Mapping[str, Any], entry: Mapping[str, Any], rows: Mapping[str, pd.DataFrame], table: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    frames, base, wanted = _frames(entry), None, _reference(plan)
    if wanted in rows:
        base = sequence_summary(rows[wanted], frames, entry["noise"])
    return {name: sequence_summary(mine, frames, entry["noise"], base) for name, mine in rows.items()}


def _sentence(entry: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Return what a shift does to a model in plain words."""
    where = f"under {entry['name']}"
    if told["reason"]:
        return f"What it keeps {where} is withheld: {told['reason']}"
    if entry["kind"] == SEQUENCES:
        text = f"The class changes in {percent(told['mean_flips'])} of the comparisons along the sequences of {entry['name']}"
        return text + (f", mFR {percent(told['mfr'])}" if told["mfr"] is not None else "")
    if told["outliers"] is not None:
        return _of_outliers(entry, told["outliers"])
    rate, clean = told["shifted"], told["clean"]
    text = f"{percent(rate['value'])} ({interval(rate['low'], rate['high'])}) are classified correctly {where}"
    text += f", against {percent(clean['value'])} clean" if clean is not None else ""
    if len(told["corruptions"]) > 1:
        worst = min(told["corruptions"], key=lambda row: row["value"])
        text += f"; worst is {worst['corruption'].replace('_', ' ')}, {percent(worst['value'])}"
    return text + (f". mCE {percent(told['mce'])}" if told["mce"] is not None else "")


def _of_outliers(entry: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if found["reason"]:
        return f"How well it tells {entry['name']} from ordinary pictures is not known: {found['reason']}"
    return (
        f"Low confidence tells the {entry['samples']:,} images of {entry['name']} from {found['inliers']:,} ordinary ones with an "
        f"AUPR of {percent(found['aupr'])}, against {percent(found['chance'])} by chance; no prediction of them can be right"
    )


def shift_cautions(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a reader must know of shifts."""
    for shift in summary["shifts"]:
        for told in shift["models"]:
            if told["reason"]:
                yield "error", f"{told['model']}: {told['sentence']}."
            elif told.get("mce_reason"):
                yield "note", f"No mCE of {told['model']} under {shift['name']}: {plain(told['mce_reason'])}"


def cards(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the card of each model and threat model of the suite common: attack, shifts and bracket side by side."""
    if summary["suite"] != "common":
        return []
    found = []
    for model in summary["models"]:
        shifts = []
        for shift in summary["shifts"]:
            told = next(one for one in shift["models"] if one["model"] == model["name"])
            rate = told.get("shifted") or {"value": None, "low": None, "high": None}
            flips = told.get("mean_flips")
            shifts.append(
                {"name": shift["name"], "kind": shift["kind"], "flips": flips, "mce": told.get("mce"), **rate}
            )
        for threat in model["threats"]:
            key = (model["name"], threat["norm"], threat["epsilon"])
            brackets = [e for e in summary["brackets"] if (e["model"], e["norm"], e["epsilon"]) == key]
            found.append(
                {
                    "model": model["name"],
                    "threat": threat["name"],
                    "clean": model["clean_accuracy"],
                    "robust": threat["robust_accuracy"],
                    "verdict": threat["trust"]["verdict"],
                    "grade": threat["trust"]["grade"],
                    "shifts": shifts,
                    "bracket": _bracket(brackets[0]) if brackets else None,
                }
            )
    return found


def _bracket(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the medians of a bracket, over the samples that have both ends."""
    both = [row for row in entry["rows"] if row["certified"] is not None and row["nearest"] is not None]
    ends = {"certified": None, "nearest": None, "n": len(both)}
    if both:
        ends |= {name: median(row[name] for row in both) for name in ("certified", "nearest")}
    told = f"{number(ends['certified'])} to {number(ends['nearest'])}" if both else "nothing could be measured"
    return {**ends, "told": told}
