"""Evaluate a classifier on anchors of videos and the frames around them.

Layout of the folder::

    request.json                 what is evaluated: fingerprints of model and frames, the cut, versions
    parts/00003.safetensors      the rows of one shard of anchors

A shard is whole or absent, so that an evaluation that was killed goes on with the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import BadFile, CorruptRun, InvalidValue
from robustscope.core.files import read_json, write_atomically
from robustscope.data.base import existing
from robustscope.data.frames import FrameSet
from robustscope.models.classifier import Classifier
from robustscope.models.fingerprints import fingerprint
from robustscope.runs.corrupted import claim_folder
from robustscope.runs.store import read_evidence_file

COLUMNS = {
    "anchor": "int64",
    "frame": "int64",
    "offset": "int64",
    "prediction": "int64",
    "confidence": "float64",
    "correct_own": "int64",
    "correct_anchor": "int64",
    "margin_own": "float64",
    "margin_anchor": "float64",
    "linf": "float64",
    "rms": "float64",
}
"""Columns of a shard. ``correct_own`` is -1, and ``margin_own`` NaN, where a frame has no label of its own."""
Groups = Sequence[Sequence[int]]


def evaluate_video(
    model: Classifier,
    frames: FrameSet,
    out: str | Path,
    *,
    groups: Groups | None = None,
    shard_size: int = 16,
    report: Callable[[int], object] = lambda more: None,
) -> pd.DataFrame:
    """Evaluate a classifier on all anchors and their frames, or go on with that.

    Args:
        model: evaluated where its weights are.
        frames: anchors with their frames.
        out: folder.
        groups: for each class of the frames the outputs of the model that stand for it; its score is the largest of
            them, as ImageNet-Vid-Robust merges the 1,000 classes of ImageNet into 30. None where they are the same.
        shard_size: anchors whose frames are held at once, >= 1.
        report: told about so many more anchors.

    Returns:
        As :func:`read_video`.

    Raises:
        InvalidValue: if the folder holds anything else, or labels, groups and outputs do not fit.
        ModelError: as the classifier does.

    Example:
        ``rows = evaluate_video(model, load_frames("imagenet-vid-robust?resize=256&crop=224"), "video")``, then
        ``robustscope.analyses.video.video_summary(rows)``.
    """
    if shard_size < 1:
        raise InvalidValue(f"shard_size={shard_size} was given", "a whole number >= 1 is allowed", "Write e.g. 16.")
    folder = Path(out)
    mark = fingerprint(model.module, bounds=model.bounds, mean=model.mean, std=model.std)
    merged = None if groups is None else [list(group) for group in groups]
    facts: dict[str, Any] = {"frames": frames.fingerprint(), "names": list(frames.names), "groups": merged}
    claim_folder(folder, {"video": 1, "model": mark, "anchors": len(frames), "shard_size": shard_size, **facts})
    for number, start in enumerate(range(0, len(frames), shard_size)):
        path, mine = _path(folder, number), range(start, min(start + shard_size, len(frames)))
        if not path.is_file():
            body = save(_evaluated(model, frames, mine, groups))
            write_atomically(path, lambda to, body=body: to.write_bytes(body))
        report(len(mine))
    return read_video(folder)


def read_video(out: str | Path) -> pd.DataFrame:
    """Read the rows of a finished evaluation.

    Returns:
        One row for each anchor itself (offset 0) and each frame beside it: anchor (its number), frame (id), name, offset,
        prediction, confidence (probability of the prediction), correct_own and correct_anchor (under the frame's own
        labels, a gap where it has none, and under its anchor's), margin_own and margin_anchor (best logit of a right
        class minus best of another), linf and rms (largest and root mean squared difference from the anchor).

    Raises:
        MissingFile: if there is no evaluation in the folder.
        CorruptRun: if a shard is missing or damaged.
    """
    folder = Path(out)
    request = read_json(folder / "request.json")
    if "video" not in request:
        raise CorruptRun(f"{folder} holds no evaluation of videos", "its folder is allowed", "Check the path.")
    tables = []
    for number in range(-(-request["anchors"] // request["shard_size"])):
        found = read_evidence_file(_path(folder, number))
        if set(found) != set(COLUMNS):
            raise CorruptRun(
                f"{_path(folder, number)} holds {', '.join(sorted(found))}",
                f"{', '.join(COLUMNS)} are allowed",
                "Delete it, and evaluate again: only this shard is recomputed.",
            )
        tables.append(pd.DataFrame({name: found[name] for name in COLUMNS}))
    rows = pd.concat(tables, ignore_index=True)
    own = rows["correct_own"].astype("Int64")
    rows["correct_own"] = own.mask(own < 0).astype("boolean")
    rows["correct_anchor"] = rows["correct_anchor"].astype(bool)
    rows.insert(2, "name", [request["names"][i] for i in rows["frame"]])
    return rows


def resampled(anchors: int, seed: int = 0, resamples: int = 1000) -> np.ndarray:
    """Return random anchors with replacement for bootstrap intervals: int64 (resamples, anchors)."""
    return Draws(seed, tuple(range(resamples)), "video").integers("bootstrap", anchors, 0, anchors).numpy()


def read_groups(path: str | Path) -> list[list[int]]:
    """Read which outputs stand for each class: a JSON list of lists of whole numbers.

    Raises:
        MissingFile, BadFile: if it is absent or holds something else.
    """
    file = existing(path, "a list of the outputs of each class")
    try:
        found, why = json.loads(file.read_text(encoding="utf-8")), "it is something else"
    except (OSError, ValueError) as error:
        found, why = None, str(error)
    if isinstance(found, list) and all(isinstance(g, list) and all(type(k) is int for k in g) for g in found):
        return found
    raise BadFile(
        f"{file} could not be read ({why})", "a JSON list of lists of outputs is allowed", "E.g. [[0, 1], [2]]."
    )


def _path(folder: Path, number: int) -> Path:
    return folder / "parts" / f"{number:05d}.safetensors"


def _evaluated(
    model: Classifier, frames: FrameSet, mine: Sequence[int], groups: Groups | None
) -> dict[str, np.ndarray]:
    listed = [
        (a, frame, offset)
        for a in mine
        for frame, offset in zip((frames.anchors[a], *frames.members[a]), (0, *frames.offsets[a]), strict=True)
    ]
    ids = list(dict.fromkeys(frame for _, frame, _ in listed))
    place = {frame: i for i, frame in enumerate(ids)}
    pixels = frames.read(ids)
    weight = next(model.module.parameters(), torch.empty(0))
    logits = model.logits(pixels.to(weight.device)).double().cpu()
    logits = logits if groups is None else _merged(logits, groups)
    own_labels = [frames.labels[frame] for _, frame, _ in listed]
    anchor_labels = [frames.labels[frames.anchors[a]] for a, _, _ in listed]
    _check_labels(logits, own_labels + anchor_labels)
    seen = logits[[place[frame] for _, frame, _ in listed]]
    own, inherited = (_judged(seen, labels) for labels in (own_labels, anchor_labels))
    apart = [_differences(pixels[place[frame]], pixels[place[frames.anchors[a]]]) for a, frame, _ in listed]
    columns = {
        "anchor": [a for a, _, _ in listed],
        "frame": [frame for _, frame, _ in listed],
        "offset": [offset for _, _, offset in listed],
        "prediction": seen.argmax(1).tolist(),
        "confidence": seen.softmax(1).max(1).values.tolist(),
        "correct_own": own[0],
        "correct_anchor": inherited[0],
        "margin_own": own[1],
        "margin_anchor": inherited[1],
        "linf": [largest for largest, _ in apart],
        "rms": [mean for _, mean in apart],
    }
    return {name: np.asarray(columns[name], dtype=dtype) for name, dtype in COLUMNS.items()}


def _differences(frame: Tensor, anchor: Tensor) -> tuple[float, float]:
    delta = (frame - anchor).double()
    return float(delta.abs().max()), float(delta.square().mean().sqrt())


def _judged(logits: Tensor, labels: Sequence[Sequence[int]]) -> tuple[list[int], list[float]]:
    """Return for each row whether argmax is among its labels (-1 without labels), and the margin of the labels."""
    right, margins = [], []
    for row, mine in zip(logits, labels, strict=True):
        inside = torch.zeros(len(row), dtype=torch.bool)
        inside[list(mine)] = True
        right.append(int(inside[row.argmax()]) if mine else -1)
        split = inside.any() and not inside.all()
        margins.append(float(row[inside].max() - row[~inside].max()) if split else float("nan"))
    return right, margins


def _merged(logits: Tensor, groups: Groups) -> Tensor:
    outputs = [output for group in groups for output in group]
    if not groups or not all(groups) or min(outputs) < 0 or max(outputs) >= logits.shape[1]:
        raise InvalidValue(
            f"groups of outputs up to {max(outputs, default=-1)} were given for a model with {logits.shape[1]}",
            "one or more outputs of the model for each class are allowed",
            "Count outputs from 0.",
        )
    return torch.stack([logits[:, list(group)].max(1).values for group in groups], 1)


def _check_labels(logits: Tensor, labels: Sequence[Sequence[int]]) -> None:
    largest = max(label for mine in labels for label in mine)
    if largest >= logits.shape[1]:
        raise InvalidValue(
            f"there is a label {largest}, and {logits.shape[1]} classes",
            "an output, or a group of outputs, for each class is allowed",
            "Number the classes of the frames as the model does, or say which outputs stand for each class (--groups).",
        )
