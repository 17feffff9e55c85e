"""The content of ``report.json``: the one source of everything that the page and its Markdown twin say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from robustscope.analyses import ANALYSES, MEASURED, shifts
from robustscope.core.errors import MissingFile
from robustscope.reports.cautions import cautions
from robustscope.reports.formats import interval, native, percent, plain, threat_name
from robustscope.reports.gallery import Picture, collect
from robustscope.reports.measures import brackets, certified_of, trust_of
from robustscope.reports.shift_tables import cards, shifts_of
from robustscope.runs import store
from robustscope.runs.measured import read_measures

FORMAT = 1


def summarise(run: str | Path) -> dict[str, Any]:
    """Compute everything that a report says about a run, from what the run stored.

    Args:
        run: folder of a finished run.

    Returns:
        The content of ``report.json``; all rates are fractions. ``clean_accuracy``, ``robust_accuracy`` and ``cost`` (rows
        for each sample) are those of the first model at the first threat model; ``models`` has all of them. A rate is
        {"value", "low", "high", "n", "k", "reason"}; value, low, high and k are None while it is withheld.

    Raises:
        MissingFile: if the folder holds no run.
        CorruptRun: if rows are missing, doubled or contradict each other.
    """
    return gather(run)[0]


def gather(run: str | Path) -> tuple[dict[str, Any], list[Picture]]:
    """Return the summary of a run and the pictures that go with its gallery."""
    run = Path(run)
    plan, table = store.read_plan(run), store.read_table(run)
    record: dict[str, Any]
    try:
        record = store.read_record(run)
    except MissingFile:
        record = {"complete": False}
    measured = read_measures(run)
    tables = {card.name: native(card.function(table, plan).to_dict("records")) for card in ANALYSES}
    tables |= {card.name: native(card.function(table, measured, plan).to_dict("records")) for card in MEASURED}
    shifted = native(shifts_of(run, plan, table))
    pictures, reason = collect(run, plan, table)
    ran = native(record)
    plan = native(plan)  # from here on for JSON only: an infinite radius has become text
    models = _models(plan, tables, record.get("audit") or [])
    for model in models:
        for threat in model["threats"]:
            threat["trust"] = trust_of(plan, ran, measured, model["name"], threat)
            threat["certified"] = certified_of(tables, model["name"], threat)
        model["sentence"] = sentence(model, plan)
    summary: dict[str, Any] = {
        "format": FORMAT,
        "plan_id": plan["id"],
        "created_by": plan.get("created_by"),
        **_headline(models),
        "warnings": [],
        "suite": plan.get("suite"),
        "seed": plan.get("seed"),
        "batch_size": plan.get("batch_size"),
        "threads": plan.get("threads"),
        "data": {key: value for key, value in plan["data"].items() if key != "class_names"},
        "threats": [{**threat, "name": threat_name(threat)} for threat in plan["threats"]],
        "models": models,
        "comparisons": tables["comparison"],
        **{name: tables[name] for name in ("attacks", "curve", "per_class", "distances", "worst", "flags")},
        "brackets": brackets(tables["bracket"]),
        "shifts": shifted,
        "gallery": {"reason": reason, "items": [picture.facts for picture in pictures]},
        "methods": _methods(plan),
        "measures": [{k: v for k, v in m.items() if k != "index"} for m in plan.get("measures", ())],
        "analyses": [
            {"name": card.name, "version": card.version, "source": card.source} for card in (*ANALYSES, *MEASURED)
        ]
        + ([{"name": "shifts", "version": shifts.VERSION, "source": shifts.SOURCE}] if shifted else []),
        "cost_total": _cost_total(plan, record, table),
        "environment": {
            key: record.get(key) for key in ("complete", "versions", "device", "platform", "git", "seconds")
        },
    }
    summary["cards"] = cards(summary)
    summary["warnings"] = cautions(summary, tables["accuracy"], record)
    return native(summary), pictures


def _headline(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the three top entries: the first model at the first threat model."""
    first = models[0]
    threat = first["threats"][0] if first["threats"] else {"robust_accuracy": None, "cost": None}
    return {
        "clean_accuracy": first["clean_accuracy"],
        "robust_accuracy": threat["robust_accuracy"],
        "cost": threat["cost"],
    }


def rate(row: Mapping[str, Any], name: str, reason: str | None) -> dict[str, Any]:
    """Return a rate out of a row of the accuracy tables."""
    keys = {"value": f"{name}_accuracy", "low": f"{name}_low", "high": f"{name}_high", "n": "n", "k": f"{name}_k"}
    return {**{key: row[column] for key, column in keys.items()}, "reason": reason}


