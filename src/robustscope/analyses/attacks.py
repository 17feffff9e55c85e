"""What each attack did: attempted, broken, at which distance, at which cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import ANALYSES, FAILED, facts, frame, join, models
from robustscope.analyses.intervals import proportion

_CARD = {
    "cell": "Int64",
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "headline": "bool",
    "attack": "object",
    "label": "object",
    "version": "Int64",
    "floor": "bool",
}
COLUMNS = {
    **_CARD,
    "n": "Int64",
    "correct": "Int64",
    "inherited": "Int64",
    "attempted": "Int64",
    "broken": "Int64",
    "failed": "Int64",
    "success_rate": "Float64",
    "success_low": "Float64",
    "success_high": "Float64",
    "robust_alone": "Float64",
    "robust_cumulative": "Float64",
    "median_distance": "Float64",
    "max_distance": "Float64",
    "survives_8bit": "Float64",
    "survives_k": "Int64",
    "survives_alone": "Float64",
    "alone_k": "Int64",
    "alone_n": "Int64",
    "forward": "Float64",
    "backward": "Float64",
}
_SHARES = (
    "success_rate",
    "success_low",
    "success_high",
    "robust_alone",
    "robust_cumulative",
    "survives_8bit",
    "survives_alone",
)


@ANALYSES.register(
    "attacks",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 5",
    ranges=dict.fromkeys(_SHARES, (0.0, 1.0)),
    direction={"success_rate": "lower is more robust", "robust_alone": "higher is more robust"},
    columns=COLUMNS,
)
def attacks(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Compute what each cell (model, radius, attack) attempted and broke.

    Returns:
        One row for each cell:
        ``correct`` samples of ``n`` that the model classifies correctly, of which ``inherited`` were broken at a smaller
        radius of the same norm and ``attempted`` were attacked here; ``success_rate`` = broken / attempted, with its
        95 % interval;
        ``robust_alone``: accuracy left by this attack together with what smaller radii had broken, / n;
        ``robust_cumulative``: accuracy left by this and all attacks before it in the same norm, / n;
        ``median_distance`` and ``max_distance`` of the broken, in the cell's norm; ``survives_8bit``: the share of the
        broken that stays broken after rounding to 8 bits; ``survives_alone``: of the examples that fooled the model in
        their batch the share that does so alone too (``alone_k`` of ``alone_n``); ``forward``, ``backward``: rows for each attempted sample.
        What cannot be known (nothing attempted, or an attack failed) is a gap.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
    """
    rows = join(table, plan)
    known = facts(rows)
    present = set(models(rows, plan))
    cells = [cell for cell in plan["cells"] if cell["model"] in present and "subset" not in cell]
    return frame((_cell(rows, known, cell) for cell in cells), COLUMNS)


def _cell(rows: pd.DataFrame, known: pd.DataFrame, cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of :func:`attacks`."""
    mine = rows[rows["cell"] == cell["index"]]
    clean = known.loc[cell["model"], "clean_correct"]
    tried = mine[(mine["status"] == "ok") & mine["clean_correct"].fillna(False)]
    won = tried[tried["success"]]
    rate, low, high = proportion(len(won), len(tried)) if len(tried) else (None, None, None)
    same = rows[(rows["model"] == cell["model"]) & (rows["norm"] == cell["norm"])]
    smaller = same[same["epsilon"] < cell["epsilon"]]
    before = same[(same["epsilon"] == cell["epsilon"]) & (same["cell"] < cell["index"])]
    broken_before = clean.index[clean.fillna(False)].isin(smaller.loc[smaller["success"], "sample"])
    survives = won["survives_8bit"].astype("boolean") if "survives_8bit" in won else pd.Series(dtype="boolean")
    measured = len(won) > 0 and len(survives) == len(won) and not survives.isna().any()
    alone = (
        tried["survives_alone"].astype("boolean").dropna() if "survives_alone" in tried else pd.Series(dtype="boolean")
    )
    seen = len(alone) > 0 and bool(won.index.isin(alone.index).all())
    return {
        **{name: cell[name] for name in _CARD if name != "cell"},
        "cell": cell["index"],
        "n": len(clean),
        "correct": None if clean.isna().any() else int(clean.sum()),
        "inherited": int(broken_before.sum()),
        "attempted": len(tried),
        "broken": len(won),
        "failed": int(mine["status"].isin(FAILED).sum()),
        "success_rate": rate,
        "success_low": low,
        "success_high": high,
        "robust_alone": _left(clean, pd.concat([smaller, mine])),
        "robust_cumulative": _left(clean, pd.concat([smaller, before, mine])),
        "median_distance": float(won["distance"].median()) if len(won) else None,
        "max_distance": float(won["distance"].max()) if len(won) else None,
        "survives_8bit": int(survives.sum()) / len(won) if measured else None,
        "survives_k": int(survives.sum()) if measured else None,
        "survives_alone": int(alone.sum()) / len(alone) if seen else None,
        "alone_k": int(alone.sum()) if seen else None,
        "alone_n": len(alone) if seen else None,
        "forward": float(tried["forward"].sum()) / len(tried) if len(tried) else None,
        "backward": float(tried["backward"].sum()) / len(tried) if len(tried) else None,
    }


def _left(clean: pd.Series, rows: pd.DataFrame) -> float | None:
    """Return the share of all samples that is correct and that none of ``rows`` broke; a gap if any of them failed."""
    if clean.isna().any() or rows["status"].isin(FAILED).any():
        return None
    kept = clean.astype(bool) & ~clean.index.isin(rows.loc[rows["success"], "sample"])
    return int(kept.sum()) / len(clean)
