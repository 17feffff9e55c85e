"""Every sequence keeps its contract, and the contract catches those that do not."""

from dataclasses import replace

import pytest
import torch

from robustscope.contracts.sequences import BENCHMARKS, SEQUENCE_CHECKS, check_sequence, run_sequence_check
from robustscope.corruptions.sequences import SEQUENCES
from robustscope.corruptions.sequences.cards import constant
from robustscope.corruptions.sequences.compose import clean_first

CASES = [(card, constants, name) for card in SEQUENCES for constants in BENCHMARKS for name in SEQUENCE_CHECKS]
NOISE, MOVE = SEQUENCES["gaussian_noise"], SEQUENCES["translate"]
STEPS = {"imagenet-p": 0.02, "cifar-10-p": 0.015}


@pytest.mark.parametrize(
    ("card", "constants", "name"), [pytest.param(*c, id=f"{c[0].name}-{c[1]}-{c[2]}") for c in CASES]
)
def test_contract(card, constants, name):
    result = run_sequence_check(name, card, constants)
    assert result.passed, result.message


def noisy(x, draws, sigma=0.05, purpose="noise/{}"):
    return clean_first(x, [x + sigma * draws.normal(purpose.format(k), x) for k in range(1, 12)])


def sound(x, *, draws, constants="auto"):
    constant(STEPS, constants, x)
    return noisy(x, draws)


def one_picture(x, *, draws, constants="auto"):
    return noisy(x, draws)[:, 0]


def one_frame(x, *, draws, constants="auto"):
    return noisy(x, draws)[:, :1]


def cast(x, *, draws, constants="auto"):
    return noisy(x, draws).float()


def graph(x, *, draws, constants="auto"):
    return noisy(x, draws) * torch.ones(1, requires_grad=True)


def stretched(x, *, draws, constants="auto"):
    low, high = (getattr(x, name)((1, 2, 3), keepdim=True) for name in ("amin", "amax"))
    return noisy((x - low) / (high - low), draws)


def global_noise(x, *, draws, constants="auto"):
    return clean_first(x, [x + 0.05 * torch.randn_like(x) for _ in range(11)])


def noise_by_row(x, *, draws, constants="auto"):
    return noisy(x, replace(draws, ids=tuple(range(len(x)))))


def of_the_batch(x, *, draws, constants="auto"):
    return noisy(x, draws) + 0.3 * x.mean()


def in_place(x, *, draws, constants="auto"):
    return noisy(x.mul_(0.5), draws)


def chatty(x, *, draws, constants="auto"):
    print("perturbing")
    return noisy(x, draws)


def still(x, *, draws, constants="auto"):
    return clean_first(x, [x] * 11)


def always_the_same(x, *, draws, constants="auto"):
    return noisy(x, draws, purpose="noise")


def growing(x, *, draws, constants="auto"):
    return clean_first(x, [x + 0.02 * k * draws.normal(f"noise/{k}", x) for k in range(1, 12)])


def without_the_picture(x, *, draws, constants="auto"):
    return noisy(x, draws)[:, 1:]


def leaping(x, *, draws, constants="auto"):
    return torch.stack([x.roll(16 * (k % 2), -1) for k in range(12)], 1)


BROKEN = [
    (NOISE, one_picture, "keeps_form", "returned shape", {}),
    (NOISE, one_frame, "keeps_form", "1 frames", {}),
    (NOISE, cast, "keeps_form", "torch.float32", {}),
    (NOISE, graph, "keeps_form", "a graph", {}),
    (NOISE, stretched, "stays_on_levels", "returned values in", {}),
    (NOISE, global_noise, "draws_belong_to_samples", "other values for samples", {}),
    (NOISE, noise_by_row, "draws_belong_to_samples", "other values for samples", {}),
    (NOISE, of_the_batch, "draws_belong_to_samples", "other values for samples", {}),
    (NOISE, sound, "draws_belong_to_samples", "changes with the seed", {"stochastic": False}),
    (MOVE, MOVE.function, "draws_belong_to_samples", "does not change with the seed", {"stochastic": True}),
    (NOISE, in_place, "leaves_no_trace", "changed x", {}),
    (NOISE, chatty, "leaves_no_trace", "the terminal", {}),
    (NOISE, global_noise, "leaves_no_trace", "torch's generator", {}),
    (NOISE, still, "frames_change_as_the_card_says", "all the same", {}),
    (NOISE, always_the_same, "frames_change_as_the_card_says", "neighbours", {}),
    (NOISE, growing, "frames_change_as_the_card_says", "noise of mean size", {}),
    (NOISE, without_the_picture, "frames_change_as_the_card_says", "begins with another picture", {}),
    (NOISE, sound, "frames_change_as_the_card_says", "half a sequence apart", {"noise": False}),
    (MOVE, leaping, "frames_change_as_the_card_says", "half a sequence apart", {}),
    (NOISE, sound, "shows_what_lies_beyond", "never shows", {"context": True}),
    (NOISE, noise_by_row, "refuses_other_constants", "took constants", {}),
    (NOISE, sound, "explains_itself", "'x' is not documented", {}),
    (NOISE, NOISE.function, "explains_itself", "the card has no source", {"source": ""}),
]


@pytest.mark.parametrize(("card", "function", "check", "says", "facts"), BROKEN)
def test_broken_sequences_are_caught(card, function, check, says, facts):
    result = run_sequence_check(check, replace(card, function=function, **facts), "cifar-10-p")
    assert not result.passed
    assert says in result.message
    assert "inside the check" not in result.message, "the check crashed instead of judging"


def test_every_check_has_teeth():
    assert {case[2] for case in BROKEN} == set(SEQUENCE_CHECKS)


def test_all_checks_run_by_one_call():
    results = check_sequence(NOISE, ["cifar-10-p"])
    assert [result.name for result in results] == list(SEQUENCE_CHECKS)
    assert all(result.passed for result in results)


def test_a_foretold_failure_passes_and_an_unexpected_pass_fails():
    known = {"frames_change_as_the_card_says/cifar-10-p": "still"}
    broken = replace(NOISE, function=still, known_failures=known)
    assert run_sequence_check("frames_change_as_the_card_says", broken, "cifar-10-p").passed
    sound_one = replace(NOISE, known_failures=known)
    assert "Remove the entry" in run_sequence_check("frames_change_as_the_card_says", sound_one, "cifar-10-p").message
