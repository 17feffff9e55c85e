"""Shape bias by class: what decisions on pictures with two cues add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustscope.analyses._common import frame
from robustscope.analyses.intervals import proportion
from robustscope.core.errors import InvalidValue

COLUMNS = {
    "shape": "object",
    "n": "Int64",
    "as_shape": "Int64",
    "as_texture": "Int64",
    "as_other": "Int64",
    "shape_bias": "Float64",
    "low": "Float64",
    "high": "Float64",
    "reason": "object",
}


def cue_conflict(
    decisions: Sequence[int] | np.ndarray,
    shapes: Sequence[int] | np.ndarray,
    textures: Sequence[int] | np.ndarray,
    class_names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return how often the shape decides, over all pictures and for each class of the shape.

    The shape bias is N_shape / (N_shape + N_texture), over pictures whose cues conflict. Pictures on which both agree are
    left out, and decisions for neither count in ``as_other`` only.

    Args:
        decisions: (n,), classes decided for; any number that is no class, such as -1, is a decision for neither.
        shapes, textures: (n,), classes of the two cues.
        class_names: of the classes.

    Returns:
        One row for all pictures (``shape`` is None), then one for each class of the shape: ``n`` pictures in conflict, the
        three counts, the bias with its exact 95 % interval. Where no picture was decided by a cue, gaps and a ``reason``.

    Raises:
        InvalidValue: for arrays of different lengths, or none in conflict.

    Example:
        >>> cue_conflict([0, 1, 5, 0], [0, 0, 0, 0], [1, 1, 1, 0]).loc[0, ["n", "as_shape", "as_texture", "as_other"]].tolist()
        [3, 1, 1, 1]

    Source: Geirhos et al., 2019, arXiv:1811.12231, Sec. 2 and Fig. 4.
    """
    decided, shape, texture = (np.asarray(part) for part in (decisions, shapes, textures))
    conflict = shape != texture if shape.shape == texture.shape else np.zeros(0, bool)
    if decided.ndim != 1 or decided.shape != shape.shape or not conflict.any():
        raise InvalidValue(
            f"{decided.shape} decisions on {shape.shape} shapes and {texture.shape} textures were given",
            "one of each for each picture, and one or more whose cues differ, are allowed",
            "Give decisions, shapes and textures of the same pictures, in the same order.",
        )
    rows = [_row(None, decided[conflict], shape[conflict], texture[conflict])]
    for k in np.unique(shape[conflict]):
        mine = conflict & (shape == k)
        name = class_names[k] if class_names is not None else str(k)
        rows.append(_row(name, decided[mine], shape[mine], texture[mine]))
    return frame(rows, COLUMNS)


def _row(name: str | None, decided: np.ndarray, shape: np.ndarray, texture: np.ndarray) -> dict[str, Any]:
    k, other = int((decided == shape).sum()), int((decided == texture).sum())
    row: dict[str, Any] = {"shape": name, "n": len(decided), "as_shape": k, "as_texture": other}
    row |= {"as_other": len(decided) - k - other, "reason": None}
    value, low, high = proportion(k if k + other else None, k + other)
    row |= {"shape_bias": value, "low": low, "high": high}
    return row if k + other else row | {"reason": "no picture was decided by one of its cues"}
