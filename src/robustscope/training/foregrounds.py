"""Where the foreground of a picture lies: masks as data, or as a function of the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.data.base import Dataset
from robustscope.data.masks import load_masks

MaskFunction = Callable[[Tensor, tuple[int, ...]], Tensor]
"""(inputs (B, *S), ids of the samples) -> mask, 1 where a value belongs to the foreground and 0 elsewhere."""


def brighter(level: float) -> MaskFunction:
    """Return the mask of what is brighter than a level: ink on paper, digits on black.

    Example:
        >>> import torch
        >>> brighter(0.3)(torch.tensor([[0.2, 0.9]]), (0,))
        tensor([[0., 1.]])
    """
    return lambda x, ids: (x > level).to(x)


def stored(masks: Tensor) -> MaskFunction:
    """Return the masks of a tensor (N, ...) that has one row for each sample of the data set, by the samples' ids.

    Raises:
        InvalidValue: for a sample that has no row.
    """

    def look_up(x: Tensor, ids: tuple[int, ...]) -> Tensor:
        if max(ids, default=0) >= len(masks):
            raise InvalidValue(
                f"{len(masks)} masks were given, and sample {max(ids)} is trained on",
                "one mask for each sample of the data set is allowed",
                "Give the masks in the order of the data set.",
            )
        return masks[list(ids)].to(x)

    return look_up


def open_masks(source: str, level: float, data: Dataset) -> MaskFunction:
    """Open the masks that a recipe names.

    Args:
        source: "brighter", or masks as :func:`robustscope.data.masks.load_masks` opens them, such as "npy:FILE".
        level: of "brighter".
        data: the training set.

    Raises:
        InvalidValue: for another name.
        MissingFile, BadFile: for files that cannot be read, or that do not belong to the data.
    """
    if source == "brighter":
        return brighter(level)
    masks = load_masks(source, data)
    return lambda x, ids: masks.read(ids)[:, None]


def mask_of(source: Any, x: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Return the mask of some samples, in the dtype of ``x`` and so that it broadcasts to it.

    Args:
        source: a function, or a tensor (N, ...) with one row for each sample of the data set.
        x: (B, *S), inputs.
        ids: of the samples.

    Raises:
        InvalidType: for a source that is neither.
        InvalidValue: for a mask that does not fit, or with values outside [0, 1].
    """
    source = stored(source) if isinstance(source, Tensor) else source
    if not callable(source):
        raise InvalidType(
            f"masks of type {type(source).__name__} were given",
            "a tensor (N, ...) or a function (x, ids) -> mask is allowed",
            "Give one of them to train(..., given=...).",
        )
    mask = source(x, ids).to(x)
    shape = tuple(mask.shape)
    fits = len(shape) == x.dim() and all(n in (1, size) for n, size in zip(shape, x.shape, strict=True))
    if not fits or shape[0] != len(x) or bool(((mask < 0) | (mask > 1)).any()):
        raise InvalidValue(
            f"a mask of shape {shape} was given for inputs of shape {tuple(x.shape)}",
            "one of the same shape, or with a single channel, and with values from 0 to 1, is allowed",
            "Write 1 for the foreground and 0 for the background.",
        )
    return mask
