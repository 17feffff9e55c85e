"""Masked against unmasked as a table, with what must be said beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustscope.reports.formats import interval, number, percent
from robustscope.reports.formats import markdown as safe
from robustscope.reports.markdown import rate, table

SAID = {
    "none": "no mask",
    "foreground": "foreground",
    "dilated": "foreground, grown",
    "random": "as many pixels at random",
    "shifted": "the mask, moved",
    "foreground attacked": "no mask, foreground attacked",
    "saliency": "saliency of the clean input, fixed",
    "saliency attacked": "saliency, attacked too",
}


def render_masks(summary: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return the comparison as Markdown.

    Args:
        summary: what ``analyses.masks.mask_summary`` returned.
        title: of the page.
    """
    head = ["Mask", "Pixels", "Values attacked", "Clean accuracy", "Robust accuracy", "Above random, points"]
    body = []
    for row in summary:
        gain = row["gain"]
        gained = "–"
        if gain is not None:
            gained = f"{100 * gain['value']:+.1f} ({interval(gain['low'], gain['high'])})".replace("-", "−")
        line = [safe(SAID.get(row["kind"], row["kind"])), percent(row["share"]), number(row["dimension"])]
        body.append([*line, rate(row["clean"]), rate(row["robust"]), gained])
    blocks = [f"# Masks: {safe(title)}", table(head, body)]
    blocks.append(
        "The mask comes after the perturbation, and the attacker cannot change it. A smaller mask leaves fewer values to attack, "
        "so a gain means something beside as many pixels at random only."
    )
    kinds = {row["kind"] for row in summary}
    if "saliency" in kinds:
        attacked = "the line below it attacks the mask too" if "saliency attacked" in kinds else "attack the mask too"
        blocks.append(
            "Caution: the fixed saliency mask is that of the clean input, which a deployed network does not see; "
            + attacked
            + "."
        )
    return "\n\n".join(blocks) + "\n"
