"""Every corruption keeps its contract, and the contract catches those that do not."""

from dataclasses import replace

import pytest
import torch

from robustscope.contracts.corruptions import CORRUPTION_CHECKS, check_corruption, run_corruption_check
from robustscope.corruptions import CORRUPTIONS

CASES = [(card, constants, name) for card in CORRUPTIONS for constants in card.constants for name in CORRUPTION_CHECKS]
SOUND = CORRUPTIONS["gaussian_noise"]


@pytest.mark.parametrize(
    ("card", "constants", "name"), [pytest.param(*c, id=f"{c[0].name}-{c[1]}-{c[2]}") for c in CASES]
)
def test_contract(card, constants, name):
    result = run_corruption_check(name, card, constants)
    assert result.passed, result.message


def noise(x, severity, draws):
    return SOUND.function(x, severity, draws=draws, constants="cifar-10-c")


def plain(x, severity, *, draws):
    return noise(x, severity, draws)


def doubled(x, severity, *, draws):
    return torch.cat([noise(x, severity, draws)] * 2, 1)


def cast(x, severity, *, draws):
    return noise(x, severity, draws).float()


def graph(x, severity, *, draws):
    return noise(x, severity, draws) * torch.ones(1, requires_grad=True)


def unclipped(x, severity, *, draws):
    return x + draws.normal("noise", x)


def global_noise(x, severity, *, draws):
    return (x + 0.1 * severity * torch.randn_like(x)).clamp(0, 1)


def noise_by_row(x, severity, *, draws):
    rows = replace(draws, ids=tuple(range(len(x))))
    return noise(x, severity, rows)


def of_the_batch(x, severity, *, draws):
    return (x + severity * (0.2 - 0.3 * x.mean())).clamp(0, 1)


def in_place(x, severity, *, draws):
    return x.add_(noise(x, severity, draws)).clamp_(0, 1)


def chatty(x, severity, *, draws):
    print("corrupting")
    return noise(x, severity, draws)


def reseeding(x, severity, *, draws):
    torch.manual_seed(0)
    return noise(x, severity, draws)


def upside_down(x, severity, *, draws):
    return noise(x, 6 - severity, draws)


def nothing(x, severity, *, draws):
    SOUND.function(x, severity, draws=draws)
    return x.clone()


def any_severity(x, severity, *, draws):
    return (x + 0.01 * float(severity) * draws.normal("noise", x)).clamp(0, 1)


BROKEN = [
    (doubled, "keeps_form", "returned (3, 6, 32, 32)", {}),
    (cast, "keeps_form", "torch.float32", {}),
    (graph, "keeps_form", "a graph", {}),
    (unclipped, "stays_in_bounds", "returned values in", {}),
    (global_noise, "draws_belong_to_samples", "other values for samples", {}),
    (noise_by_row, "draws_belong_to_samples", "other values for samples", {}),
    (of_the_batch, "draws_belong_to_samples", "other values for samples", {"stochastic": False}),
    (plain, "draws_belong_to_samples", "changes with the seed", {"stochastic": False}),
    (nothing, "draws_belong_to_samples", "does not change with the seed", {}),
    (in_place, "leaves_no_trace", "changed x", {}),
    (chatty, "leaves_no_trace", "the terminal", {}),
    (reseeding, "leaves_no_trace", "torch's generator", {}),
    (global_noise, "leaves_no_trace", "torch's generator", {}),
    (upside_down, "grows_with_severity", "mean distances", {}),
    (nothing, "grows_with_severity", "mean distances", {}),
    (any_severity, "refuses_other_severities", "took severity=0", {}),
    (any_severity, "explains_itself", "'severity' is not documented", {}),
    (SOUND.function, "explains_itself", "the card has no source", {"source": ""}),
    (SOUND.function, "explains_itself", "family='odd'", {"family": "odd"}),
]


@pytest.mark.parametrize(("function", "check", "says", "facts"), BROKEN)
def test_broken_corruptions_are_caught(function, check, says, facts):
    card = replace(SOUND, function=function, **facts)
    result = run_corruption_check(check, card, "cifar-10-c")
    assert not result.passed
    assert says in result.message
    assert "inside the check" not in result.message, "the check crashed instead of judging"


def test_every_check_has_teeth():
    assert {case[1] for case in BROKEN} == set(CORRUPTION_CHECKS)


def test_a_foretold_failure_passes_and_an_unexpected_pass_fails():
    known = {"grows_with_severity/cifar-10-c": "upside down"}
    assert run_corruption_check(
        "grows_with_severity", replace(SOUND, function=upside_down, known_failures=known), "cifar-10-c"
    ).passed
    result = run_corruption_check("grows_with_severity", replace(SOUND, known_failures=known), "cifar-10-c")
    assert "Remove the entry" in result.message


def test_all_checks_run_by_one_call():
    results = check_corruption(SOUND, ["cifar-10-c"])
    assert [result.name for result in results] == list(CORRUPTION_CHECKS)
    assert all(result.passed for result in results)
