"""``robustscope plan``: say what would run and what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from robustscope.cli.common import Json, emit, out
from robustscope.cli.evaluate_command import (
    FLAT,
    Attacks,
    ConfigFile,
    Data,
    ModelOptions,
    Models,
    RunOptions,
    Threats,
    configure,
    describe,
)

USAGE = """Usage: robustscope plan MODEL... --data DATA [OPTIONS]
       robustscope plan --config FILE.toml [OPTIONS]"""


def command(
    models: Models = (),
    /,
    *,
    data: Data = None,
    threat: Threats = (),
    attack: Attacks = (),
    out_: Annotated[Path | None, Parameter(name="--out", help="Write the plan into this run folder.")] = None,
    config: ConfigFile = None,
    options: Annotated[RunOptions, FLAT] = RunOptions(),
    model_options: Annotated[ModelOptions, FLAT] = ModelOptions(),
    json: Json = False,
) -> int:
    """Plan an evaluation without running it: cells, shards, and the most rows it can cost.

    With --out the plan is written, and any number of `robustscope run FOLDER` processes carry it out.
    """
    asked = configure(models, data, threat, attack, options, model_options, config)
    from robustscope.runs.plan import make_plan
    from robustscope.runs.session import start
    from robustscope.runs.shift_plans import rows_of
    from robustscope.runs.store import portable

    plan = make_plan(asked)
    if out_ is not None:
        start(plan, out_)
    if json:
        emit(portable(plan))
        return 0
    out.print(f"plan {plan['id']}: {describe(plan)}", markup=False)
    table = Table("cell", "model", "norm", "epsilon", "attack", "version", "parameters")
    for cell in plan["cells"]:
        parameters = ", ".join(f"{key}={value}" for key, value in cell["parameters"].items())
        row = (cell["index"], cell["model"], cell["norm"], f"{cell['epsilon']:.6g}", cell["attack"], cell["version"])
        table.add_row(*(Text(str(value)) for value in (*row, parameters)))
    out.print(table)
    for measure in plan.get("measures", ()):
        where = f"{measure['norm']} {measure['epsilon']:.6g} on {measure['samples']} samples of {measure['model']}"
        how = "" if measure["kind"] == measure["method"] else f" by {measure['method']}"
        out.print(f"beside attacks: {measure['kind']}{how} at {where}", markup=False)
    for shift in plan.get("shifts", ()):
        how = f"made at the constants {shift['constants']}" if "sources" not in shift else "read from the disk"
        out.print(
            f"beside attacks: shifts {shift['name']}, {len(shift['parts'])} parts, {how}, on {shift['samples']:,} samples: "
            f"{rows_of(plan, shift):,} rows forward, for which {shift['samples'] * sum(shift['frames']):,} pictures are made once",
            markup=False,
        )
    return 0
