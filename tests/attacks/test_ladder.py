"""The ladder: the exact counts of a linear model, what it costs there, and that it goes on where gradients mislead."""

import pytest
import torch

from digits_bed import digits
from robustscope.attacks.compose import attack
from robustscope.attacks.prospects import look
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

COUNTS = {("linf", 0.05): 657, ("linf", 0.1): 456, ("linf", 0.15): 207, ("l2", 0.5): 440, ("l2", 0.8): 149}


@pytest.mark.parametrize(("norm", "epsilon"), list(COUNTS))
def test_the_exact_count_of_the_digits_is_reached_at_a_fraction_of_the_cost(norm, epsilon):
    model, x, y, radius = digits(norm, 743)
    outcome = attack("ladder", model, x, y, ThreatModel(norm, epsilon))
    exact = radius > epsilon
    assert int(exact.sum()) == COUNTS[norm, epsilon]
    assert not (outcome.verdict.success & exact).any(), "an exactly robust sample was broken"
    assert int((~outcome.verdict.success).sum()) == COUNTS[norm, epsilon]
    survivors = int(exact.sum())
    # Dear for the ladder: in 64 dimensions search by scores comes nearly as far as gradients, so that it looks misled.
    assert outcome.result.backward.sum() / survivors < 1910 / 4
    assert outcome.result.forward.sum() / survivors < 7888 / 4


def test_a_look_expects_what_a_linear_model_does():
    for norm, epsilon in (("linf", 0.1), ("l2", 0.5)):
        model, x, y, radius = digits(norm, 60)
        known, first = look(model, x, y, ThreatModel(norm, epsilon))
        left = known.clean - known.expected
        assert torch.equal(left > 0, radius > epsilon), "linear: what is expected is what happens"
        logits = model.logits(first)
        reached = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, known.order[:, :1])[:, 0]
        assert torch.allclose(reached, left, atol=1e-9)


class Staircase(torch.nn.Module):
    """A network behind an input in steps of 1/40: its gradient is zero almost everywhere."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        steps = torch.floor(40 * x) / 40
        return self.inner(steps) + 0 * self.inner(x)


def test_it_goes_on_without_gradients_where_they_vanish():
    p = problems.smooth_cnn(n=12)
    masked = Classifier(Staircase(p.module).eval(), p.bounds)
    y = masked.logits(p.x).argmax(1)
    threat = ThreatModel("linf", 0.15, p.bounds)
    draws = Draws(0, tuple(range(12)))
    whole = attack("ladder", masked, p.x, y, threat, draws=draws)
    blind = attack("ladder", masked, p.x, y, threat, draws=draws, search=False)
    square = attack("square", masked, p.x, y, threat, draws=draws)
    broken = {
        name: int(o.verdict.success.sum()) for name, o in (("whole", whole), ("blind", blind), ("square", square))
    }
    assert broken["blind"] < broken["square"] / 2, f"without its search the ladder must fail here: {broken}"
    assert broken["whole"] >= broken["square"] - 1, broken  # one of 12 is given up before its scores tell
    assert whole.result.forward.sum() > blind.result.forward.sum(), "it paid for it"


def test_samples_far_from_any_boundary_cost_little():
    model, x, y, _ = digits("linf", 200)
    outcome = attack("ladder", model, x, y, ThreatModel("linf", 0.01))
    assert float(outcome.result.backward.double().median()) <= 20
    assert float(outcome.result.forward.double().median()) <= 20


def test_thorough_spends_on_every_sample():
    model, x, y, _ = digits("linf", 5)
    outcome = attack("ladder", model, x, y, ThreatModel("linf", 0.01), thorough=True, search=False)
    assert (outcome.result.backward > 1000).all()
