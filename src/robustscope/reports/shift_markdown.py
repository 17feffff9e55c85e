"""The shifts of a report as Markdown: what the page says, without the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustscope.reports.formats import interval, number, percent, points
from robustscope.reports.formats import markdown as safe
from robustscope.reports.tables import table

Models = Sequence[Mapping[str, Any]]
BEYOND = (
    "Effective robustness: accuracy under the shifts less what the trend of all other models of this run, a line on logits, lets "
    "expect at the model's clean accuracy."
)


def card_blocks(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the card of the suite common."""
    if not summary["cards"]:
        return
    yield "## At a glance"
    names = [shift["name"] for shift in summary["shifts"]]
    head = ["Model", "Clean", "Attack", *(f"Shifts, {safe(name)}" for name in names), "Bracket of the radius"]
    rows = []
    for card in summary["cards"]:
        row = [safe(card["model"]), mean(card["clean"])]
        verdict = f", {card['verdict']}" if card["verdict"] else ""
        row.append(f"{mean(card['robust'])} at {safe(card['threat'])}{verdict}")
        for shift in card["shifts"]:
            row.append(f"{percent(shift['flips'])} flips" if shift["flips"] is not None else mean(shift))
        told = card["bracket"]
        rows.append([*row, f"{told['told']} (medians of {number(told['n'])})" if told else "–"])
    yield table(head, rows)


def shift_blocks(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the section on shifts."""
    for shift in summary["shifts"]:
        yield f"## Under shifts: {safe(shift['name'])}"
        made = f"made here, at the constants {shift['constants']}" if shift["made"] else "read from the disk"
        reference = ""
        if shift["reference"]:
            reference = f" Reference of ratios, and of differences in percentage points: {safe(shift['reference'])}."
        yield f"{shift['what'][0].upper()}{shift['what'][1:]}, {made}; {number(shift['n'])} images.{reference}"
        for told in shift["models"]:
            yield f"**{safe(told['model'])}**: {safe(told['sentence'])}."
        models = [told for told in shift["models"] if not told["reason"]]
        if models and not shift["outliers"]:
            yield from _sequences(models) if shift["kind"] == "sequences" else _corruptions(models)


def mean(rate: Mapping[str, Any]) -> str:
    """Return value and interval of a rate in one cell."""
    if rate["value"] is None:
        return "**withheld**"
    told = f"{percent(rate['value'])} ({interval(rate['low'], rate['high'])})"
    return told + (f"; {points(rate['difference'])}" if rate.get("difference") else "")


def _corruptions(models: Models) -> Iterator[str]:
    beyond = any(told["effective_robustness"] is not None for told in models)
    head = ["Model", "Clean", "Under the shifts", "mCE", "Relative mCE", "RMS calibration error", "AURRA"]
    yield table(
        head + (["Effective robustness, points"] if beyond else []),
        (
            [
                safe(told["model"]),
                mean(told["clean"]) if told["clean"] else "–",
                mean(told["shifted"]),
                percent(told["mce"]),
                percent(told["relative_mce"]),
                *(percent(told["shifted"][name]) for name in ("rms_calibration_error", "aurra")),
                *([points(told["effective_robustness"])] if beyond else []),
            ]
            for told in models
        ),
    )
    if beyond:
        yield BEYOND
    yield table(
        ["Accuracy", *(safe(told["model"]) for told in models)],
        (
            [safe(row["corruption"]), *(mean(told["corruptions"][place]) for told in models)]
            for place, row in enumerate(models[0]["corruptions"])
        ),
    )
    if len(models[0]["families"]) > 1:
        yield table(
            ["Family", *(safe(told["model"]) for told in models)],
            (
                [row["family"], *(mean(told["families"][place]) for told in models)]
                for place, row in enumerate(models[0]["families"])
            ),
        )


def _sequences(models: Models) -> Iterator[str]:
    yield table(
        ["Model", "Flips, mean", "mFR", "mT5D"],
        ([safe(told["model"]), *(percent(told[name]) for name in ("mean_flips", "mfr", "mt5d"))] for told in models),
    )
    yield table(
        ["Flips (top-5 distance)", *(safe(told["model"]) for told in models)],
        (
            [
                safe(row["sequence"]),
                *(f"{mean(told['sequences'][k])}; {number(told['sequences'][k]['top5'])}" for told in models),
            ]
            for k, row in enumerate(models[0]["sequences"])
        ),
    )
