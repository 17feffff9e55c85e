"""Every registered attack keeps its contract, for every norm it declares."""

import inspect

import pytest

from robustscope.attacks import ATTACKS
from robustscope.contracts import CHECKS, ContractBroken, check, checks_for, load_card, run_check, run_checks
from robustscope.core.errors import InvalidType, InvalidValue, MissingFile, UnknownName

CASES = [(card, norm, name) for card in ATTACKS for norm in card.kinds for name in checks_for(card, norm)]


@pytest.mark.parametrize(("card", "norm", "name"), [pytest.param(*c, id=f"{c[0].name}-{c[1]}-{c[2]}") for c in CASES])
def test_contract(card, norm, name):
    result = run_check(name, card, norm)
    assert result.passed, result.message


def test_the_list_of_checks_is_the_designed_one():
    assert len(CHECKS) == 20
    for name, function in CHECKS.items():
        assert function.__name__ == name
        assert inspect.getdoc(function)


def test_checks_are_chosen_by_the_card():
    assert "more_restarts_never_hurt" not in checks_for(ATTACKS["fgsm"])
    assert "more_restarts_never_hurt" in checks_for(ATTACKS["pgd"])
    assert "beats_noise" not in checks_for(ATTACKS["noise_uniform"])
    assert set(checks_for(ATTACKS["pgd"])) == set(CHECKS)


def test_run_checks_covers_norms_times_checks():
    results = run_checks(ATTACKS["rfgsm"])
    assert [r.name for r in results] == list(checks_for(ATTACKS["rfgsm"]))
    foretold = {r.name for r in results if r.expected_failure}
    assert foretold == {"solves_the_linear_problem"}
    assert all(r.passed for r in results)
    with pytest.raises(InvalidValue, match="l1"):
        run_checks(ATTACKS["rfgsm"], ("l1",))
    with pytest.raises(UnknownName, match="keeps_form"):
        run_check("keep_form", ATTACKS["rfgsm"], "linf")


OWN = '''
from robustscope.core.types import AttackResult


def lazy(model, x, y, threat, *, draws, targets=None):
    """Return the inputs.

    Args:
        model: unused.
    """
    return AttackResult(x.clone(), y * 0, y * 0)


def nonsense(a, b):
    return a + b
'''


def test_a_stranger_s_attack_is_checked(tmp_path, monkeypatch):
    (tmp_path / "my_own_attacks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    for target in ("my_own_attacks:lazy", str(tmp_path / "my_own_attacks.py") + ":lazy"):
        card = load_card(target)
        assert (card.name, card.norms, card.goals, card.stochastic) == ("lazy", ("linf",), ("untargeted",), False)
        assert load_card(target, ("l2", "l1")).norms == ("l2", "l1")
        results = {r.name: r for r in check(target)}
        failing = {name for name, r in results.items() if not r.passed}
        assert failing == {"beats_noise", "solves_the_linear_problem", "explains_itself"}
        assert "the parameter 'threat' is not documented" in results["explains_itself"].message
    with pytest.raises(InvalidType, match="signature"):
        load_card("my_own_attacks:nonsense")
    with pytest.raises(UnknownName, match="lazy"):
        load_card("my_own_attacks:lasy")


def test_names_are_found_or_refused():
    assert load_card("pgd") is ATTACKS["pgd"]
    assert load_card("robustscope.attacks.pgd:pgd") is ATTACKS["pgd"]
    with pytest.raises(UnknownName, match="Did you mean 'fgsm'"):
        load_card("fgms")
    with pytest.raises(MissingFile):
        load_card("no_such_module_here:attack")
    with pytest.raises(MissingFile):
        load_card("no/such/file.py:attack")


def test_the_error_reads_in_three_parts():
    error = ContractBroken("it did that", "this is allowed", "Do so.")
    assert isinstance(error, AssertionError)
    assert str(error) == "it did that; this is allowed. Do so."
