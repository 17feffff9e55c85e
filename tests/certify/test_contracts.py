"""Every certifier keeps its contract, and the contract catches those that do not."""

from dataclasses import replace

import pytest
import torch

from robustscope.certify import CERTIFIERS, CertifierCard
from robustscope.certify.relaxations import Curved, Kinked, Lines
from robustscope.contracts.certifiers import CERTIFIER_CHECKS, check_certifier, run_certifier_check

CASES = [(card, norm, name) for card in CERTIFIERS for norm in card.norms for name in CERTIFIER_CHECKS]


@pytest.mark.parametrize(("card", "norm", "name"), [pytest.param(*c, id=f"{c[0].name}-{c[1]}-{c[2]}") for c in CASES])
def test_contract(card, norm, name):
    result = run_certifier_check(name, card, norm)
    assert result.passed, result.message


def changed(**facts):
    """Return crown with a change to what it returns."""

    def function(model, x, y, threat):
        found = CERTIFIERS["crown"].function(model, x, y, threat)
        return replace(found, **{name: change(found) for name, change in facts.items()})

    function.__doc__ = CERTIFIERS["crown"].function.__doc__
    return function


def coupled(model, x, y, threat):
    found = CERTIFIERS["crown"].function(model, x, y, threat)
    if not len(x):
        return found
    return replace(found, lower_margin=torch.minimum(found.lower_margin, found.lower_margin.amin() / 2))


def talkative(model, x, y, threat):
    print("certifying")
    return CERTIFIERS["crown"].function(model, x, y, threat)


def meddling(model, x, y, threat):
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    return CERTIFIERS["crown"].function(model, x, y, threat)


def lazy(model, x, y, threat):
    """Certify the inputs only."""
    return CERTIFIERS["crown"].function(model, x, y, replace(threat, epsilon=0.0))


def timid(model, x, y, threat):
    found = CERTIFIERS["crown"].function(model, x, y, threat)
    return replace(found, status=("unknown",) * len(x))


def sampled(model, x, y, threat):
    """Attack at random corners, and call what was not broken certified: the oldest mistake."""
    found = CERTIFIERS["crown"].function(model, x, y, threat)
    if not len(x):
        return found
    logits = model.logits(x)
    margin = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return replace(found, lower_margin=margin / 2, status=("verified",) * len(x))


def overstated(found):
    return found.lower_margin + 0.02


BROKEN = {
    "overstates by 0.02": (
        changed(lower_margin=overstated),
        {"is_never_broken", "zero_epsilon_gives_the_clean_margin"},
    ),
    "certifies what it has sampled": (sampled, {"is_never_broken", "solves_the_linear_problem"}),
    "certifies the inputs only": (lazy, {"is_never_broken", "solves_the_linear_problem"}),
    "verifies nothing": (timid, {"solves_the_linear_problem"}),
    "couples samples": (coupled, {"couples_no_samples"}),
    "prints": (talkative, {"leaves_no_trace"}),
    "freezes the weights": (meddling, {"leaves_no_trace"}),
    "miscounts": (changed(forward=lambda found: found.forward * 2), {"leaves_no_trace"}),
    "verifies negative bounds": (changed(status=lambda found: ("verified",) * len(found.status)), {"keeps_form"}),
    "returns NaN": (changed(lower_margin=lambda found: found.lower_margin * float("nan")), {"keeps_form"}),
    "returns float32": (changed(lower_margin=lambda found: found.lower_margin.float()), {"keeps_form"}),
    "returns no certificate": (lambda model, x, y, threat: x, {"keeps_form"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_certifiers_are_caught(name):
    function, due = BROKEN[name]
    crown = CERTIFIERS["crown"]
    card = CertifierCard("broken", function, 1, "none", norms=crown.norms, layers=crown.layers, bibtex="none")
    failing = {check for check in due if not run_certifier_check(check, card, "linf").passed}
    assert failing == due


def too_low(self, lower, upper, whole=Kinked.lines):
    """Return a line above that cuts off the corner."""
    lines = whole(self, lower, upper)
    return Lines(
        lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset * 0.5, lines.free, lines.least
    )


def chord_for_all(self, lower, upper, whole=Curved.lines):
    """Return the chord on both sides, as if a curve were straight."""
    lines = whole(self, lower, upper)
    slope = (self.value(upper) - self.value(lower)) / (upper - lower).clamp(min=1e-12)
    offset = self.value(lower) - slope * lower
    return Lines(slope, offset, slope, offset, lines.free, lines.least)


def boastful(model, x, y, threat, *, draws, noise: float = 0.25, first_votes: int = 50, votes: int = 1000):
    """Certify with more noise than the classifier that is deployed has, and add a little."""
    found = CERTIFIERS["smoothing"].function(
        model, x, y, threat, draws=draws, noise=2 * noise, first_votes=first_votes, votes=votes
    )
    return replace(found, lower_margin=(found.lower_margin + 1).clamp(max=1.0), status=("verified",) * len(x))


def test_a_boastful_vote_is_caught():
    card = replace(CERTIFIERS["smoothing"], function=boastful)
    failing = {name for name in CERTIFIER_CHECKS if not run_certifier_check(name, card, "l2").passed}
    assert {"is_never_broken", "solves_the_linear_problem", "zero_epsilon_gives_the_clean_margin"} <= failing


@pytest.mark.parametrize(("kind", "broken"), [(Kinked, too_low), (Curved, chord_for_all)])
def test_a_wrong_line_is_caught(kind, broken, monkeypatch):
    monkeypatch.setattr(kind, "lines", broken)
    assert not run_certifier_check("is_never_broken", CERTIFIERS["crown"], "linf").passed


def test_a_whole_card_can_be_checked():
    results = check_certifier(CERTIFIERS["ibp"], ("linf",))
    assert [result.name for result in results] == list(CERTIFIER_CHECKS)
    assert all(result.passed for result in results)
    foretold = replace(CERTIFIERS["ibp"], known_failures={"keeps_form": "an invented reason"})
    assert not run_certifier_check("keeps_form", foretold, "linf").passed
