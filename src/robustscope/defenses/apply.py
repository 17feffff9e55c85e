"""The doors of this room: transform inputs, or make the transformation that :func:`robustscope.models.defended.defend` takes."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, UnknownName, did_you_mean
from robustscope.core.types import Bounds
from robustscope.defenses.cards import DEFENSES, DefenseCard
from robustscope.models.defended import Transformation


def transform(
    name: str,
    x: Tensor,
    *,
    draws: Draws | None = None,
    seed: int = 0,
    bounds: Bounds = Bounds(0.0, 1.0),
    **parameters: Any,
) -> Tensor:
    """Apply a registered transformation to a batch.

    Args:
        name: of the transformation.
        x: (B, *S), inside the bounds.
        draws: random numbers of these samples; None numbers them 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        bounds: valid range of every input value.
        **parameters: hyper-parameters, checked against the card, and the data that it needs.

    Returns:
        (B, *S), in the dtype of ``x``.

    Raises:
        UnknownName, InvalidType, InvalidValue: for arguments that the card does not allow.

    Example:
        >>> import torch
        >>> transform("bit_depth", torch.tensor([[0.2, 0.6]]), depth=1)
        tensor([[0., 1.]])
    """
    made = transformation(name, bounds=bounds, **parameters)
    return made.apply(x, draws or Draws(seed, tuple(range(len(x)))))


def transformation(name: str, *, bounds: Bounds = Bounds(0.0, 1.0), **parameters: Any) -> Transformation:
    """Return a registered transformation with its hyper-parameters and its declared derivative.

    Args:
        name: of the transformation.
        bounds: valid range of every input value.
        **parameters: hyper-parameters, checked against the card, and the data that it needs.

    Raises:
        UnknownName, InvalidType, InvalidValue: for arguments that the card does not allow.
    """
    card = DEFENSES[name]
    data = _data(card, parameters)
    chosen = {**card.resolve({key: value for key, value in parameters.items() if key not in data}), **data}
    bounds = Bounds.of(bounds)

    def apply(x: Tensor, draws: Draws | None = None) -> Tensor:
        given = draws or Draws(0, (0,) * len(x), card.name)
        return card.function(x, draws=given, bounds=bounds, **chosen)

    facts = ", ".join(f"{key}={_text(value)}" for key, value in sorted(chosen.items()))
    return Transformation(
        card.name, apply, card.stochastic, card.backward, f"{card.name} {card.version}: {facts}; {tuple(bounds)}"
    )


def _data(card: DefenseCard, parameters: dict[str, Any]) -> dict[str, Any]:
    for name in card.needs:
        if name not in parameters:
            known = [*card.parameters, *card.needs]
            raise UnknownName(f"{card.name!r} was asked for without {name!r}", "", did_you_mean(name, known))
        if not isinstance(parameters[name], Tensor):
            raise InvalidType(
                f"{name} of type {type(parameters[name]).__name__} was given to {card.name!r}",
                "a tensor is allowed",
                "Convert it with torch.as_tensor.",
            )
    return {name: parameters[name] for name in card.needs}


def _text(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    plain = value.detach().cpu().contiguous()
    return f"{tuple(plain.shape)}:{hashlib.sha256(plain.numpy().tobytes()).hexdigest()}"


def check_pictures(x: Tensor, name: str, channels: tuple[int, ...] | None = None) -> None:
    """Refuse inputs that are no pictures.

    Raises:
        InvalidValue: for another number of dimensions, or of channels where ``channels`` names the allowed ones.
    """
    if x.dim() != 4 or (channels is not None and x.shape[1] not in channels):
        wanted = "any number of channels C" if channels is None else f"C among {channels}"
        raise InvalidValue(
            f"inputs of shape {tuple(x.shape)} were given to {name!r}",
            f"pictures (B, C, H, W) with {wanted} are allowed",
            "Choose another transformation.",
        )


def check_share(name: str, value: float, *, one: bool = True) -> None:
    """Refuse a share outside (0, 1], or outside [0, 1) where ``one`` is False.

    Raises:
        InvalidValue: naming it.
    """
    if not (0 < value <= 1 if one else 0 <= value < 1):
        raise InvalidValue(
            f"{name}={value} was given", f"{'(0, 1]' if one else '[0, 1)'} is allowed", f"Correct {name}."
        )


def check_count(**values: int) -> None:
    """Refuse counts below one.

    Raises:
        InvalidValue: naming the first one.
    """
    for name, value in values.items():
        if value < 1:
            raise InvalidValue(f"{name}={value} was given", "an integer >= 1 is allowed", f"Correct {name}.")
