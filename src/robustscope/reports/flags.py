"""Automatic flags in words: what was measured of the models, and what the table shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robustscope.reports.formats import percent, plain

Caution = tuple[str, str]

MEANING = {
    "black box beyond white box": "attacks that use no gradients broke {count} of {of} samples after every attack with "
    "gradients had failed on them. Gradients mislead here: search longer without them (square with more queries), or adapt "
    "the attack to the model",
    "targeted beyond untargeted": "targeted attacks broke {count} of the {of} samples that untargeted ones had left. The "
    "untargeted losses mislead here: do not trust a suite without targeted attacks",
    "nothing moved": "the margin of {count} of {of} survivors is to the last digit what it was before the attacks with "
    "gradients: flat outputs or gradients that are exactly zero. Use attacks that need scores only, or a backward "
    "approximation of the flat layer",
    "distance zero": "{count} of {of} broken samples were classified correctly at first and wrongly at distance 0: the "
    "prediction is not a function of the input alone. Look for noise in the model or samples that influence each other",
}
RATIO_CLASSES = 3
FEW_CLASSES = 9


def flags(summary: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[Caution]:
    """Yield a caution for each flag that is raised.

    Args:
        summary: the summary so far; "flags" holds the rows of the analysis of that name.
        record: what truly ran; "flags" holds what was measured of the models.
    """
    for found in record.get("flags") or []:
        remedy = f" What helps: {plain(found['remedy'])}" if found.get("remedy") else ""
        yield "warning", f"Flag of {found['model']}, {found['name']}: {plain(found['message'])}.{remedy}"
    names = {(threat["norm"], threat["epsilon"]): threat["name"] for threat in summary["threats"]}
    for row in summary["flags"]:
        if row["raised"] and row["headline"]:
            where = f"{row['model']} at {names.get((row['norm'], row['epsilon']), row['norm'])}"
            text = MEANING[row["flag"]].format(count=f"{row['count']:,}", of=f"{row['of']:,}")
            yield "warning", f"Flag of {where}, {row['flag']} ({percent(row['share'])}): {text}."
    for model in summary["models"]:
        yield from _few_classes(summary, model)


def _few_classes(summary: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[Caution]:
    """Say what attacks made for ten classes become for fewer."""
    classes = model.get("num_classes") or 0
    run = {row["attack"] for row in summary["attacks"] if row["model"] == model["name"]}
    if not 2 <= classes <= FEW_CLASSES or not run & {"apgd_targeted", "fab_targeted"}:
        return
    lost = ["the targeted difference-of-logits ratio"] if classes <= RATIO_CLASSES else []
    lost += ["its untargeted form"] if classes < RATIO_CLASSES else []
    instead = f", and the plain margin takes the place of {' and of '.join(lost)}, not defined here" if lost else ""
    yield (
        "note",
        f"{model['name']} has {classes} classes: targeted attacks try at most the {classes - 1} other "
        f"{'class' if classes == 2 else 'classes'} instead of nine{instead}.",
    )
