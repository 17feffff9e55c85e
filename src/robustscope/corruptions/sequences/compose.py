"""The door: make a sequence of each picture of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.corruptions.compose import check_pictures
from robustscope.corruptions.resample import about_centre, affine
from robustscope.corruptions.sequences.cards import SEQUENCES, SequenceCard
from robustscope.corruptions.tables import Rounding, on_levels


def perturb(
    name: str,
    x: Tensor,
    *,
    crop: int | None = None,
    draws: Draws | None = None,
    seed: int = 0,
    rounding: Rounding = "truncate",
    **parameters: Any,
) -> Tensor:
    """Make a sequence of slightly changed pictures of each sample.

    Args:
        name: of the sequence.
        x: (B, C, H, W), values in [0, 1].
        crop: side of the central square that is shown, at most H and W; None shows all. Sequences that move the picture
            are cropped after the move: ImageNet-P takes 224 of 256 pixels.
        draws: random numbers of these samples; None numbers them 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        rounding: how values come onto 256 levels: "truncate", "nearest" or "none".
        **parameters: hyper-parameters, checked against the card.

    Returns:
        (B, frames, C, H or crop, W or crop), in [0, 1], in the dtype of ``x``.

    Raises:
        UnknownName, InvalidType, InvalidValue: for arguments that the card does not allow.

    Example:
        >>> perturb("brightness", torch.full((2, 3, 8, 8), 0.5)).shape
        torch.Size([2, 31, 3, 8, 8])
    """
    given = draws if draws is not None else Draws(seed, tuple(range(len(x))))
    return apply(SEQUENCES[name], x, crop=crop, draws=given, rounding=rounding, **parameters)


def apply(
    card: SequenceCard,
    x: Tensor,
    *,
    crop: int | None = None,
    draws: Draws,
    rounding: Rounding = "truncate",
    **parameters: Any,
) -> Tensor:
    """As :func:`perturb`, with a card, registered or not."""
    check_pictures(card, x, draws, rounding)
    if crop is not None and not 1 <= crop <= min(x.shape[-2:]):
        raise InvalidValue(
            f"crop={crop} was given for pictures of {tuple(x.shape[-2:])}", "1 to their shorter side is allowed", ""
        )
    chosen, x = card.resolve(parameters), x.detach()
    if not card.context:
        x = _cropped(x, crop)
    # An empty batch has no frames to count; one picture tells how many there are.
    source = x if len(x) else x.new_zeros(1, *x.shape[1:])
    own = draws.within(f"sequence/{card.name}") if len(x) else Draws(0, (0,), card.name)
    frames = card.function(source.contiguous(), draws=own, **chosen)[: len(x)]
    if card.context:
        frames = _cropped(frames, crop)
    return on_levels(frames.clamp(0, 1), rounding)


def _cropped(x: Tensor, side: int | None) -> Tensor:
    if side is None:
        return x
    top, left = ((length - side) // 2 for length in x.shape[-2:])
    return x[..., top : top + side, left : left + side].contiguous()


def mapped(x: Tensor, linear: list[list[float]]) -> Tensor:
    """Return pictures under a linear map about their centre, from new to old positions: bilinear, black outside, on levels."""
    matrix = torch.tensor(linear, dtype=torch.float64).expand(len(x), 2, 2)
    return on_levels(affine(x, about_centre(matrix, x), "zeros").clamp(0, 1), "nearest")


def clean_first(x: Tensor, frames: list[Tensor]) -> Tensor:
    """Return the picture itself, then the frames: (B, 1 + frames, C, H, W)."""
    return torch.stack([x, *frames], 1)
