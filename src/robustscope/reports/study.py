"""A study as files: tables, pictures as PNG and SVG, and one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from robustscope.analyses.correlation import correlations, matrix
from robustscope.analyses.study import (
    ASCENT,
    ROBUST,
    add_robust_accuracy,
    chosen_properties,
    expectations,
    study_table,
)
from robustscope.core.files import write_text
from robustscope.reports.figures import drawing, to_svg
from robustscope.reports.html import page
from robustscope.reports.study_figures import expectation_figure, matrix_figure, scatter_figure
from robustscope.reports.why_figures import decision_map, landscape_2d, landscape_3d, saliency_grid, save
from robustscope.runs.store import read_plan, read_table
from robustscope.runs.studied import Record, read_pictures, read_study

MOST_MODELS = 4
"""Models whose pictures stand in one figure."""
PANELS = 6
RESAMPLES, TRIALS = 999, 1999
"""Of the bootstrap and of the permutation test: of hundreds of pairs each takes tens of milliseconds."""


def write_study(
    folder: str | Path,
    *,
    evaluated: Sequence[str | Path] = (),
    properties: Sequence[str] = (),
    given: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Write tables, figures and the page of a finished study into its folder.

    Files: models.csv, correlations.csv, expectations.csv, study.html, and figures/ as PNG and SVG. The same study gives the
    same tables and the same page.

    Args:
        folder: of the study.
        evaluated: run folders of `evaluate` with models of the study, for their robust accuracy.
        properties: to correlate; those that a source expects to differ, and the accuracies, if there are none.
        given: properties held fixed, for instance "clean_accuracy".
        seed: of resamples and pairings.

    Returns:
        "table", "pairs" and "expected" as data frames, "page", the path of the page, and "errors": (model, probe) -> why
        it could not be run.

    Raises:
        MissingFile, CorruptRun: if the study or a run cannot be read.
        InvalidValue, UnknownName: for runs or properties that do not belong to the study.

    Of fewer than four models there are tables and pictures, and no correlations.
    """
    folder = Path(folder)
    record = read_study(folder)
    models = {name: model["fingerprint"] for name, model in record.request["models"].items()}
    table = study_table(record.rows, record.figures, list(models))
    if evaluated:
        runs = [(read_table(run), read_plan(run)) for run in evaluated]
        table = add_robust_accuracy(table, runs, models, record.request["threat"])
    names = [name for name in chosen_properties(table, record.facts, properties) if name not in given]
    pairs = correlations(table, names, given=given, resamples=RESAMPLES, trials=TRIALS, seed=seed)
    expected = expectations(table, record.facts, resamples=RESAMPLES, seed=seed)
    write_text(folder / "models.csv", table.to_csv(float_format="%.6g"))
    write_text(folder / "correlations.csv", pairs.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "expectations.csv", expected.to_csv(index=False, float_format="%.6g"))
    drawn = _figures(folder, record, table, pairs, expected)
    path = folder / "study.html"
    write_text(path, _page(record, table, pairs, expected, drawn, given))
    return {"table": table, "pairs": pairs, "expected": expected, "page": path, "errors": record.errors}


def _figures(
    folder: Path, record: Record, table: pd.DataFrame, pairs: pd.DataFrame, expected: pd.DataFrame
) -> list[dict[str, Any]]:
    """Draw everything, write it as PNG and SVG, and return title, explanation and inline SVG of each figure."""
    against = ROBUST if ROBUST in table.columns else ASCENT
    figures: list[tuple[str, str, str, Figure]] = []
    if pairs["value"].notna().any():
        words = "Rank correlations across the models, in hundredths. Bold: adjusted p-value of at most 0.05."
        drawn = matrix_figure(matrix(pairs), matrix(pairs, "p_adjusted"))
        figures.append(("matrix", "Which properties go together", words, drawn))
    known = expected[expected["value"].notna()]
    if len(known):
        figures.append(
            (
                "expectations",
                "What goes along with robustness, and what the sources expect",
                "Triangles point to the side that the source expects. Green: the 95 % interval agrees; red: it contradicts; "
                "grey: it holds 0.",
                expectation_figure(known),
            )
        )
        strongest = known.reindex(known["value"].abs().sort_values(ascending=False).index)["property"].tolist()
        figures.append(
            (
                "scatter",
                "The properties that go along with robustness most",
                "One point for each model.",
                scatter_figure(table, against, strongest[:PANELS]),
            )
        )
    figures += _pictures(folder, record, table, against)
    found = []
    for name, title, words, figure in figures:
        with drawing():
            svg = Markup(to_svg(figure, name, title))
        found.append({"name": name, "title": title, "words": words, "svg": svg})
        save(figure, folder / "figures" / name)
    return found


