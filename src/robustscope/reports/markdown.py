"""The Markdown twin of the page: the same numbers for terminals, issues and e-mail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robustscope.reports.formats import duration, interval, number, p_value, parameters, percent, place
from robustscope.reports.formats import markdown as safe
from robustscope.reports.shift_markdown import card_blocks, shift_blocks
from robustscope.reports.tables import table


def rate(row: Mapping[str, Any], name: str = "") -> str:
    """Return value, count and interval of a rate in one cell.

    Example:
        >>> rate({"value": 0.5, "low": 0.2, "high": 0.8, "k": 5, "n": 10}).replace(chr(160), " ")
        '50.0 % (5/10; 20.0–80.0)'
    """
    keys = [f"{name}_{key}" for key in ("accuracy", "k", "low", "high")] if name else ["value", "k", "low", "high"]
    value, k, low, high = (row[key] for key in keys)
    if value is None:
        return f"**withheld** (of {number(row['n'])})"
    return f"{percent(value)} ({number(k)}/{number(row['n'])}; {interval(low, high)})"


def render_markdown(summary: Mapping[str, Any]) -> str:
    """Return the report as Markdown.

    Args:
        summary: what ``summarise`` returned.
    """
    sections = (_top, _comparison, _trust, _brackets, shift_blocks, _curve, _attacks, _classes, _worst, _methods)
    return "\n\n".join(block for section in sections for block in section(summary)) + "\n"


def _at(summary: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    names = {(threat["norm"], threat["epsilon"]): threat["name"] for threat in summary["threats"]}
    return safe(names.get((row["norm"], row["epsilon"])) or place(row["norm"], row["epsilon"]))


def _top(summary: Mapping[str, Any]) -> Iterator[str]:
    yield f"# Robustness of {safe(', '.join(model['name'] for model in summary['models']))} on {safe(summary['data']['name'])}"
    yield from card_blocks(summary)
    for model in summary["models"]:
        for threat in model["threats"]:
            yield f"**{safe(threat['trust']['sentence'])}** ({safe(model['name'])}, {safe(threat['name'])})"
    yield "\n".join(f"- **{item['level']}**: {safe(item['message'])}" for item in summary["warnings"])
    yield "## Result"
    for model in summary["models"]:
        yield f"**{safe(model['name'])}**: {safe(model['sentence'])}"
    head = [
        "Model",
        "Clean accuracy",
        *(
            head
            for place, t in enumerate(summary["threats"])
            for head in (
                f"Robust accuracy, {safe(t['name'])}",
                *(f"Certified, {safe(c['name'])}" for c in summary["models"][0]["threats"][place]["certified"]),
            )
        ),
        "Rows/sample, fwd / bwd",
    ]
    yield table(
        head,
        (
            [
                safe(model["name"]),
                rate(model["clean_accuracy"]),
                *(rate(r) for t in model["threats"] for r in (t["robust_accuracy"], *t["certified"])),
                "; ".join(
                    f"{number(t['cost']['forward'])} / {number(t['cost']['backward'])}" for t in model["threats"]
                ),
            ]
            for model in summary["models"]
        ),
    )
    yield (
        "Clean accuracy: correct / all. Robust accuracy: (correct, and broken by no attack of the suite) / all. In "
        "brackets: count, and exact 95 % interval."
    )


def _comparison(summary: Mapping[str, Any]) -> Iterator[str]:
    if not summary["comparisons"]:
        return
    yield "## Paired comparison"
    rows = []
    for pair in summary["comparisons"]:
        row = [safe(pair["first"]), safe(pair["second"]), _at(summary, pair), number(pair["n"])]
        if pair["reason"]:
            rows.append([*row, "**withheld**", "–", "–", "–"])
            continue
        difference = f"{100 * pair['difference']:+.1f}".replace("-", "−")
        rows.append(
            [
                *row,
                f"{difference} ({interval(pair['low'], pair['high'])})",
                number(pair["only_first"]),
                number(pair["only_second"]),
                f"{p_value(pair['p'])} ({p_value(pair['p_holm'])})",
            ]
        )
    head = ["First", "Second", "Threat", "n", "Difference, points", "Only first", "Only second", "p (Holm)"]
    yield table(head, rows)


def _trust(summary: Mapping[str, Any]) -> Iterator[str]:
    judged = [(m, t) for m in summary["models"] for t in m["threats"] if t["trust"]["verdict"]]
    if judged:
        yield "## Can it be trusted?"
    for model, threat in judged:
        found = threat["trust"]
        yield f"### {safe(model['name'])}, {safe(threat['name'])}: {found['verdict']}"
        yield "\n".join(f"- {safe(reason)}" for reason in found["why"])
        yield table(
            ["Check", "Result", "Measured", "Weight", "Rows, fwd / bwd"],
            (
                [
                    safe(check["name"]),
                    check["verdict"],
                    safe(check["evidence"]),
                    str(check["weight"] or ""),
                    f"{number(check['forward'])} / {number(check['backward'])}",
                ]
                for check in found["checks"]
            ),
        )


def _brackets(summary: Mapping[str, Any]) -> Iterator[str]:
    for entry in summary["brackets"]:
        yield f"## How far, how sure: {safe(entry['model'])}, {_at(summary, entry)}"
        yield safe(entry["sentence"])
        yield table(
            ["Sample", "Class", "Certified", "Estimate", "Nearest example", "Found by", "Against the estimate"],
            (
                [
                    str(row["sample"]),
                    safe(row["class_name"]),
                    *(number(row[name], 4) for name in ("certified", "estimate", "nearest")),
                    safe(row["attack"] or "–"),
                    safe("; ".join([*row["flags"], *([row["failed"]] if row["failed"] else [])])),
                ]
                for row in entry["rows"]
            ),
        )


def _curve(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Accuracy against epsilon"
    rows = ({**point, "value": point["accuracy"]} for point in summary["curve"])
    yield table(
        ["Model", "Norm", "Epsilon", "Accuracy"],
        ([safe(row["model"]), safe(row["norm"]), number(row["epsilon"], 4), rate(row)] for row in rows),
    )


def _attacks(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Attack by attack"
    head = ["Model", "Threat", "Attack", "Attempted", "Broken", "Success rate", "Left", "Left, cumulative"]
    head += ["Median distance", "Survive 8 bits", "Hold alone", "Rows, fwd / bwd"]
    yield table(
        head,
        (
            [
                safe(row["model"]),
                _at(summary, row),
                safe(row["label"]) + (" (noise floor)" if row["floor"] else ""),
                number(row["attempted"]) + (f" (+ {row['failed']} failed)" if row["failed"] else ""),
                number(row["broken"]),
                f"{percent(row['success_rate'])} ({interval(row['success_low'], row['success_high'])})",
                percent(row["robust_alone"]),
                percent(row["robust_cumulative"]),
                number(row["median_distance"]),
                _counted(row, "survives_8bit", "survives_k", "broken"),
                _counted(row, "survives_alone", "alone_k", "alone_n"),
                f"{number(row['forward'])} / {number(row['backward'])}",
            ]
            for row in summary["attacks"]
        ),
    )


def _counted(row: Mapping[str, Any], share: str, k: str, n: str) -> str:
    return percent(row[share]) + (f" ({number(row[k])} / {number(row[n])})" if row[k] is not None else "")


def _classes(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Class by class"
    yield table(
        ["Model", "Threat", "Class", "Clean accuracy", "Robust accuracy"],
        (
            [safe(row["model"]), _at(summary, row), safe(row["class_name"]), rate(row, "clean"), rate(row, "robust")]
            for row in summary["per_class"]
        ),
    )


def _worst(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Samples that break first"
    if not summary["worst"]:
        yield "No sample was broken."
        return
    yield table(
        ["Model", "Threat", "Sample", "Class", "Seen as", "Distance", "Clean margin", "Attack"],
        (
            [
                safe(row["model"]),
                _at(summary, row),
                str(row["sample"]),
                safe(row["class_name"]),
                safe(row["adv_class_name"]),
                number(row["distance"], 4),
                number(row["clean_margin"]),
                safe(row["label"]),
            ]
            for row in summary["worst"]
        ),
    )


def _methods(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## What was run"
    data, env, total = summary["data"], summary["environment"], summary["cost_total"]
    facts = [
        ("Plan", safe(summary["plan_id"])),
        ("Seed, suite", f"{summary['seed']}, {safe(summary['suite'])}"),
        (
            "Data",
            safe(f"{data['name']} ({data['source']}), selection {data['selection']}, sha-256 {data['fingerprint']}"),
        ),
        *(("Model", safe(f"{m['name']} ({m['source']}), sha-256 {m['fingerprint']}")) for m in summary["models"]),
        *(
            (
                f"Rows, {name}",
                f"{number(total['counted'][name])} counted, {number(total['forecast'][name])} forecast at most",
            )
            for name in ("forward", "backward")
        ),
        ("Duration, device", f"{duration(env['seconds'])}, {safe(env['device'] or 'not recorded')}"),
        ("Versions", safe(", ".join(f"{name} {version}" for name, version in (env["versions"] or {}).items()))),
    ]
    yield "\n".join(f"- {name}: {text}" for name, text in facts)
    yield table(
        ["Attack", "Version", "Parameters", "Source"],
        (
            [safe(m["label"]), str(m["version"]), safe(parameters(m["parameters"])), safe(m["source"])]
            for m in summary["methods"]
        ),
    )
