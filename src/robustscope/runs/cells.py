"""A cell of a plan: one attack with all its parameters against one threat set."""

from __future__ import annotations

import math
from typing import Any

import torch

from robustscope.attacks import ATTACKS
from robustscope.core.errors import InvalidValue
from robustscope.core.threats import Threat


def make_cell(
    index: int, model: str, threat: Threat, name: str, parameters: dict[str, Any], headline: bool
) -> dict[str, Any]:
    """Return a cell: an attack with all its parameters, defaults filled in, against one threat set.

    Raises:
        InvalidValue: if the attack is not defined for the threat set, or a parameter cannot stand in a plan.
    """
    card = ATTACKS[name]
    card.check(threat)
    resolved = card.pin(card.resolve(parameters))
    for key, value in resolved.items():
        if isinstance(value, torch.Tensor):
            raise InvalidValue(
                f"{name}.{key} was given as a tensor",
                "a number, a text or None is allowed in a plan",
                "Call robustscope.attack() with it instead.",
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidValue(
                f"{name}.{key}={value} was given",
                "a finite number is allowed",
                "Correct it; a plan holds numbers only.",
            )
    said = ", ".join(f"{k}={v}" if not isinstance(v, str) else v for k, v in parameters.items() if k != "steps")
    return {
        "index": index,
        "model": model,
        "norm": threat.norm,
        "epsilon": threat.common_epsilon,
        "headline": headline,
        "attack": name,
        "label": f"{name}, {said}" if said else name,
        "version": card.version,
        "source": card.source,
        "parameters": resolved,
        "aim": card.aim,
        "access": card.access,
        "floor": card.floor,
    }
