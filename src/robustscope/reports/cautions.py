"""What a reader must know before believing the numbers. The page shows it first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from robustscope.reports.flags import flags
from robustscope.reports.formats import number, percent, place, plain
from robustscope.reports.measures import measure_cautions
from robustscope.reports.shift_tables import shift_cautions

SMALL_N = 100
ENOUGH_SURVIVE = 0.9

Caution = tuple[str, str]
Rows = list[dict[str, Any]]


def cautions(summary: Mapping[str, Any], accuracy: Rows, record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return warnings, the gravest first.

    Args:
        summary: the summary so far.
        accuracy: rows of the accuracy analysis, all radii.
        record: what truly ran.

    Returns:
        [{"level": "error" | "warning" | "note", "message": one or two sentences}].
    """
    found = [
        *_failures(summary, accuracy, record),
        *_strength(summary),
        *_sanity(summary),
        *_precision(summary),
        *_recorded(summary, record),
        *_audited(summary),
        *_searched(record),
        *_repeated(record),
        *flags(summary, record),
        *measure_cautions(summary),
        *shift_cautions(summary),
        (
            "note",
            "Robust accuracy here is an upper bound: no attack in this suite broke those samples. A stronger or adapted "
            "attack can only lower it; it proves nothing about attacks that were not run.",
        ),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return [{"level": level, "message": text} for level, text in sorted(found, key=lambda item: order[item[0]])]


def _failures(summary: Mapping[str, Any], accuracy: Rows, record: Mapping[str, Any]) -> Iterator[Caution]:
    if not record.get("complete"):
        yield "error", "The record says that this run is not complete. Resume it before quoting a number."
    names = {(threat["norm"], threat["epsilon"]): threat["name"] for threat in summary["threats"]}
    for row in accuracy:
        if row["reason"]:
            at = names.get((row["norm"], row["epsilon"]), place(row["norm"], row["epsilon"]))
            level = "error" if row["headline"] else "warning"
            yield level, f"Robust accuracy of {row['model']} at {at} is withheld: {plain(row['reason'])}."


def _audited(summary: Mapping[str, Any]) -> Iterator[Caution]:
    """What audits leave open, and what they say of the search."""
    for model in summary["models"]:
        for threat in model["threats"]:
            audit = threat.get("audit")
            if audit is None:
                continue
            where = f"{model['name']} at {threat['name']}"
            if not audit["kept"]:
                yield "warning", f"The audit of {where} did not reach the bound asked for: {plain(audit['reason'])}."
            if audit["escalated"]:
                yield (
                    "warning",
                    f"The search was too weak for {where}: the audit broke {audit['found']:,} of {audit['audited']:,} "
                    f"survivors, and {', '.join(audit['escalated'])} had to run on all of them. The figure includes that; look "
                    f"for masked gradients.",
                )


def _strength(summary: Mapping[str, Any]) -> Iterator[Caution]:
    """Signs that the attacks were weak, so that what looks robust may not be."""
    for model in summary["models"]:
        rows = [row for row in summary["attacks"] if row["model"] == model["name"] and row["headline"]]
        for threat in model["threats"]:
            here = [row for row in rows if (row["norm"], row["epsilon"]) == (threat["norm"], threat["epsilon"])]
            where = f"{model['name']} at {threat['name']}"
            if here and all(row["floor"] for row in here):
                yield "warning", f"Only noise was run on {where}. Its robust accuracy says nothing about attacks."
            noise = [row["robust_alone"] for row in here if row["floor"] and row["robust_alone"] is not None]
            for row in here:
                left = row["robust_alone"]
                if not row["floor"] and noise and left is not None and left > min(noise):
                    yield (
                        "warning",
                        f"{row['label']} is weaker than noise on {where}: it leaves {percent(left)} of {row['n']:,}, noise "
                        f"{percent(min(noise))}. A sign of masked gradients, not of robustness.",
                    )
            clean, robust = model["clean_accuracy"], threat["robust_accuracy"]
            if clean["k"] and robust["k"] == clean["k"]:
                yield (
                    "warning",
                    f"No attack broke a single sample of {where}. Either the radius is very small, or gradients are "
                    "masked; try a larger radius: at a very large one every model must fall.",
                )


def _sanity(summary: Mapping[str, Any]) -> Iterator[Caution]:
    for model in summary["models"]:
        clean, classes = model["clean_accuracy"], model.get("num_classes") or 0
        if clean["value"] is not None and classes > 1 and clean["low"] <= 1 / classes:
            yield (
                "warning",
                f"Clean accuracy of {model['name']} ({percent(clean['value'])} of {clean['n']:,}) cannot be told from guessing "
                f"among {classes} classes. Check label order and normalisation: robustscope doctor.",
            )
        for threat in model["threats"]:
            yield from _noise(summary, model, threat)


def _noise(summary: Mapping[str, Any], model: Mapping[str, Any], threat: Mapping[str, Any]) -> Iterator[Caution]:
    """Noise that breaks samples: part of what looks like the work of an attack needs no attacker."""
    rows = [row for row in summary["attacks"] if (row["model"], row["norm"]) == (model["name"], threat["norm"])]
    rows = [row for row in rows if row["floor"] and float(row["epsilon"]) <= float(threat["epsilon"])]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        broken, correct = sum(row["broken"] for row in mine), mine[0]["correct"]
        if broken:
            yield (
                "warning",
                f"Without any attacker, {label} breaks {broken:,} of {number(correct)} correctly classified samples of "
                f"{model['name']} within {threat['name']}: the model is unstable to noise of this size, or the radius is "
                "too large to be called small.",
            )


def _precision(summary: Mapping[str, Any]) -> Iterator[Caution]:
    for model in summary["models"]:
        if model["n"] < SMALL_N:
            yield (
                "warning",
                f"Only {model['n']:,} samples of {model['name']} were evaluated: the intervals are wide. Read them, not the "
                "values.",
            )
        rows = [row for row in summary["attacks"] if row["model"] == model["name"]]
        known = [row for row in rows if row["survives_k"] is not None]
        broken, kept = sum(row["broken"] for row in known), sum(row["survives_k"] for row in known)
        if broken and kept / broken < ENOUGH_SURVIVE:
            yield (
                "warning",
                f"Only {kept:,} of {broken:,} adversarial examples of {model['name']} ({percent(kept / broken)}) still fool "
                "it after rounding to 8 bits: stored as ordinary images, many would be harmless.",
            )
        yield from _alone(model["name"], rows)
    beyond = [
        (row["max_distance"] - row["epsilon"], row)
        for row in summary["attacks"]
        if isinstance(row["max_distance"], float) and not isinstance(row["epsilon"], str)
        if row["max_distance"] > row["epsilon"]
    ]
    if beyond:
        excess, row = max(beyond, key=lambda item: item[0])
        yield (
            "note",
            f"By floating-point rounding, some examples lie up to {excess:.1e} beyond epsilon ({row['label']} on "
            f"{row['model']}, {place(row['norm'], row['epsilon'])}); every example passed the check of the run.",
        )


def _alone(model: str, rows: Rows) -> Iterator[Caution]:
    """Examples that fooled a model in the batch in which they were judged first, and not alone."""
    known = [row for row in rows if row["alone_k"] is not None]
    broken, seen, kept = (sum(row[name] for row in known) for name in ("broken", "alone_n", "alone_k"))
    if kept < broken:
        yield (
            "warning",
            f"Only {kept:,} of {seen:,} adversarial examples of {model} fool it in a second pass too: it draws random numbers "
            "of its own, so that one pass decides nothing. Wrap it: robustscope.models.defended.randomised.",
        )
    elif kept < seen:
        yield (
            "warning",
            f"{seen - kept:,} of {seen:,} examples fool {model} in a batch but not alone, though these samples were attacked "
            "again one by one. They do not count as broken. Does the model let rows of a batch see each other?",
        )


def _recorded(summary: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[Caution]:
    told = Counter(plain(_text(item)) for item in record.get("warnings") or [])
    for part in record.get("shards") or []:
        told.update(plain(_text(item)) for item in part.get("warnings") or [])
    for text, times in told.items():
        yield "warning", f"During the run: {text}" + (f" ({times} times)" if times > 1 else "")
    total = summary["cost_total"]
    if any(audit["escalated"] for audit in record.get("audit") or []):
        return  # the forecast holds one audit; what it found had to be followed, and that is said elsewhere
    for name, forecast in total["forecast"].items():
        counted = total["counted"][name]
        extra = sum(entry[name] for entry in record.get("alone") or [])  # told apart, by `_repeated`
        if forecast is not None and counted is not None and counted > forecast + extra:
            yield "warning", f"The run sent {counted:,} rows {name}, more than the forecast of at most {forecast:,}."
    if (record.get("git") or {}).get("dirty"):
        yield "note", "The code that ran had uncommitted changes: its revision alone does not reproduce the run."


def _searched(record: Mapping[str, Any]) -> Iterator[Caution]:
    """On what the attacks searched, where a twin was asked for."""
    for twin in record.get("twins") or []:
        if twin["kind"] != "off":
            again = (
                f"; {twin['reverted']:,} examples fooled the twin alone, and {twin['model']} was attacked again there"
            )
            yield (
                "note",
                f"Attacks on {twin['model']} searched on its {twin['kind']} twin ({', '.join(twin['notes']) or 'a copy'}); "
                f"every verdict is of {twin['model']} itself{again if twin['reverted'] else ''}.",
            )
        elif twin["notes"]:
            yield "note", f"Attacks on {twin['model']} searched on the model itself: {plain('; '.join(twin['notes']))}."


def _repeated(record: Mapping[str, Any]) -> Iterator[Caution]:
    """Samples attacked again, since their first examples held in company of other rows only."""
    for entry in record.get("alone") or []:
        if entry["samples"]:
            yield (
                "note",
                f"{entry['samples']:,} examples fooled {entry['model']} in a batch but not alone, where floats are rounded in "
                f"another way; these samples were attacked again one by one, by {entry['forward']:,} rows forward and "
                f"{entry['backward']:,} backward beyond the forecast.",
            )


def _text(item: Any) -> Any:
    return item.get("message", item) if isinstance(item, Mapping) else item
