"""Clean and robust accuracy of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import ANALYSES, class_name, facts, frame, join, models, radii, verdict, why_withheld
from robustscope.analyses.accuracy import COLUMNS as ACCURACY_COLUMNS
from robustscope.analyses.intervals import proportion

COLUMNS = {
    **{name: ACCURACY_COLUMNS[name] for name in ("model", "norm", "epsilon")},
    "y": "Int64",
    "class_name": "object",
    **{name: dtype for name, dtype in ACCURACY_COLUMNS.items() if name not in ("model", "norm", "epsilon", "headline")},
}


@ANALYSES.register(
    "per_class",
    version=1,
    source="Benz et al., 2021, arXiv:2010.13365 (robustness differs between classes)",
    ranges={name: (0.0, 1.0) for name in COLUMNS if name.endswith(("_accuracy", "_low", "_high"))},
    direction={"clean_accuracy": "neither", "robust_accuracy": "higher is more robust"},
    columns=COLUMNS,
)
def per_class(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Compute clean and robust accuracy by true class, at the headline radii.

    Returns:
        One row for each model, headline radius and class that occurs; n counts the samples of that class. Robust
        accuracy is a gap for every class while an attack that counts at the radius failed.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
    """
    rows = join(table, plan)
    known = facts(rows)
    found = []
    for model in models(rows, plan):
        for norm, epsilon, headline in radii(plan, model):
            if not headline:
                continue
            reason = why_withheld(rows, plan, model, norm, epsilon)
            verdicts = verdict(rows, known, model, norm, epsilon)
            for y in sorted(int(y) for y in verdicts["y"].unique()):
                part = verdicts[verdicts["y"] == y]
                clean_k = None if part["clean_correct"].isna().any() else int(part["clean_correct"].sum())
                robust_k = None if reason else int(part["robust"].sum())
                row: dict[str, Any] = {"model": model, "norm": norm, "epsilon": epsilon, "n": len(part)}
                row |= {"y": y, "class_name": class_name(plan, model, y), "reason": reason}
                for name, k in (("clean", clean_k), ("robust", robust_k)):
                    value, low, high = proportion(k, len(part))
                    row |= {f"{name}_k": k, f"{name}_accuracy": value, f"{name}_low": low, f"{name}_high": high}
                found.append(row)
    return frame(found, COLUMNS)
