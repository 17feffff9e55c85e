"""``robustscope report``: render a finished run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustscope.cli.common import Json, Run, emit, out


def command(
    run: Run,
    /,
    *,
    out_: Annotated[
        Path | None, Parameter(name="--out", help="Folder for the report; the run folder if left out.")
    ] = None,
    json: Json = False,
) -> int:
    """Write report.html, report.md and report.json from the record of a finished run."""
    from robustscope.reports import write_report

    written = write_report(run, out_)
    if json:
        emit({kind: str(path) for kind, path in written.items()})
    else:
        for path in written.values():
            out.print(str(path), markup=False)
    return 0
