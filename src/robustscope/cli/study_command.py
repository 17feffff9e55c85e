"""``robustscope study``: what many models have in common, and what goes along with robustness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from robustscope.cli.common import Bar, Json, Quiet, Whole, asked_workers, cores, emit, model_spec, out

MOST_LINES = 12


def command(
    models: Annotated[
        tuple[str, ...],
        Parameter(help="SOURCE or NAME=SOURCE, two or more; a correlation needs four.", metavar="MODEL"),
    ],
    /,
    *,
    data: Annotated[str, Parameter(help="Data source, e.g. digits, mnist:FOLDER, cifar10:FILE.")],
    out_: Annotated[Path, Parameter(name="--out", help="Folder to write; the same command resumes it.")] = Path(
        "study"
    ),
    threat: Annotated[str, Parameter(help="Where probes look: NORM:EPSILON, finite.")] = "linf:8/255",
    samples: Annotated[str, Parameter(help="Which samples, as for `evaluate`.")] = "500",
    seed: Annotated[Whole, Parameter(help="Decides samples and random draws.")] = 0,
    probes: Annotated[
        tuple[str, ...],
        Parameter(
            help="Probe of `robustscope list why`; may be repeated. All that fit if left out.", show_default=False
        ),
    ] = (),
    full: Annotated[
        bool,
        Parameter(help="Run probes with their own parameters, not the shorter ones for studies.", show_default=False),
    ] = False,
    pictures: Annotated[Whole, Parameter(help="Samples whose maps and landscapes are kept and drawn.")] = 4,
    evaluated: Annotated[
        tuple[Path, ...],
        Parameter(
            help="Run folder of `evaluate` with these models, for robust accuracy; repeatable.", show_default=False
        ),
    ] = (),
    properties: Annotated[
        tuple[str, ...],
        Parameter(help="Property to correlate, such as saliency.gradient_gini; repeatable.", show_default=False),
    ] = (),
    given: Annotated[
        tuple[str, ...], Parameter(help="Property held fixed, such as clean_accuracy; repeatable.", show_default=False)
    ] = (),
    workers: Annotated[Whole | None, Parameter(help="Processes; as many as cores if left out.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Run all probes of causes on all models, and correlate what they find across the models.

    The folder then holds tables (models.csv, correlations.csv, expectations.csv), figures as PNG and SVG, and study.html.
    A study that was killed goes on with the same command.
    """
    asked = asked_workers(workers) if workers is not None else cores()

    from robustscope.reports.formats import native
    from robustscope.reports.study import write_study
    from robustscope.runs.study import Study, StudyRequest, run_study

    specs = [model_spec(text) for text in models]
    named = tuple((spec.name or Path(spec.source.rpartition(":")[2]).stem, str(spec.source)) for spec in specs)
    request = StudyRequest(named, data, threat, samples, seed, probes, full, pictures)
    study = Study(request, out_)
    with Bar(quiet or json) as bar:
        run_study(
            study,
            workers=asked,
            begin=lambda done, total: bar.show(f"study of {len(named)} models", done, total),
            report=bar.advance,
        )
    found = write_study(out_, evaluated=evaluated, properties=properties, given=given, seed=seed)
    expected = found["expected"]
    if json:
        emit(
            {
                "out": str(out_),
                "models": len(found["table"]),
                "expectations": native(expected.to_dict("records")),
                "gaps": [{"model": m, "probe": p, "reason": why} for (m, p), why in found["errors"].items()],
            }
        )
        return 0
    known = expected[expected["value"].notna()]
    table = Table("property", "expected", "correlation with robustness", "95 % interval", "agrees")
    for _, row in known.reindex(known["value"].abs().sort_values(ascending=False).index).head(MOST_LINES).iterrows():
        table.add_row(
            row["property"],
            row["expected"],
            f"{row['value']:+.2f}",
            f"{row['low']:+.2f} to {row['high']:+.2f}",
            row["agrees"],
        )
    out.print(f"{len(found['table'])} models, {len(study.ids)} samples, {len(study.cards)} probes", markup=False)
    out.print(table)
    if found["errors"]:
        out.print(f"gaps: {len(found['errors'])} probes could not be run; the page says why", markup=False)
    out.print(f"page: {found['page']}", markup=False)
    return 0
