"""Write the report of a run: ``report.json``, ``report.md``, ``report.html``."""

from __future__ import annotations

import json
from pathlib import Path

from robustscope.core.files import write_text
from robustscope.reports.html import render_html
from robustscope.reports.markdown import render_markdown
from robustscope.reports.summary import gather


def write_report(run: str | Path, out: str | Path | None = None) -> dict[str, Path]:
    """Render the stored record of a run three times: for machines, for terminals, for people.

    The same run gives the same bytes: nothing of the moment of writing goes in.

    Args:
        run: folder of a finished run.
        out: folder to write to, made if it is absent; the run's own when None.

    Returns:
        {"json": path, "md": path, "html": path}.

    Raises:
        MissingFile, CorruptRun: if the run cannot be read as a whole.
        StoreError: if the folder cannot be written.
    """
    run = Path(run)
    folder = run if out is None else Path(out)
    summary, pictures = gather(run)
    texts = {
        "json": json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "md": render_markdown(summary),
        "html": render_html(summary, pictures),
    }
    paths = {kind: folder / f"report.{kind}" for kind in texts}
    for kind, text in texts.items():
        write_text(paths[kind], text)
    return paths