def _shown(table: pd.DataFrame, against: str) -> list[str]:
    """Return the models whose pictures are drawn: from the least to the most robust, evenly."""
    order = table[against].sort_values().index.tolist() if against in table else table.index.tolist()
    places = np.unique(np.linspace(0, len(order) - 1, min(MOST_MODELS, len(order))).round().astype(int))
    return [order[i] for i in places]


def _pictures(folder: Path, record: Record, table: pd.DataFrame, against: str) -> list[tuple[str, str, str, Figure]]:
    """Draw saliency maps and landscapes of some models."""
    figures: list[tuple[str, str, str, Figure]] = []
    models = _shown(table, against)
    stored = {name: found for name in models if (found := read_pictures(folder, name, "saliency"))}
    if stored:
        x = next(iter(stored.values()))["x"]
        maps = {name: found["picture/smoothgrad"] for name, found in stored.items()}
        if x.ndim == 4 and x.shape[1] in (1, 3):
            words = "SmoothGrad of the predicted logit; models from the least to the most robust."
            figures.append(("saliency", "Saliency maps", words, saliency_grid(x, maps)))
    stored = {name: found for name in models if (found := read_pictures(folder, name, "landscape"))}
    if stored:
        first = next(iter(stored.values()))
        ticks, place = first["axis/margin/0"], _telling([found["picture/margin"] for found in stored.values()])
        words = (
            f"Around sample {first['sample'][place]}, in units of epsilon; models from the least to the most robust."
        )

        def grids(kind: str) -> dict[str, np.ndarray]:
            return {name: found[f"picture/{kind}"][place] for name, found in stored.items()}

        figures += [
            (
                "margin",
                "Decision surfaces",
                f"The margin; the bold line is the boundary. {words}",
                landscape_2d(grids("margin"), ticks),
            ),
            ("loss", "Loss surfaces", f"Cross-entropy. {words}", landscape_3d(grids("loss"), ticks)),
            ("decisions", "Decision maps", f"The predicted class. {words}", decision_map(grids("decision"), ticks)),
        ]
    return figures


def _telling(margins: Sequence[np.ndarray]) -> int:
    """Return the sample in whose planes (N, n, n) the most models have a boundary; the first of several."""
    crossed = [(grid.min((1, 2)) < 0) & (grid.max((1, 2)) > 0) for grid in margins]
    return int(np.sum(crossed, axis=0).argmax())


def _page(
    record: Record,
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    expected: pd.DataFrame,
    drawn: Sequence[Mapping[str, Any]],
    given: Sequence[str],
) -> str:
    both = zip(pairs["first"], pairs["second"], strict=True)
    differ = np.array([a.partition(".")[0] != b.partition(".")[0] for a, b in both], dtype=bool)
    apart = pairs[pairs["p_adjusted"].notna().to_numpy() & differ]
    strong = apart.assign(size=apart["value"].abs()).sort_values(["p_adjusted", "size"], ascending=[True, False])
    return page(
        "study.html.j2",
        request=record.request,
        facts=record.facts,
        errors=[{"model": m, "probe": p, "why": why} for (m, p), why in record.errors.items()],
        table=_plain(table.reset_index()),
        columns=[name for name in table.columns if name in set(pairs["first"]) | set(pairs["second"])],
        pairs=_plain(strong.head(20)),
        evaluated=ROBUST in table.columns,
        expected=_plain(expected),
        figures=drawn,
        given=list(given),
    )


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table with None for gaps."""
    return [
        {str(key): None if value is None or value is pd.NA or value != value else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]
