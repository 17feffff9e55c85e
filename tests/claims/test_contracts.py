"""Every claim keeps its contract, and deliberately broken claims are caught."""

import dataclasses

import pytest
import torch

from robustscope.claims import CLAIMS, Effect, Evidence, Plot, Rule
from robustscope.claims.effects import column, difference, exact
from robustscope.contracts.claims import check_claim

TSIPRAS = CLAIMS["tsipras2018"]


@pytest.mark.parametrize("name", [card.name for card in CLAIMS])
def test_contract(name):
    failing = {result.name: result.message for result in check_claim(CLAIMS[name]) if not result.passed}
    assert not failing


def honest(lab, *, samples: int = 40):
    """Compare.

    Args:
        lab: where.
        samples: how many.

    Returns:
        One effect.
    """
    batch = lab.samples(samples)
    networks = {"standard": {"objective": "standard"}, "fgsm": {"objective": "fgsm"}}

    def measure(subject):
        return {"accuracy": 100 * float(lab.correct(subject, batch).double().mean())}

    rows = lab.table(networks, 2, measure, epochs=1, samples=100)
    gap = difference(column(rows, "accuracy", network="fgsm"), column(rows, "accuracy", network="standard"))
    return Evidence({"gap": gap}, {"networks": rows}, (Plot("networks", "bars", "network", "accuracy"),))


def made(function, **facts):
    card = dataclasses.replace(
        CLAIMS["etmann2019"],
        name="made",
        function=function,
        rules=(Rule("gap", "points", "above", 5.0, 0.0),),
        cause=("objective",),
        full={},
        quick={},
    )
    return dataclasses.replace(card, **facts)


def failing(card):
    return {result.name for result in check_claim(card) if not result.passed}


def test_an_honest_claim_passes():
    assert failing(made(honest)) == set()


def changed(**facts):
    def claim(lab, *, samples: int = 40):
        found = honest(lab, samples=samples)
        return dataclasses.replace(found, **facts)

    claim.__doc__ = honest.__doc__
    return claim


def global_noise(lab, *, samples: int = 40):
    return Evidence({"gap": exact(float(torch.rand(())))})


def prejudice(lab, *, samples: int = 40):
    honest(lab, samples=samples)
    return Evidence({"gap": exact(50.0)})


global_noise.__doc__ = prejudice.__doc__ = honest.__doc__


@pytest.mark.parametrize(
    ("card", "check"),
    [
        (made(global_noise), "same_seed_same_evidence"),
        (made(prejudice), "needs_its_cause"),
        (made(honest, recipe=""), "explains_itself"),
        (made(honest, finding=""), "explains_itself"),
        (made(honest, quick={"sample": 3}), "explains_itself"),
        (made(honest, rules=(Rule("gap", "points", "above", 0.0, 5.0),)), "has_rules_that_can_fall_either_way"),
        (made(honest, rules=(Rule("gain", "points", "above", 5.0),)), "returns_what_its_rules_judge"),
        (made(changed(effects={"gap": exact(float("nan"))})), "returns_what_its_rules_judge"),
        (made(changed(effects={"gap": Effect(9.0, 1.0, 2.0, 3, "networks")})), "returns_what_its_rules_judge"),
        (made(changed(tables={"networks": []})), "returns_what_its_rules_judge"),
        (
            made(changed(tables={"networks": [{"network": "a", "accuracy": torch.zeros(1)}]})),
            "returns_what_its_rules_judge",
        ),
        (made(changed(plots=(Plot("networks", "lines", "epoch", "accuracy"),))), "returns_what_its_rules_judge"),
        (dataclasses.replace(TSIPRAS, function=lambda lab: None), "returns_what_its_rules_judge"),
    ],
)
def test_a_broken_claim_is_caught(card, check):
    assert check in failing(card)
