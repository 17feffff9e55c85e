"""Deliberately broken attacks: each must be caught by the check that is there for it, and say why."""

import functools

import numpy as np
import pytest
import torch

from broken_attacks import BROKEN, MEMORY, card_of, global_noise, numpy_noise, one_weak_step, reseeding, sound
from robustscope.attacks import ATTACKS
from robustscope.contracts import CHECKS, checks_for, run_check


@pytest.mark.parametrize(("function", "check", "says", "norm", "facts"), BROKEN)
def test_the_broken_attack_is_caught(function, check, says, norm, facts):
    MEMORY.update(running=False, calls=0)
    result = run_check(check, card_of(function, **facts), norm)
    assert not result.passed
    assert says in result.message
    assert "inside the check" not in result.message, "the check crashed instead of judging"


def test_every_check_has_teeth():
    assert {case.values[1] for case in BROKEN} == set(CHECKS)
    assert len({case.values[0] for case in BROKEN}) >= 20


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"explains_itself"}))
def test_the_sound_reference_passes(name, norm):
    result = run_check(name, card_of(sound), norm)
    assert result.passed, result.message


def test_pgd_must_pass_everything():
    """test_contracts.py runs the checks; here: PGD may skip none and has no excuse."""
    assert set(checks_for(ATTACKS["pgd"])) == set(CHECKS)
    assert not ATTACKS["pgd"].known_failures


def test_a_foretold_failure_passes_and_an_unexpected_pass_fails():
    weak = card_of(one_weak_step, known_failures={"solves_the_linear_problem": "one weak step"})
    result = run_check("solves_the_linear_problem", weak, "linf")
    assert result.passed
    assert result.expected_failure == "one weak step"
    assert "at 1.10 times" in result.message
    strong = card_of(sound, known_failures={"solves_the_linear_problem": "one weak step"})
    result = run_check("solves_the_linear_problem", strong, "linf")
    assert not result.passed
    assert "Remove the entry" in result.message


def test_a_check_that_crashes_is_a_failure(monkeypatch):
    def crash(card, norm):
        raise ZeroDivisionError("oops")

    monkeypatch.setitem(CHECKS, "keeps_form", crash)
    result = run_check("keeps_form", card_of(sound), "linf")
    assert not result.passed
    assert "ZeroDivisionError was raised inside the check: oops" in result.message


def test_checks_leave_the_global_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for name in CHECKS:
        run_check(name, card_of(functools.wraps(sound)(global_noise)), "linf")
        torch.set_rng_state(before[0])
    run_check("leaves_global_randomness_alone", card_of(reseeding), "linf")
    run_check("leaves_global_randomness_alone", card_of(numpy_noise), "linf")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
