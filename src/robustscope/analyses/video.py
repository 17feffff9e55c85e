"""Robustness to what changes between neighbouring frames of a video: pm-k, conditional accuracy, worst frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from robustscope.analyses.intervals import rate
from robustscope.core.errors import CorruptRun, InvalidValue

Labels = Literal["own", "anchor"]
LABELS: tuple[Labels, ...] = ("own", "anchor")
"""Whose labels a frame is judged by: its own, as ImageNet-Vid-Robust, or its anchor's, as YTBB-Robust and Gu."""
_NEEDED = ("anchor", "frame", "offset", "correct_own", "correct_anchor", "margin_own", "margin_anchor")


def pm_accuracy(rows: pd.DataFrame, k: int, labels: Labels = "own") -> dict[str, Any]:
    """Return the share of anchors that are right themselves and on every frame at most ``k`` away.

    An anchor without frames counts as right if it is right itself. pm-0 is benign accuracy.

    Args:
        rows: one for each (anchor, frame): anchor, frame, offset (0 for the anchor itself), correct_own and
            correct_anchor, margin_own and margin_anchor, as ``robustscope.runs.video.read_video`` returns them.
        k: frames before and after, >= 0.
        labels: "own" or "anchor"; the anchor itself is judged by its own labels under both.

    Returns:
        value, low, high, k, n with the exact 95 % interval; value, low, high and k are None where a frame has no label of
        its own.

    Raises:
        InvalidValue: for missing columns, k < 0, or other labels.
        CorruptRun: if an anchor has not exactly one row of offset 0, or a frame twice.

    Example:
        >>> rows = pd.DataFrame({"anchor": [0, 0], "frame": [0, 1], "offset": [0, 1], "correct_own": [True, False],
        ...                      "correct_anchor": [True, True], "margin_own": [1.0, -1.0], "margin_anchor": [1.0, 2.0]})
        >>> [pm_accuracy(rows, k, labels)["value"] for k, labels in ((0, "own"), (1, "own"), (1, "anchor"))]
        [1.0, 0.0, 1.0]

    Source: Shankar et al. 2019, arXiv:1906.02168, Sec. 3.
    """
    _check(rows, k, labels)
    return _rate(_held(rows, k, labels))


def worst_frames(rows: pd.DataFrame, k: int, labels: Labels = "own") -> pd.DataFrame:
    """Return for each anchor the frame at most ``k`` away on which the model does worst, the anchor among them.

    A wrong frame is worse than a right one; among these the smaller margin is worse (best logit of a right class minus
    best logit of another), then the frame nearer to the anchor, then the earlier one.

    Args:
        rows, k, labels: as for :func:`pm_accuracy`.

    Returns:
        The rows of these frames, one for each anchor in ascending order, with ``correct`` and ``margin`` under the
        convention and ``anchor_correct``, whether the anchor is right.

    Raises:
        InvalidValue: as :func:`pm_accuracy`, and where a frame has no label of its own.
        CorruptRun: as :func:`pm_accuracy`.
    """
    _check(rows, k, labels)
    near = _near(rows, k, labels)
    if near["correct"].isna().any():
        raise InvalidValue(
            f"{int(near['correct'].isna().sum())} frames have no label of their own",
            "labels='anchor' is allowed",
            "Label the frames, or judge them by their anchors' labels.",
        )
    anchors = near[near["offset"] == 0].set_index("anchor")["correct"]
    far = near.assign(away=near["offset"].abs(), correct=near["correct"].astype(bool))
    order = far.sort_values(["anchor", "correct", "margin", "away", "offset"], kind="stable")
    found = order.groupby("anchor", sort=True).head(1).drop(columns="away")
    return found.assign(anchor_correct=found["anchor"].map(anchors).astype(bool)).reset_index(drop=True)


