"""Automatic flags that the table itself raises: signs that the attacks were not what this model needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import ANALYSES, facts, frame, join, models, radii

COLUMNS = {
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "headline": "bool",
    "flag": "object",
    "count": "Int64",
    "of": "Int64",
    "share": "Float64",
    "limit": "Float64",
    "raised": "bool",
}
LIMITS = {
    "black box beyond white box": 0.002,
    "targeted beyond untargeted": 0.1,
    "nothing moved": 0.05,
    "distance zero": 0.0,
}
"""flag -> share above which it is raised; the first is AutoAttack's own for Square."""
SAME = 1e-6
"""Margins that differ by less, relative to the larger of 1 and their size, are the same."""
WITHOUT_GRADIENTS = ("scores", "decisions", "none")


@ANALYSES.register(
    "flags",
    version=1,
    source="Croce & Hein, 2020, AutoAttack's flags; Carlini et al., 2019, arXiv:1902.06705, Sec. 5",
    ranges={"share": (0.0, 1.0)},
    direction={"share": "neither"},
    columns=COLUMNS,
)
def flags(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Look for signs of masked gradients, of losses that mislead, and of predictions that are not reproducible.

    Returns:
        One row for each model, radius and flag, whether it is ``raised`` or not; ``share`` = count / of, ``raised`` where it
        is above ``limit``.
        *black box beyond white box*: samples that attacks without gradients broke after all attacks with gradients that
        ran before them had failed, of all samples;
        *targeted beyond untargeted*: samples that targeted attacks broke, of those that untargeted attacks with
        gradients had left to them;
        *nothing moved*: survivors whose margin no attack with gradients changed at all, of all survivors of such;
        *distance zero*: correctly classified samples that are misclassified at distance 0, of all that were broken.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
    """
    rows = join(table, plan)
    known = facts(rows)
    cells = pd.DataFrame(plan["cells"]).reindex(columns=["index", "attack", "access", "aim"])
    rows = rows.merge(cells.rename(columns={"index": "cell"}), on="cell", how="left")
    found = []
    for model in models(rows, plan):
        mine = rows[rows["model"] == model]
        n = len(known.loc[model])
        for norm, epsilon, headline in radii(plan, model):
            here = mine[(mine["norm"] == norm) & (mine["epsilon"] == epsilon)]
            place = {"model": model, "norm": norm, "epsilon": epsilon, "headline": headline}
            for flag, count, of in _counts(here[here["status"] == "ok"], n, epsilon):
                share, limit = (count / of if of else None), LIMITS[flag]
                raised = share is not None and share > limit
                found.append(
                    {**place, "flag": flag, "count": count, "of": of, "share": share, "limit": limit, "raised": raised}
                )
    return frame(found, COLUMNS)


def _counts(rows: pd.DataFrame, n: int, epsilon: float) -> Iterator[tuple[str, int, int]]:
    """Yield (flag, count, of) for the rows of one model at one radius that were attacked."""
    gradients = rows[rows["access"] == "gradients"]
    first = gradients["cell"].min() if len(gradients) else float("inf")
    later = rows[rows["access"].isin(WITHOUT_GRADIENTS) & (rows["cell"] > first)]
    yield "black box beyond white box", int(later["success"].sum()), n
    aimed = gradients["attack"].str.endswith("_targeted")
    untargeted = gradients.loc[~aimed, "cell"].min() if (~aimed).any() else float("inf")
    targeted = gradients[aimed & (gradients["cell"] > untargeted)]
    yield "targeted beyond untargeted", int(targeted["success"].sum()), int(targeted["sample"].nunique())
    fixed = gradients[(gradients["aim"] == "fixed-epsilon") & ~gradients["success"]] if epsilon > 0 else gradients[:0]
    scale = fixed["clean_margin"].abs().clip(lower=1.0)
    same = (fixed["adv_margin"] - fixed["clean_margin"]).abs() <= SAME * scale
    yield "nothing moved", int(same.groupby(fixed["sample"]).all().sum()), int(fixed["sample"].nunique())
    broken = rows[rows["success"] & rows["clean_correct"].fillna(False)]
    yield "distance zero", int((broken["distance"] == 0).sum()), len(broken)
