"""Evaluate a classifier with and without foreground masks: the mask comes after the perturbation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, did_you_mean
from robustscope.core.types import ThreatModel
from robustscope.data.base import Dataset
from robustscope.data.masks import KINDS, Masks, changed
from robustscope.models.classifier import Classifier
from robustscope.models.foreground import (
    carries_masks,
    masked,
    masked_rows,
    numbered,
    over_backgrounds,
    saliency_masks,
    self_masked,
    with_masks,
)

FOREGROUND_ATTACKED = "foreground attacked"
ALL = ("none", *KINDS, FOREGROUND_ATTACKED, "saliency", "saliency attacked")
"""What can be compared: no mask; the kinds of ``data.masks``; nothing hidden, and only the foreground perturbed; the mask of
the clean input's saliency, fixed; and the same mask computed anew from every perturbed input, so that it is attacked too."""
NEED_MASKS = {*KINDS, FOREGROUND_ATTACKED}
ROWS = 256
"""Samples that :func:`evaluate_masked_data` holds at once."""
STANDARD = ("none", "foreground", "dilated", "random")


def evaluate_masks(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    masks: Tensor | None,
    threat: ThreatModel | str,
    *,
    kinds: Sequence[str] = STANDARD,
    method: tuple[str, Mapping[str, Any]] = ("pgd", {"steps": 40, "loss": "margin"}),
    dilation: int = 2,
    share: float = 0.25,
    draws: Draws | None = None,
) -> pd.DataFrame:
    """Attack a classifier under several masks of the same pictures.

    Args:
        model: the network, the same under every mask.
        x: (B, C, H, W), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        masks: bool (B, H, W), the foreground; None where ``kinds`` need none.
        threat: linf, l2, l1 or l0 ball, or a text such as "linf:0.1".
        kinds: of :data:`ALL`.
        method: name and hyper-parameters of the attack.
        dilation: pixels by which "dilated" grows.
        share: of the pixels, for the saliency kinds.
        draws: random numbers of these samples; numbered from 0 if left out.

    Returns:
        One row for each (kind, sample): y, pixels (of the mask), share (of all pixels), dimension (values that the
        attacker can change to any effect; all of them where the mask is attacked too), clean_correct, robust (correct and
        not broken).

    Raises:
        InvalidValue: for other kinds or shapes, or kinds that need masks without any; else as
            :func:`robustscope.attack`.
    """
    unknown = [kind for kind in kinds if kind not in ALL]
    if unknown or not kinds or (masks is None and set(kinds) & NEED_MASKS):
        raise InvalidValue(
            f"kinds {', '.join(kinds) or 'of nothing'} were asked for{' without masks' if masks is None else ''}",
            f"one or more of {', '.join(ALL)} are allowed, of which {', '.join((*KINDS, FOREGROUND_ATTACKED))} need masks",
            did_you_mean(unknown[0] if unknown else "saliency", ALL),
        )
    model.check_inputs(x, y)
    if masks is not None:
        with_masks(x, masks, model.bounds)  # refuses other shapes
    threat = ThreatModel.parse(threat, model.bounds) if isinstance(threat, str) else threat
    draws = draws or Draws(0, tuple(range(len(x))))
    tables = []
    for kind in kinds:
        mine = _masks(kind, model, x, masks, draws, dilation, share)
        if kind == "none":
            clean, robust = _attacked(model, x, y, threat, method, draws)
        elif kind == FOREGROUND_ATTACKED:
            clean, robust = _foreground(model, x, y, mine, threat, method, draws)
        elif kind == "saliency attacked":
            clean, robust = _attacked(self_masked(model, share=share), x, y, threat, method, draws)
        else:
            clean, robust = _behind(model, x, y, mine, threat, method, draws)
        pixels = mine.flatten(1).sum(1).cpu()
        effective = torch.full_like(pixels, mine[0].numel()) if kind == "saliency attacked" else pixels
        columns = {
            "kind": kind,
            "sample": list(draws.ids),
            "y": y.cpu().numpy(),
            "pixels": pixels.numpy(),
            "share": pixels.numpy() / mine[0].numel(),
            "dimension": x.shape[1] * effective.numpy(),
            "clean_correct": clean.cpu().numpy(),
            "robust": robust.cpu().numpy(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def evaluate_masked_data(
    model: Classifier,
    data: Dataset,
    masks: Masks,
    ids: Sequence[int],
    threat: ThreatModel | str,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Callable[[int], object] = lambda more: None,
    **options: Any,
) -> pd.DataFrame:
    """As :func:`evaluate_masks`, on samples of a data set, :data:`ROWS` at a time; the cut changes no row.

    Args:
        model: the network.
        data: its pictures.
        masks: of the data, as ``load_masks`` opens them.
        ids: of the samples.
        threat: as there.
        seed: of all random numbers.
        device: where the pictures are wanted.
        report: told about so many more samples.
        **options: kinds, method, dilation and share of :func:`evaluate_masks`.

    Returns:
        As there, the kinds of all samples together.
    """
    tables = []
    for start in range(0, len(ids), ROWS):
        rows = list(ids[start : start + ROWS])
        x = data.read(rows).to(device)
        y = torch.as_tensor(data.labels[rows], dtype=torch.int64, device=device)
        own = masks.read(rows)
        tables.append(evaluate_masks(model, x, y, own, threat, draws=Draws(seed, tuple(rows)), **options))
        report(len(rows))
    return pd.concat(tables, ignore_index=True)


def _masks(
    kind: str, model: Classifier, x: Tensor, masks: Tensor | None, draws: Draws, dilation: int, share: float
) -> Tensor:
    if kind.startswith("saliency"):
        return saliency_masks(model, x, share=share)
    if kind == "none" or masks is None:
        return torch.ones(len(x), *x.shape[2:], dtype=torch.bool)
    if kind == FOREGROUND_ATTACKED:
        return masks
    for known in KINDS:
        if kind == known:
            return changed(known, masks, draws.within("masks"), pixels=dilation)
    raise InvalidValue(f"kind={kind!r} was given", f"one of {', '.join(ALL)} is allowed", "Correct it.")


def _behind(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    masks: Tensor,
    threat: ThreatModel,
    method: tuple[str, Mapping[str, Any]],
    draws: Draws,
) -> tuple[Tensor, Tensor]:
    """Attack rows behind masks of their own: together where no perturbation can change a mask, else mask by mask."""
    if carries_masks(threat.norm, _largest(threat), model.bounds):
        return _attacked(masked_rows(model), with_masks(x, masks, model.bounds), y, threat, method, draws)
    clean, robust = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(2))
    groups: dict[bytes, list[int]] = {}
    for i, mask in enumerate(masks):
        groups.setdefault(np.packbits(mask.cpu().numpy()).tobytes(), []).append(i)
    for mine in groups.values():
        rows = torch.tensor(mine, device=x.device)
        behind = masked(model, masks[mine[0]].to(x.device))
        found = _attacked(behind, x[rows], y[rows], threat.select(rows), method, draws.select(rows))
        clean[rows], robust[rows] = found
    return clean, robust


def _foreground(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    masks: Tensor,
    threat: ThreatModel,
    method: tuple[str, Mapping[str, Any]],
    draws: Draws,
) -> tuple[Tensor, Tensor]:
    """Attack the foreground of pictures that are seen whole: together where they can carry their numbers, else one by one."""
    masks = masks.to(x.device)
    if carries_masks(threat.norm, _largest(threat), model.bounds) and len(x) <= 2 ** min(masks[0].numel(), 62):
        whole = over_backgrounds(model, masks, x)
        return _attacked(whole, numbered(x, model.bounds), y, threat, method, draws)
    found = []
    for i in range(len(x)):
        row = torch.tensor([i], device=x.device)
        whole = over_backgrounds(model, masks[row], x[row])
        found.append(_attacked(whole, x[row], y[row], threat.select(row), method, draws.select(row)))
    clean, robust = (torch.cat(part) for part in zip(*found, strict=True))
    return clean, robust


def _largest(threat: ThreatModel) -> float:
    return max(threat.epsilon) if isinstance(threat.epsilon, tuple) else threat.epsilon


def _attacked(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    method: tuple[str, Mapping[str, Any]],
    draws: Draws,
) -> tuple[Tensor, Tensor]:
    """Return which samples are correct, and which of these the attack does not break: bool (B,) both."""
    clean = model.logits(x).argmax(1) == y
    rows, robust = clean.nonzero()[:, 0], clean.clone()
    if len(rows):
        name, parameters = method
        found = attack(name, model, x[rows], y[rows], threat.select(rows), draws=draws.select(rows), **dict(parameters))
        robust[rows[found.verdict.success]] = False
    return clean, robust
