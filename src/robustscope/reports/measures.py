"""What a report says of measures: whether the number can be trusted, what is certified, and the brackets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from robustscope.reports.formats import interval, number, percent, plain

Rows = Sequence[Mapping[str, Any]]
WITHOUT = (
    "the probes are defined for balls of the norms linf, l2 and l1 of a finite radius above 0, and need the gradients of "
    "the model"
)
MANY = 0.1
"""Share of estimates that may be refuted before none of them should be quoted."""
GRADES = {"trust": "trust", "doubt": "doubt", "do not trust this number": "distrust", None: "none"}


def trust_of(
    plan: Mapping[str, Any], record: Mapping[str, Any], measured: pd.DataFrame, model: str, threat: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the verdict on the robust accuracy of one model at one threat model.

    Args:
        plan: plan of the run.
        record: what truly ran.
        measured: rows of all measures.
        model, threat: whose.

    Returns:
        {"verdict", "grade", "why", "checks", "n", "left", "white", "told", "sentence"}; verdict None where there is none, and why
        then says so.
    """
    key = (model, threat["norm"], threat["epsilon"])
    for found in record.get("trust") or ():
        if (found["model"], found["norm"], found["epsilon"]) == key:
            told = _trust_sentence(found)
            head = {"trust": "Trust", "doubt": "Doubt"}.get(found["verdict"], "Do not trust this number")
            grade = {"grade": GRADES[found["verdict"]], "told": f"{told[0].upper()}{told[1:]}"}
            return {**found, **grade, "sentence": f"{head}: {told}"}
    asked = plan.get("request", {}).get("settings", {}).get("trust", "off")
    mine = [m for m in plan.get("measures", ()) if m["kind"] == "trust"]
    measure = next((m for m in mine if (m["model"], m["norm"], m["epsilon"]) == key), None)
    reason = "it was switched off" if asked == "off" else WITHOUT
    if measure is not None:
        rows = measured[measured["measure"] == measure["index"]]
        failed = rows[rows["status"] == "error"]
        reason = "no sample is classified correctly" if failed.empty else str(failed["note"].iloc[0])
    empty = {"verdict": None, "grade": "none", "why": [reason], "checks": [], "n": None, "left": None, "white": None}
    told = f"No verdict on this number: {plain(reason)}"
    return {**empty, "sentence": told, "told": told}


def _trust_sentence(found: Mapping[str, Any]) -> str:
    """Return what a verdict rests on in plain words."""
    failed = [check for check in found["checks"] if check["verdict"] == "fail"]
    passed = sum(check["verdict"] == "pass" for check in found["checks"])
    of = f"on {found['n']:,} samples"
    if found["verdict"] == "trust":
        return f"all {passed} checks that apply were passed {of}; nothing says that the attacks were too weak"
    if not failed:
        return plain(found["why"][0])
    names = ", ".join(check["name"].replace("_", " ") for check in failed[:3])
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"{len(failed)} of {passed + len(failed)} checks failed {of} ({names}{more})"


def certified_of(tables: Mapping[str, Rows], model: str, threat: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the certified accuracies of one model at one threat model, each with the sentence that says it."""
    found = []
    for row in tables["certified"]:
        if (row["model"], row["norm"], row["epsilon"]) == (model, threat["norm"], threat["epsilon"]):
            rate = {key: row[key] for key in ("low", "high", "n", "k", "reason")}
            facts = {key: row[key] for key in ("method", "sound", "timeouts", "undecided")}
            facts["name"] = row["method"] + ("" if row["sound"] == "deterministic" else " (the vote under noise)")
            found.append({**rate, **facts, "value": row["accuracy"], "sentence": _certified_sentence(row)})
    return found


def _certified_sentence(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return f"Certified accuracy by {row['method']} is withheld: {plain(row['reason'])}"
    text = f"{percent(row['accuracy'])} ({interval(row['low'], row['high'])}) are certified by {row['method']}"
    if row["sound"] == "deterministic":
        text += f"; {row['undecided']:,} samples are neither certified nor broken"
    else:
        text += ", each with its confidence, of another classifier: the vote of this one under noise. Of this one it proves nothing"
    return text + (f", {row['timeouts']:,} ran out of time" if row["timeouts"] else "")


def brackets(rows: Rows) -> list[dict[str, Any]]:
    """Return the brackets of a run, one for each model and threat model, with what their samples have in common."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["norm"], row["epsilon"]), []).append(row)
    found = []
    for (model, norm, epsilon), mine in groups.items():
        both = [r for r in mine if r["certified"] and r["nearest"] is not None]
        guessed = [r for r in mine if r["estimate"] is not None]
        entry = {"model": model, "norm": norm, "epsilon": epsilon, "n": len(mine), "rows": mine}
        entry |= {name: mine[0][name] for name in ("certifier", "estimator", "largest")}
        entry["gap"] = median(r["nearest"] / r["certified"] for r in both) if both else None
        entry["contradicted"] = [r["sample"] for r in mine if r["contradicts"]]
        entry["estimated"], entry["failed"] = len(guessed), sum(r["failed"] is not None for r in mine)
        found.append({**entry, "sentence": _bracket_sentence(entry)})
    return found


def _bracket_sentence(entry: Mapping[str, Any]) -> str:
    parts = []
    if entry["gap"] is not None:
        parts.append(
            f"the nearest example lies {number(entry['gap'])} times as far as what {entry['certifier']} certifies (median)"
        )
    if entry["estimated"]:
        wrong = len(entry["contradicted"])
        parts.append(
            f"{wrong:,} of {entry['estimated']:,} estimates of {entry['estimator']} lie above the nearest example, which "
            "refutes them"
            if wrong
            else f"no estimate of {entry['estimator']} lies above the nearest example"
        )
    text = "; ".join(parts) or "nothing could be measured"
    return f"{text[0].upper()}{text[1:]}."


def measure_cautions(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a reader must know of verdicts, certificates and brackets."""
    for model in summary["models"]:
        for threat in model["threats"]:
            where = f"{model['name']} at {threat['name']}"
            trust = threat["trust"]
            if trust["verdict"] in ("doubt", "do not trust this number"):
                yield "warning", f"{where}: {plain(trust['sentence'])}. The reasons stand under “Can it be trusted?”."
            elif trust["verdict"] is None:
                yield "note", f"{where}: {plain(trust['sentence'])}."
            for found in threat["certified"]:
                if found["value"] is None:
                    yield "warning", f"{where}: {plain(found['sentence'])}."
    for entry in summary["brackets"]:
        wrong = entry["contradicted"]
        if wrong:
            first = ", ".join(str(i) for i in wrong[:5])
            many = len(wrong) > MANY * entry["estimated"]
            means = (
                f"Do not quote {entry['estimator']} for this model; it is what masked gradients look like."
                if many
                else "An estimate is no bound; those are refuted."
            )
            yield (
                "warning" if many else "note",
                f"{len(wrong):,} of {entry['estimated']:,} estimates of {entry['model']} in {entry['norm']} lie above the "
                f"distance of an example that was found (sample {first}). {means}",
            )
        if entry["failed"]:
            yield "warning", f"{entry['failed']:,} rows of the bracket of {entry['model']} failed; they are gaps."
