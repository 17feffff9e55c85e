"""Every registered objective keeps its contract, and each check catches an objective that breaks it."""

from dataclasses import replace

import pytest
import torch

from robustscope.contracts.objectives import OBJECTIVE_CHECKS, run_objective_check
from robustscope.geometry.losses import cross_entropy
from robustscope.training import OBJECTIVES, Passes, Term
from robustscope.training.cards import ObjectiveCard

CASES = [(card, norm, name) for card in OBJECTIVES for norm in card.norms or ("",) for name in OBJECTIVE_CHECKS]


@pytest.mark.parametrize(("card", "norm", "name"), [pytest.param(*c, id=f"{c[0].name}-{c[1]}-{c[2]}") for c in CASES])
def test_contract(card, norm, name):
    result = run_objective_check(name, card, norm)
    assert result.passed, result.message


def mean_over_the_batch(network, x, y, threat, *, draws, step):
    losses = cross_entropy(network.logits(x), y)
    yield Term(losses - 0.1 * losses.mean())


def reduced(network, x, y, threat, *, draws, step):
    yield Term(cross_entropy(network.logits(x), y).mean())


def never_updates(network, x, y, threat, *, draws, step):
    yield Term(cross_entropy(network.logits(x), y), update=False)


def detached(network, x, y, threat, *, draws, step):
    yield Term(cross_entropy(network.logits(x), y).detach())


def uncounted(network, x, y, threat, *, draws, step):
    network.module(x)
    yield Term(cross_entropy(network.logits(x), y))


def costs_two(network, x, y, threat, *, draws, step):
    network.logits(x)
    yield Term(cross_entropy(network.logits(x), y))


def global_noise(network, x, y, threat, *, draws, step):
    yield Term(cross_entropy(network.logits(x + 0.1 * torch.randn_like(x)), y))


def changes_x(network, x, y, threat, *, draws, step):
    x += 0.01
    yield Term(cross_entropy(network.logits(x), y))


def stays_in_eval(network, x, y, threat, *, draws, step):
    network.module.eval()
    yield Term(cross_entropy(network.logits(x), y))


def descends_the_wrong_way(network, x, y, threat, *, draws, step):
    yield Term(-cross_entropy(network.logits(x), y).clamp(max=5))


def forgets(network, x, y, threat, *, draws, step, memory=[0.0]):  # noqa: B006
    memory[0] += 0.1
    yield Term(cross_entropy(network.logits(x), y) * (1 + memory[0]))


def shifted(network, x, y, threat, *, draws, step):
    yield Term(cross_entropy(network.logits(x + 0.01), y))


def deaf(network, x, y, threat, *, draws, step):
    """Ignore the threat."""
    yield Term(cross_entropy(network.logits(x), y))


BROKEN = [
    (mean_over_the_batch, "couples_no_samples"),
    (reduced, "yields_losses_of_samples"),
    (never_updates, "yields_losses_of_samples"),
    (detached, "yields_losses_of_samples"),
    (uncounted, "counts_its_rows"),
    (costs_two, "counts_its_rows"),
    (global_noise, "leaves_no_trace"),
    (global_noise, "couples_no_samples"),
    (changes_x, "leaves_no_trace"),
    (stays_in_eval, "leaves_no_trace"),
    (descends_the_wrong_way, "fits_a_small_set"),
    (forgets, "resumes_bit_for_bit"),
    (shifted, "is_standard_without_a_threat"),
    (deaf, "heeds_the_radius"),
    (deaf, "explains_itself"),
]


@pytest.fixture
def broken(monkeypatch):
    """Register a broken objective for the length of a test."""

    def register(function):
        card = ObjectiveCard(
            name="broken",
            function=function,
            version=1,
            source="nobody",
            norms=("linf",),
            neutral={},
            passes=lambda p: Passes(1, 1),
        )
        monkeypatch.setitem(OBJECTIVES._cards, "broken", card)
        return card

    return register


@pytest.mark.parametrize(("function", "name"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_objective_is_caught(broken, function, name):
    result = run_objective_check(name, broken(function), "linf")
    assert not result.passed
    assert "ContractBroken" not in result.message
    assert "'broken'" in result.message


def test_a_check_that_is_foretold_to_fail_must_fail(broken):
    card = replace(OBJECTIVES["fast"], known_failures={"couples_no_samples": "said in jest"})
    assert not run_objective_check("couples_no_samples", card, "linf").passed
