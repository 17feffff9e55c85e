"""The door of this room: corrupt a batch, on the levels in which pictures are stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.corruptions.cards import CORRUPTIONS, CorruptionCard
from robustscope.corruptions.tables import Rounding, on_levels

HELD = 200_000
"""Values of a part of a batch on the CPU: what a second-level cache holds, and one colour picture of 224 x 224."""


def corrupt(
    name: str,
    x: Tensor,
    severity: int = 1,
    *,
    draws: Draws | None = None,
    seed: int = 0,
    rounding: Rounding = "truncate",
    **parameters: Any,
) -> Tensor:
    """Corrupt a batch of pictures.

    What comes out for a sample depends on the sample, its id, the seed and the arguments alone, however the batch is cut
    or ordered.

    Args:
        name: of the corruption.
        x: (B, C, H, W), values in [0, 1].
        severity: 1 (mild) to 5.
        draws: random numbers of these samples; None numbers them 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        rounding: how values come onto 256 levels: "truncate", as the published benchmarks did, "nearest", or "none" for
            what the corruption itself returns.
        **parameters: hyper-parameters, checked against the card.

    Returns:
        (B, C, H, W), in [0, 1], in the dtype and on the device of ``x``.

    Raises:
        UnknownName, InvalidType, InvalidValue: for arguments that the card does not allow.

    Example:
        >>> grey = torch.full((1, 3, 8, 8), 0.5)
        >>> (corrupt("brightness", grey, 5, constants="imagenet-c")[0, :, 0, 0] * 255).round()
        tensor([255., 255., 255.])
    """
    given = draws if draws is not None else Draws(seed, tuple(range(len(x))))
    return apply(CORRUPTIONS[name], x, severity, draws=given, rounding=rounding, **parameters)


def apply(
    card: CorruptionCard, x: Tensor, severity: int, *, draws: Draws, rounding: Rounding = "truncate", **parameters: Any
) -> Tensor:
    """As :func:`corrupt`, with a card, registered or not."""
    check_form(card, x, draws, rounding)
    chosen = card.resolve(parameters)
    if not len(x):
        return x.clone()
    own = draws.within(card.name)
    size = len(x) if x.device.type != "cpu" else max(1, HELD // x[0].numel())
    out = torch.empty_like(x, requires_grad=False, memory_format=torch.contiguous_format)
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        given, target = x[rows].detach().contiguous(), out[rows]
        _check_values(given)
        part = card.function(given, severity, draws=replace(own, ids=own.ids[rows]), **chosen)
        if part.shape != target.shape:
            raise InvalidValue(
                f"the corruption {card.name!r} returned {tuple(part.shape)} for {tuple(target.shape)}",
                "the shape of the inputs is allowed",
                "Correct the function.",
            )
        if card.levels and size >= len(x):
            return part.contiguous()
        if card.levels:
            target.copy_(part)
        else:
            on_levels(torch.clamp(part.detach().to(out.dtype), 0, 1, out=target), rounding)
    return out


class Pictured(Protocol):
    """A card of what takes pictures."""

    @property
    def name(self) -> str:
        """Name in its registry."""
        ...

    @property
    def channels(self) -> tuple[int, ...] | None:
        """Numbers of channels that are allowed; None means any."""
        ...


def check_pictures(card: Pictured, x: Tensor, draws: Draws, rounding: Rounding) -> None:
    """Refuse what is no batch of pictures with values in [0, 1] and one id for each.

    Raises:
        InvalidType: for anything but a tensor of floats.
        InvalidValue: for another shape, other values, other ids or an unknown rounding.
    """
    check_form(card, x, draws, rounding)
    if len(x):
        _check_values(x.detach())


def _check_values(x: Tensor) -> None:
    """Refuse values outside [0, 1]; of a part of a batch, so that it is in the cache when it is corrupted."""
    # Two passes by vectors take less time than the one of aminmax().
    least, most = float(x.amin()), float(x.amax())
    if not (least >= 0 and most <= 1):
        raise InvalidValue(
            f"inputs with values in [{least:.4g}, {most:.4g}] were given",
            "values in [0, 1] are allowed",
            "Rescale them; normalisation belongs behind the corruption, into the classifier.",
        )


def check_form(card: Pictured, x: Tensor, draws: Draws, rounding: Rounding) -> None:
    """As :func:`check_pictures`, without a look at the values."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InvalidType(
            f"inputs of type {getattr(x, 'dtype', type(x).__name__)} were given",
            "a tensor of floats in [0, 1] is allowed",
            "Divide pictures of bytes by 255.",
        )
    if x.dim() != 4 or 0 in x.shape[1:] or (card.channels is not None and x.shape[1] not in card.channels):
        wanted = "any number of channels C" if card.channels is None else f"C among {card.channels}"
        raise InvalidValue(
            f"inputs of shape {tuple(x.shape)} were given to {card.name!r}",
            f"pictures (B, C, H, W) with {wanted} are allowed",
            "Choose another corruption.",
        )
    if len(draws.ids) != len(x):
        raise InvalidValue(
            f"{len(draws.ids)} sample ids were given for {len(x)} samples",
            "one id for each sample is allowed",
            "Build Draws with ids=tuple(sample ids of this batch).",
        )
    if rounding not in ("truncate", "nearest", "none"):
        raise InvalidValue(
            f"rounding={rounding!r} was given", "'truncate', 'nearest' or 'none' is allowed", "Choose one of them."
        )
