"""The page: one self-contained HTML file. No script, no network, every text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustscope.reports import formats
from robustscope.reports.bracket_figures import bracket_figures
from robustscope.reports.figures import DASHES, SERIES, figures
from robustscope.reports.gallery import Picture
from robustscope.reports.shifts import heat_map

MOST_CLASSES = 20
MOST_PAIRS = 12
MOST_CAUTIONS = 8
_TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Return the Jinja environment: escapes everything, and an unknown name is an error."""
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "interval", "number", "points", "p_value", "duration", "parameters", "plain"):
        env.filters[name] = getattr(formats, name)
    return env


def style() -> Markup:
    """Return the style sheet as it stands inside the page; ours alone, so it needs no escaping."""
    return Markup(_TEMPLATES.joinpath("report.css").read_text(encoding="utf-8"))


def policy(css: str) -> str:
    """Return the content security policy: nothing but our own style sheet, by its hash, and embedded pictures."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def page(template: str, **context: Any) -> str:
    """Return another page of the same style; ``svg`` texts of this package must come marked as safe."""
    css = style()
    return environment().get_template(template).render(css=css, policy=policy(css), **context)


def render_html(summary: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> str:
    """Return the page.

    Args:
        summary: what ``summarise`` returned.
        pictures: the pictures of ``summary["gallery"]``, in its order.
    """
    drawn = figures(summary)
    for group in drawn.values():
        for figure in group:
            figure["svg"] = Markup(figure["svg"])
    order = [model["name"] for model in summary["models"]]
    drawn["shifts"] = [_heat_maps(shift, place) for place, shift in enumerate(summary["shifts"])]
    drawn["brackets"] = [{kind: svg and Markup(svg) for kind, svg in one.items()} for one in bracket_figures(summary)]
    return page(
        "report.html.j2",
        summary=summary,
        figures=drawn,
        gallery=_by_model(pictures),
        classes=class_tables(summary),
        hidden_classes=max((len(t["rows"]) for t in class_tables(summary, most=None)), default=0) - MOST_CLASSES,
        pairs=summary["comparisons"][:MOST_PAIRS],
        place=formats.place,
        colour={name: index % len(SERIES) for index, name in enumerate(order)},
        dash={name: (index // len(SERIES) + index) % len(DASHES) for index, name in enumerate(order)},
        cautions=_cautions(summary["warnings"]),
        attack_groups=_grouped(summary["attacks"]),
        worst_groups=_grouped(summary["worst"]),
        names={(threat["norm"], threat["epsilon"]): threat["name"] for threat in summary["threats"]},
    )


def _heat_maps(shift: Mapping[str, Any], place: int) -> dict[str, Markup]:
    """Return model -> the heat map of its accuracy, for shifts of several cells."""
    if shift["kind"] == "sequences" or shift["parts"] < 2:
        return {}
    told = [model for model in shift["models"] if not model["reason"]]
    return {model["model"]: Markup(heat_map(model, f"shift{place}x{at}")) for at, model in enumerate(told)}


def _cautions(items: Sequence[Mapping[str, str]]) -> dict[str, list[Mapping[str, str]]]:
    """Return what stays open (every error, the first warnings, and what robust accuracy means) and what is folded."""
    if len(items) <= MOST_CAUTIONS:
        return {"open": list(items), "folded": []}
    first = [item for index, item in enumerate(items) if item["level"] == "error" or index < MOST_CAUTIONS - 1]
    last = [item for item in items if "upper bound" in item["message"] and item not in first]
    shown = first + last
    return {"open": shown, "folded": [item for item in items if item not in shown]}


def _grouped(rows: Sequence[Mapping[str, Any]]) -> list[tuple[tuple[Any, ...], list[Mapping[str, Any]]]]:
    """Return rows by (model, norm, epsilon), in their order."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["norm"], row["epsilon"]), []).append(row)
    return list(found.items())


def _by_model(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    names = dict.fromkeys(picture.facts["model"] for picture in pictures)
    return [{"model": name, "pictures": [p for p in pictures if p.facts["model"] == name]} for name in names]


def class_tables(summary: Mapping[str, Any], most: int | None = MOST_CLASSES) -> list[dict[str, Any]]:
    """Return the per-class rows, one table for each model and threat model; of many classes the least robust."""
    found = []
    for model in summary["models"]:
        for threat in model["threats"]:
            key = (model["name"], threat["norm"], threat["epsilon"])
            rows = [row for row in summary["per_class"] if (row["model"], row["norm"], row["epsilon"]) == key]
            if most is not None and len(rows) > most:
                ranked = sorted(rows, key=lambda row: (row["robust_accuracy"] is None, row["robust_accuracy"] or 0.0))
                rows = ranked[:most]
            found.append({"model": model["name"], "threat": threat["name"], "rows": rows})
    return found
