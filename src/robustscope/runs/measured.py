"""What is stored of measures: certificates, certified radii, estimates, probes. No torch here.

One row for each (measure, sample), in shards beside those of attacks. ``holds`` and ``value`` are, for each kind:

- *certificate*: whether the sample is verified at the radius, and the lower bound of its margin;
- *radius*: nothing, and the largest radius at which it was verified;
- *estimate*: nothing, and the estimated radius; ``detail`` has the fit;
- *trust*: whether no probe speaks against the sample, and how many do; ``detail`` names them.

``detail`` is JSON. A misclassified sample is skipped; one whose measure failed is a row in error, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from robustscope.runs.store import read_plan, read_shards

COLUMNS: dict[str, str] = {
    "shard": "INTEGER",
    "measure": "INTEGER",
    "sample": "BIGINT",
    "y": "BIGINT",
    "status": "VARCHAR",
    "note": "VARCHAR",
    "clean_correct": "BOOLEAN",
    "holds": "BOOLEAN",
    "value": "DOUBLE",
    "detail": "VARCHAR",
    "forward": "BIGINT",
    "backward": "BIGINT",
}
KINDS = ("certificate", "radius", "estimate", "trust")


def read_measures(run: str | Path) -> pd.DataFrame:
    """Read the rows of all measures of a finished run, in the order of (measure, sample); none if it has no measures.

    Raises:
        CorruptRun: if a shard is missing or damaged, or a row is missing, doubled or foreign to the plan.
    """
    run = Path(run)
    plan = read_plan(run)
    parts = read_shards(run, plan, [shard for shard in plan["shards"] if "measures" in shard], COLUMNS)
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    for name in ("clean_correct", "holds"):
        table[name] = table[name].astype("boolean")
    return table.sort_values(["measure", "sample"], kind="stable", ignore_index=True)


def certified(plan: Mapping[str, Any], measured: pd.DataFrame, model: str, norm: str, epsilon: float) -> set[int]:
    """Return the samples that are proved to have no adversarial example within ``epsilon`` of a norm.

    Certificates at this radius or a larger one count, and so do certified radii; those that hold with a confidence only do
    not.

    Args:
        plan: plan of the run.
        measured: what :func:`read_measures` returned.
        model, norm, epsilon: whose.
    """
    proofs: set[int] = set()
    for measure in plan.get("measures", ()):
        if (measure["model"], measure["norm"]) != (model, norm) or measure.get("sound") != "deterministic":
            continue
        rows = measured[(measured["measure"] == measure["index"]) & (measured["status"] == "ok")]
        if measure["kind"] == "certificate" and measure["epsilon"] >= epsilon:
            proofs |= set(rows.loc[rows["holds"].fillna(False).astype(bool), "sample"].tolist())
        elif measure["kind"] == "radius":
            proofs |= set(rows.loc[rows["value"] >= epsilon, "sample"].tolist())
    return proofs