def conditional_accuracy(
    rows: pd.DataFrame, labels: Labels = "anchor", resamples: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Return accuracy at each distance in time from an anchor, given that the anchor is right.

    Args:
        rows: as for :func:`pm_accuracy`.
        labels: "anchor", as in the paper, where an object keeps its label along its track; or "own".
        resamples: integers (R, n) in [0, n), n the number of anchors: with them comes a 95 % bootstrap interval over
            anchors, whose frames stay together.

    Returns:
        A row for each distance |offset| >= 1 in ascending order: distance, value, k, n (frames beside right anchors that
        have a label) and low, high, None without resamples. Distances without such a frame are left out.

    Raises:
        InvalidValue, CorruptRun: as :func:`pm_accuracy`.

    Source: Gu, Yang, Ngiam, Le, Shlens 2019, arXiv:1904.10076.
    """
    _check(rows, 0, labels)
    judged = _near(rows, None, labels)
    anchors = judged[judged["offset"] == 0].set_index("anchor")["correct"].astype(bool)
    order = {anchor: i for i, anchor in enumerate(anchors.index)}
    judged = judged[judged["anchor"].map(anchors).astype(bool) & (judged["offset"] != 0) & judged["correct"].notna()]
    found = []
    for distance, part in judged.groupby(judged["offset"].abs(), sort=True):
        place, right = part["anchor"].map(order).to_numpy(int), part["correct"].to_numpy(bool)
        hits, counts = (np.bincount(place, weights=w, minlength=len(anchors)) for w in (right, np.ones(len(right))))
        low, high = _ratio_interval(hits, counts, resamples)
        row = {"distance": int(str(distance)), "value": float(right.mean()), "low": low, "high": high}
        found.append({**row, "k": int(right.sum()), "n": len(right)})
    return found


def video_summary(
    rows: pd.DataFrame,
    k: int = 10,
    labels: Labels = "own",
    resamples: np.ndarray | None = None,
    epsilon: float | None = None,
) -> dict[str, Any]:
    """Summarise the rows of one model.

    Args:
        rows: as for :func:`pm_accuracy`; a column ``linf``, the largest difference from the anchor, is used if present.
        k: frames before and after.
        labels: convention of the headline, of the worst frames and of the neighbours.
        resamples: see :func:`conditional_accuracy`.
        epsilon: linf radius that an attack would have; with it comes how many brittle pairs no such attack could reach.

    Returns:
        ``n`` anchors, ``frames`` beside them within k, ``alone`` (anchors without any), ``benign``, ``pm`` (convention ->
        rate, its values None where frames have no own labels), ``drop`` (benign minus pm-k in the convention, with a
        bootstrap interval), ``neighbour`` (mean accuracy of a random frame of a random anchor that has frames),
        ``curve`` (for each j from 0 to k the two conventions), ``conditional``, ``brittle`` (pairs of a right anchor and
        a wrong frame, with the median of their linf distance, and ``beyond``, the share of them further apart than epsilon), ``worst`` (rows of :func:`worst_frames`, or none).

    Raises:
        InvalidValue, CorruptRun: as :func:`pm_accuracy`.
    """
    _check(rows, k, labels)
    near = _near(rows, k, labels)
    beside = near[near["offset"] != 0]
    sizes = beside.groupby("anchor").size()
    n = int(rows["anchor"].nunique())
    pm: Mapping[str, Any] = {name: _rate(_held(rows, k, name)) for name in LABELS}
    known = pm[labels]["value"] is not None
    benign, held = (_held(rows, j, labels) for j in (0, k))
    anchor_right = beside["anchor"].map(near[near["offset"] == 0].set_index("anchor")["correct"]).astype(bool)
    brittle = beside[anchor_right & (beside["correct"] == False)]  # noqa: E712  (a gap is no failure)
    drop = None
    if known:
        lost = (benign.astype(bool) & ~held.astype(bool)).to_numpy(float)
        low, high = _ratio_interval(lost, np.ones(n), resamples)
        drop = {"value": float(lost.mean()), "low": low, "high": high}
    means = beside.groupby("anchor")["correct"].mean() if known and len(beside) else pd.Series(dtype=float)
    distances = brittle["linf"].astype(float) if "linf" in brittle else pd.Series(dtype=float)
    return {
        "n": n,
        "k": k,
        "labels": labels,
        "frames": len(beside),
        "alone": n - len(sizes),
        "benign": _rate(benign),
        "pm": dict(pm),
        "drop": drop,
        "neighbour": float(means.mean()) if len(means) else None,
        "curve": [{"k": j, **{name: _rate(_held(rows, j, name)) for name in LABELS}} for j in range(k + 1)],
        "conditional": conditional_accuracy(rows, "anchor", resamples),
        "brittle": {
            "pairs": len(brittle),
            "linf": float(distances.median()) if len(distances) else None,
            "beyond": None if epsilon is None or not len(distances) else float((distances > epsilon).mean()),
        },
        "worst": worst_frames(rows, k, labels).to_dict("records") if known else [],
    }


def _held(rows: pd.DataFrame, k: int, labels: Labels) -> pd.Series:
    """Return for each anchor whether it and all frames within k are right; a gap where that is not known."""
    near = _near(rows, k, labels)
    wrong = (near["correct"] == False).fillna(False).groupby(near["anchor"], sort=True).any()  # noqa: E712
    unknown = near["correct"].isna().groupby(near["anchor"], sort=True).any()
    return pd.Series(~wrong, dtype="boolean").mask(unknown & ~wrong)


def _near(rows: pd.DataFrame, k: int | None, labels: Labels) -> pd.DataFrame:
    """Return the rows within k, with ``correct`` and ``margin`` under a convention."""
    part = rows if k is None else rows[rows["offset"].abs() <= k]
    own = (part["offset"] == 0) | (labels == "own")
    correct = part["correct_own"].where(own, part["correct_anchor"]).astype("boolean")
    return part.assign(correct=correct, margin=part["margin_own"].where(own, part["margin_anchor"]))


def _rate(held: pd.Series) -> dict[str, Any]:
    return rate(None if held.isna().any() else int(held.astype(bool).sum()), len(held))


def _ratio_interval(
    hits: np.ndarray, counts: np.ndarray, resamples: np.ndarray | None
) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of sum(hits) / sum(counts) over resampled anchors."""
    if resamples is None:
        return None, None
    if (
        resamples.ndim != 2
        or resamples.min() < 0
        or resamples.max() >= len(counts)
        or resamples.shape[1] != len(counts)
    ):
        raise InvalidValue(
            f"resamples of shape {resamples.shape} were given for {len(counts)} anchors",
            f"integers (R, {len(counts)}) in [0, {len(counts)}) are allowed",
            "Take those of robustscope.runs.video.resampled.",
        )
    below = counts[resamples].sum(1)
    values = hits[resamples].sum(1)[below > 0] / below[below > 0]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _check(rows: pd.DataFrame, k: int, labels: str) -> None:
    absent: Sequence[str] = [name for name in _NEEDED if name not in rows.columns]
    if absent or rows.empty or k < 0 or labels not in LABELS:
        raise InvalidValue(
            f"{len(rows)} rows without {', '.join(absent) or 'a gap'}, k={k}, labels={labels!r} were given",
            f"rows with {', '.join(_NEEDED)}, k >= 0, and labels {' or '.join(LABELS)} are allowed",
            "Give what read_video returned.",
        )
    anchors = rows[rows["offset"] == 0]["anchor"]
    if anchors.duplicated().any() or set(anchors) != set(rows["anchor"]) or rows.duplicated(["anchor", "frame"]).any():
        raise CorruptRun(
            f"{rows['anchor'].nunique()} anchors have {len(anchors)} rows of offset 0, and some frames may be doubled",
            "one row for each anchor itself, and one for each frame beside it, are allowed",
            "Evaluate again into an empty folder.",
        )
    own = anchors.index
    if rows.loc[own, "correct_own"].isna().any():
        raise CorruptRun("an anchor has no label", "a label for each anchor is needed", "Label the anchors.")
