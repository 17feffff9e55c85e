"""The contract of attacks: which checks there are, and which of them an attack must keep.

Every check is a plain function ``(card, norm) -> None`` that raises :class:`ContractBroken` and says what it saw; where the
threat set is not an lp ball, its kind stands for the norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustscope.attacks.cards import AttackCard
from robustscope.contracts.explained import explain
from robustscope.contracts.manners import (
    is_silent,
    keeps_form,
    leaves_global_randomness_alone,
    leaves_inputs_alone,
    leaves_model_alone,
    recovers_after_a_failing_model,
    stays_in_threat_set,
    takes_one_sample_and_none,
    zero_epsilon_returns_x,
)
from robustscope.contracts.randomness import (
    batch_size_does_not_matter,
    order_does_not_matter,
    same_seed_same_result,
)
from robustscope.contracts.strength import (
    agrees_with_certificates,
    beats_noise,
    counts_its_queries,
    more_restarts_never_hurt,
    reaches_targets,
    solves_the_linear_problem,
    survives_flat_gradients,
)
from robustscope.core.types import NORMS

Check = Callable[[AttackCard, Any], None]


def explains_itself(card: AttackCard, norm: str) -> None:
    """The card is complete, and every parameter and every error is documented."""
    explain(card, norm, CHECKS)


CHECKS: dict[str, Check] = {
    "keeps_form": keeps_form,
    "leaves_inputs_alone": leaves_inputs_alone,
    "stays_in_threat_set": stays_in_threat_set,
    "leaves_model_alone": leaves_model_alone,
    "recovers_after_a_failing_model": recovers_after_a_failing_model,
    "leaves_global_randomness_alone": leaves_global_randomness_alone,
    "is_silent": is_silent,
    "same_seed_same_result": same_seed_same_result,
    "batch_size_does_not_matter": batch_size_does_not_matter,
    "order_does_not_matter": order_does_not_matter,
    "zero_epsilon_returns_x": zero_epsilon_returns_x,
    "takes_one_sample_and_none": takes_one_sample_and_none,
    "survives_flat_gradients": survives_flat_gradients,
    "beats_noise": beats_noise,
    "solves_the_linear_problem": solves_the_linear_problem,
    "reaches_targets": reaches_targets,
    "counts_its_queries": counts_its_queries,
    "more_restarts_never_hurt": more_restarts_never_hurt,
    "agrees_with_certificates": agrees_with_certificates,
    "explains_itself": explains_itself,
}

_NEEDS: dict[str, Callable[[AttackCard], bool]] = {
    "beats_noise": lambda card: not card.floor and card.equip is None,
    "solves_the_linear_problem": lambda card: not card.floor and card.equip is None,
    "reaches_targets": lambda card: not card.floor and card.equip is None and "targeted" in card.goals,
    "more_restarts_never_hurt": lambda card: "restarts" in card.parameters,
}
_BALLS_ONLY = ("beats_noise", "solves_the_linear_problem", "agrees_with_certificates")
"""Checks that need exact radii, or noise, of lp balls."""


def checks_for(card: AttackCard, norm: str | None = None) -> dict[str, Check]:
    """Return the checks that an attack must keep, chosen by what its card declares.

    Noise (``floor=True``) need not beat noise, solve the linear problem or reach targets; nor need an attack whose
    strength is that of the files it is given (``equip``).

    Args:
        card: of the attack.
        norm: norm, or kind of another threat set; None means the first of the card.
    """
    ball = (norm or card.kinds[0]) in NORMS
    chosen = {name: check for name, check in CHECKS.items() if name not in _NEEDS or _NEEDS[name](card)}
    return {name: check for name, check in chosen.items() if ball or name not in _BALLS_ONLY}