def _models(
    plan: Mapping[str, Any], tables: Mapping[str, list[dict[str, Any]]], audits: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return each model with its clean accuracy and, for each threat model, robust accuracy, audit and what it cost."""
    spent = {(row["model"], row["norm"], row["epsilon"]): row for row in tables["cost"]}
    found = []
    for model in plan["models"]:
        rows = [row for row in tables["accuracy"] if row["model"] == model["name"]]
        if not rows:
            continue
        unknown = rows[0]["clean_accuracy"] is None
        entry = {key: value for key, value in model.items() if key != "class_names"}
        entry |= {"n": rows[0]["n"], "clean_accuracy": rate(rows[0], "clean", rows[0]["reason"] if unknown else None)}
        entry["threats"] = []
        for threat in plan["threats"]:
            key = (threat["norm"], threat["epsilon"])
            row = next((row for row in rows if (row["norm"], row["epsilon"]) == key), None)
            if row is None:
                continue
            cost = spent[(model["name"], *key)]
            entry["threats"].append(
                {
                    **{name: threat[name] for name in ("norm", "epsilon")},
                    "name": threat_name(threat),
                    "robust_accuracy": rate(row, "robust", row["reason"]),
                    "cost": {name: cost[f"{name}_per_sample"] for name in ("forward", "backward")},
                    "audit": _audit(audits, (model["name"], *key)),
                }
            )
        found.append(entry)
    return found


def _audit(audits: list[dict[str, Any]], key: tuple[Any, ...]) -> dict[str, Any] | None:
    """Return what the audits say of one model at one threat model, with the sentence that says it, or None."""
    found = next((audit for audit in audits if (audit["model"], audit["norm"], audit["epsilon"]) == key), None)
    return None if found is None else {**found, "sentence": audit_sentence(found)}


def audit_sentence(audit: Mapping[str, Any]) -> str:
    """Return what the audits found in plain words."""
    if audit["bound"] is None:
        return f"No audit: {audit['reason']}"
    if not audit["survivors"]:
        return "Nothing was left to audit"
    proved = audit.get("certified") or 0
    text = (
        f"Full AutoAttack on {audit['audited']:,} of {audit['survivors']:,} survivors, drawn at random"
        f"{f' from all but the {proved:,} that are certified' if proved else ''}, broke {audit['found']:,} more"
    )
    if audit["escalated"]:
        text += (
            f"; what broke them ({', '.join(audit['escalated'])}) then ran on all the others and broke "
            f"{audit['broken_by_escalation']:,}"
        )
    left = "on every survivor, so that it would lower the figure no further"
    if audit["unaudited"]:
        left = (
            f"on all the others would lower the figure by at most {100 * audit['bound']:.1f} percentage points "
            f"({100 * audit['confidence']:.0f} % confidence"
        )
        asked = audit["asked"]
        left += (
            ")" if asked is None else f"; {100 * asked:g} were asked for{'' if audit['kept'] else ', and not reached'})"
        )
        return f"{text}. Full AutoAttack {left}"
    return f"{text}. It ran {left}"


def sentence(model: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Return the result of one model in one plain sentence."""
    clean, n = model["clean_accuracy"], model["n"]
    noun = "images" if len(plan["data"].get("shape") or ()) == 3 else "inputs"
    if clean["value"] is None:
        return f"Clean accuracy on {n:,} {noun} is withheld: {plain(clean['reason'])}."
    text = (
        f"Of {n:,} {noun}, {percent(clean['value'])} ({interval(clean['low'], clean['high'])}) are classified correctly"
    )
    parts = []
    for threat in model["threats"]:
        robust = threat["robust_accuracy"]
        if robust["value"] is None:
            parts.append(f"how many withstand {threat['name']} is withheld, because an attack failed")
            continue
        told = f"{percent(robust['value'])} ({interval(robust['low'], robust['high'])})"
        still = "still are after every attack in the suite at" if not parts else "at"
        parts.append(f"{told} {still} {threat['name']}")
    said = []
    for threat in model["threats"]:
        known = [found["sentence"] for found in threat["certified"]]
        for found in [*known, *([threat["audit"]["sentence"]] if threat.get("audit") else [])]:
            several = len(model["threats"]) > 1
            said.append(f"At {threat['name']}: {found[0].lower()}{found[1:]}." if several else f"{found}.")
    return " ".join(["; ".join([text, *parts]) + ".", *said])


def _methods(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each attack that was run, with all its parameters, once, and the radii at which it ran."""
    found: dict[str, dict[str, Any]] = {}
    for cell in plan["cells"]:
        entry = {key: cell.get(key) for key in ("attack", "label", "version", "source", "parameters", "aim", "floor")}
        entry = found.setdefault(json.dumps(entry, sort_keys=True, default=str), {**entry, "radii": []})
        radius = [cell["norm"], cell["epsilon"]]
        if radius not in entry["radii"]:
            entry["radii"].append(radius)
    return list(found.values())


def _cost_total(plan: Mapping[str, Any], record: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """Return rows forward and backward of the whole run: forecast, those of attacks, and all that were counted."""
    shards = record.get("shards") or []
    counted = {name: sum(int(part.get(name) or 0) for part in shards) for name in ("forward", "backward")}
    return {
        "forecast": {name: plan.get("cost", {}).get(name) for name in ("forward", "backward")},
        "attacks": {name: int(table[name].sum()) for name in ("forward", "backward")},
        "counted": counted if shards else {"forward": None, "backward": None},
    }
