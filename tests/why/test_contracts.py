"""Every probe of causes keeps its contract, and the contract catches those that do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from robustscope.contracts.why import WHY_CHECKS, check_why, run_why_check
from robustscope.core.errors import InvalidValue
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier
from robustscope.probes.why import WHY, Findings
from robustscope.probes.why.compose import investigate

CASES = [(card, norm, name) for card in WHY for norm in card.norms for name in WHY_CHECKS]
MARGINS = WHY["margins"].function
BEFORE = []


@pytest.mark.parametrize(("card", "norm", "name"), [pytest.param(*c, id=f"{c[0].name}-{c[1]}-{c[2]}") for c in CASES])
def test_contract(card, norm, name):
    result = run_why_check(name, card, norm)
    assert result.passed, result.message


def changed(change, kind="columns"):
    """Return the probe of margins with a change to what it returns."""

    def function(model, x, y, threat, *, draws):
        found = MARGINS(model, x, y, threat, draws=draws)
        return replace(found, **{kind: change(getattr(found, kind), x, draws)})

    function.__doc__ = MARGINS.__doc__
    return function


def every(change):
    """Return the probe of margins with a change to each column."""
    return changed(lambda columns, x, draws: {name: change(column, x, draws) for name, column in columns.items()})


def global_noise(column, x, draws):
    return column + torch.rand(len(column), dtype=column.dtype)


def noise_by_row(column, x, draws):
    """Draw by the row of the batch, as a generator seeded once would."""
    generator = torch.Generator().manual_seed(draws.seed)
    return column + torch.randn(len(column), generator=generator, dtype=column.dtype)


def batch_mean(column, x, draws):
    return column / max(len(column), 1)


def reseeding(model, x, y, threat, *, draws):
    torch.manual_seed(0)
    return MARGINS(model, x, y, threat, draws=draws)


def remembering(model, x, y, threat, *, draws):
    BEFORE.append(0)
    found = MARGINS(model, x, y, threat, draws=draws)
    return replace(found, columns={name: column + len(BEFORE) for name, column in found.columns.items()})


def talkative(model, x, y, threat, *, draws):
    print("looking")
    return MARGINS(model, x, y, threat, draws=draws)


def hooked(model, x, y, threat, *, draws):
    next(model.module.modules()).register_forward_hook(lambda *seen: None)
    return MARGINS(model, x, y, threat, draws=draws)


def backward(model, x, y, threat, *, draws):
    for parameter in model.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return MARGINS(model, x, y, threat, draws=draws)


def in_place(model, x, y, threat, *, draws):
    found = MARGINS(model, x.clone(), y, threat, draws=draws)
    x.mul_(0.5)
    return found


def with_graph(model, x, y, threat, *, draws):
    found = MARGINS(model, x, y, threat, draws=draws)
    weight = next(model.module.parameters())
    return replace(found, columns={name: column + 0 * weight.sum() for name, column in found.columns.items()})


def undocumented(model, x, y, threat, *, draws, depth: int = 3):
    """Measure."""
    return MARGINS(model, x, y, threat, draws=draws)


BROKEN = {
    "returns float32": (every(lambda c, x, draws: c.float()), {"keeps_form"}),
    "returns a column of pairs": (every(lambda c, x, draws: torch.stack([c, c], 1)), {"keeps_form"}),
    "squeezes one sample": (every(lambda c, x, draws: c.squeeze()), {"keeps_form"}),
    "returns infinities": (every(lambda c, x, draws: 1 / (c - c)), {"keeps_form"}),
    "returns NaN without a gap": (every(lambda c, x, draws: c * torch.nan), {"keeps_form", "survives_flat_gradients"}),
    "keeps a graph": (with_graph, {"keeps_form"}),
    "has axes of no picture": (changed(lambda a, x, draws: {"loss": (np.arange(3),)}, "axes"), {"keeps_form"}),
    "returns a tensor": (lambda model, x, y, threat, *, draws: x, {"keeps_form"}),
    "divides by the batch": (every(batch_mean), {"couples_no_samples"}),
    "sorts the batch": (every(lambda c, x, draws: c.sort().values), {"couples_no_samples"}),
    "draws by the row": (every(noise_by_row), {"couples_no_samples"}),
    "has figures of the batch": (
        changed(lambda f, x, draws: {"n": float(len(x))}, "figures"),
        {"couples_no_samples", "says_what_it_returns"},
    ),
    "draws from the global generator": (every(global_noise), {"same_seed_same_result", "leaves_no_trace"}),
    "reseeds": (reseeding, {"leaves_no_trace"}),
    "remembers": (remembering, {"same_seed_same_result"}),
    "prints": (talkative, {"leaves_no_trace"}),
    "leaves a hook": (hooked, {"leaves_no_trace"}),
    "leaves gradients": (backward, {"leaves_no_trace"}),
    "changes x": (in_place, {"leaves_no_trace"}),
    "adds the first sample's": (every(lambda c, x, draws: c + c[:1].abs()), {"couples_no_samples"}),
    "declares less than it returns": (
        changed(lambda columns, x, draws: {**columns, "more": columns["logit_margin"]}),
        {"says_what_it_returns"},
    ),
    "declares more than it returns": (
        changed(lambda columns, x, draws: {"logit_margin": columns["logit_margin"]}),
        {"says_what_it_returns"},
    ),
    "explains nothing": (undocumented, {"explains_itself"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_probes_are_caught(name):
    function, due = BROKEN[name]
    card = replace(WHY["margins"], name="broken", function=function, gaps={})
    failing = {check for check in due if not run_why_check(check, card, "linf").passed}
    assert failing == due


def test_false_claims_of_invariance_are_caught():
    for name, changes in (("logit_margin", ("scale",)), ("probability_margin", ("scale", "shift"))):
        card = replace(WHY["margins"], invariant={name: changes})
        result = run_why_check("is_as_invariant_as_it_claims", card, "linf")
        assert not result.passed
        assert name in result.message


def test_undeclared_infinities_of_flat_networks_are_caught():
    def divides(model, x, y, threat, *, draws):
        margin, gradient, _ = model.gradient(lambda z, rows: z[:, 0] + 1, x)
        return Findings({"logit_margin": margin / gradient.flatten(1).norm(dim=1)})

    card = replace(WHY["margins"], function=divides, columns={"logit_margin": "a"}, gaps={})
    assert not run_why_check("survives_flat_gradients", card, "linf").passed


def test_faults_of_a_card_are_caught():
    card = WHY["margins"]
    for facts in (
        {"robust": {"margin": "higher"}},
        {"robust": {"logit_margin": "more"}},
        {"gaps": {"scaled_margin": " "}},
        {"columns": {**card.columns, "logit_margin": ""}},
        {"invariant": {"logit_margin": ("rotation",)}},
    ):
        assert not run_why_check("says_what_it_returns", replace(card, **facts), "linf").passed
    for facts in ({"source": ""}, {"bibtex": ""}, {"norms": ()}, {"quick": {"depth": 3}}):
        assert not run_why_check("explains_itself", replace(card, **facts), "linf").passed


def test_every_check_has_teeth():
    caught = set().union(*(due for _, due in BROKEN.values()))
    assert caught | {"is_as_invariant_as_it_claims"} == set(WHY_CHECKS)
    assert all(result.passed for result in check_why(WHY["margins"], ("l2",)))


def test_the_door_refuses_what_does_not_fit():
    model = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval())
    x, y = torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InvalidValue, match="infinite radius"):
        investigate("margins", model, x, y, "linf:inf")
    with pytest.raises(InvalidValue, match="norm='l0'"):
        investigate("margins", model, x, y, "l0:3")
    assert investigate("weight_sparsity", model, x, y, "l0:3").figures["weights"] == 12
    with pytest.raises(InvalidValue, match="one cue"):
        investigate("margins", model, x, y, "linf:0.1", targets=y)
    images = replace(WHY["margins"], inputs="images")
    with pytest.raises(InvalidValue, match="images"):
        investigate(images, model, x.flatten(1), y, "linf:0.1")
    box = Classifier(BlackBox(model.logits, num_classes=3, answers="scores"))
    with pytest.raises(InvalidValue):
        investigate("weight_sparsity", box, x, y, "linf:0.1")
