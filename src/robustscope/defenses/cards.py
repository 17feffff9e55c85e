"""The card of a transformation that defends, and the registry of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robustscope.core.registry import Card, Registry


@dataclass(frozen=True)
class DefenseCard(Card):
    """What a transformation says about itself.

    The function has the form ``(x (B, *S), *, draws, bounds, ...) -> (B, *S)``; its hyper-parameters are its
    keyword-only arguments with a default.

    Args:
        stochastic: whether it draws random numbers.
        backward: how gradients are to pass: "exact" (autograd through it) or "identity" (BPDA).
        needs: keyword-only arguments without a default, besides ``draws`` and ``bounds``, that hold data.
        stays_in_bounds: whether what it returns lies inside the bounds of the inputs.
        draws: draws that the source averages; 1 for a deterministic one.
        quick: hyper-parameters for the checks.
    """

    stochastic: bool = False
    backward: Literal["exact", "identity"] = "identity"
    needs: tuple[str, ...] = ()
    stays_in_bounds: bool = True
    draws: int = 1
    quick: Mapping[str, Any] = field(default_factory=dict)


DEFENSES: Registry[DefenseCard] = Registry("defence", DefenseCard)
register = DEFENSES.register
