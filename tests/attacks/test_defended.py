"""Gradients through defences: BPDA and EOT against closed forms, and deployed classifiers that are functions."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from digits_bed import digits, fitted
from robustscope.attacks.adaptive import multi_targeted
from robustscope.attacks.compose import attack
from robustscope.contracts.trial import other_global_numbers
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, ModelError
from robustscope.data import problems
from robustscope.defenses.apply import transformation
from robustscope.models.classifier import Classifier
from robustscope.models.defended import Transformation, defend, randomised, replaced
from robustscope.models.fingerprints import fingerprint
from robustscope.models.randomness import random_state, same_random_state

QUARTERS = Transformation("quarters", lambda x: (x * 4).round() / 4)


def noise(sigma):
    return Transformation("noise", lambda x, draws: x + sigma * draws.normal("n", x), stochastic=True, backward="exact")


def pictures(n):
    """The linear model of the digits as one of pictures, with samples, classes and exact linf radii."""
    model, x, y, radius = digits("linf", n)
    module = nn.Sequential(nn.Flatten(), model.module).eval()
    return replace(model, module=module), x.view(-1, 1, 8, 8), y, radius


# The backward pass.


def test_values_are_exact_and_derivatives_those_of_the_approximation():
    x = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    out = replaced(x.detach().round(), torch.sin(3 * x))
    assert torch.equal(out, x.round())
    (gradient,) = torch.autograd.grad((out * 2).sum(), x)
    torch.testing.assert_close(gradient, 6 * torch.cos(3 * x))
    with pytest.raises(ModelError, match="backward="):
        replaced(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("kind", ["identity", "surrogate", "numpy"])
def test_the_gradient_of_the_network_is_taken_where_the_network_looks(kind):
    torch.manual_seed(0)
    p = problems.smooth_cnn(torch.float64, n=6)
    made = {
        "identity": QUARTERS,
        "surrogate": replace(QUARTERS, backward=lambda x: x**2),
        "numpy": Transformation("numpy", lambda x: torch.from_numpy(np.round(x.numpy() * 4) / 4)),
    }[kind]
    model = defend(Classifier(p.module, mean=(0.2, 0.4), std=(0.5, 0.25)), made)
    seen = p.x.mul(4).round().div(4).requires_grad_()
    mean, std = torch.tensor([[0.2, 0.4], [0.5, 0.25]], dtype=torch.float64).view(2, 1, 2, 1, 1)
    logits = p.module((seen - mean) / std)
    (due,) = torch.autograd.grad(logits.gather(1, p.y[:, None]).sum(), seen)
    due = due * 2 * p.x if kind == "surrogate" else due
    _, gradients, out = model.gradient(lambda z, rows: z.gather(1, p.y[rows][:, None])[:, 0], p.x)
    torch.testing.assert_close(gradients, due)
    torch.testing.assert_close(out, logits.detach())
    torch.testing.assert_close(model.logits(p.x), logits.detach())


def test_without_the_approximation_rounding_hides_the_gradient():
    p = problems.smooth_cnn(torch.float64, n=6)
    model = Classifier(p.module)
    threat = "linf:0.12"
    hidden = attack("pgd", defend(model, replace(QUARTERS, backward="exact")), p.x, p.y, threat)
    through = attack("pgd", defend(model, QUARTERS), p.x, p.y, threat)
    assert through.verdict.success.sum() > hidden.verdict.success.sum()
    y = p.y
    _, gradients, _ = defend(model, QUARTERS, approximate=False).gradient(
        lambda z, rows: z.gather(1, y[rows][:, None])[:, 0], p.x
    )
    assert not gradients.any()


@pytest.mark.parametrize(("name", "facts"), [("bit_depth", {"depth": 4}), ("jpeg", {"quality": 90})])
def test_bpda_brings_the_linear_model_back_to_its_exact_robust_accuracy(name, facts):
    model, x, y, radius = pictures(150)
    defended = defend(model, transformation(name, **facts))
    exact = (radius > 0.08).double().mean()
    outcome = multi_targeted("pgd", defended, x, y, "linf:0.08", count=3, loss="margin", steps=20)
    left = (~outcome.verdict.success).double().mean()
    assert abs(left - exact) <= 0.02
    assert 1 - left >= 0.9 * (1 - exact)
    oblivious = attack("pgd", model, x, y, "linf:0.08", loss="margin").result.x_adv
    assert (defended.logits(oblivious).argmax(1) == y).double().mean() >= exact + 0.05


# Means over draws.


@pytest.mark.parametrize("draws", [1, 4])
def test_noise_before_a_linear_model_shifts_its_bias_and_nothing_else(draws):
    model, x, y, radius = digits("linf", 80)
    weight, bias, _, _ = fitted()
    made = noise(0.5)
    numbers = [Draws(0, (k,), "defended/noise/verdict").within("noise").normal("n", x[:1])[0] for k in range(draws)]
    shift = 0.5 * torch.stack(numbers).mean(0)
    defended = defend(model, made, verdict_draws=draws, gradient_draws=2)
    torch.testing.assert_close(defended.logits(x), model.logits(x) + weight @ shift)
    exact = problems.linear_distance("linf", weight, bias + weight @ shift, x, y)
    outcome = multi_targeted("pgd", defended, x, y, "linf:0.08", loss="margin", steps=20)
    assert torch.equal(~outcome.verdict.success, exact > 0.08)
    assert abs((exact > 0.08).sum() - (radius > 0.08).sum()) > 3, "few draws decide otherwise than the expectation"


def test_many_draws_come_back_to_the_closed_form_without_noise():
    model, x, y, radius = digits("linf", 80)
    defended = defend(model, noise(0.2), verdict_draws=200, gradient_draws=1)
    outcome = multi_targeted(
        "pgd", defended, x, y, "linf:0.08", count=2, loss="margin", steps=10, relative_step_size=0.25
    )
    assert abs((~outcome.verdict.success).sum() - (radius > 0.08).sum()) <= 2


def bent():
    """A network whose gradient at one noisy point says little: a sum of waves, two classes."""

    class Waves(nn.Module):
        def forward(self, x):
            z = (x - 0.5).sum(1) + 0.25 * torch.sin(20 * x).sum(1)
            return torch.stack([z, -z], 1)

    return Classifier(Waves().eval())


def test_the_mean_over_draws_points_where_one_draw_does_not():
    model, made = bent(), noise(0.2)
    x = torch.full((40, 30), 0.5) + Draws(0, tuple(range(40))).uniform("x", torch.empty(40, 30), 0.02, 0.12)
    y = torch.zeros(40, dtype=torch.int64)
    left = {}
    for count in (1, 20):
        defended = defend(model, made, verdict_draws=64, gradient_draws=count)
        assert (defended.logits(x).argmax(1) == 0).all()
        outcome = attack("pgd", defended, x, y, "linf:0.1", steps=10, relative_step_size=0.25)
        left[count] = (~outcome.verdict.success).sum()
    assert left[1] == 40
    assert left[20] <= 4


def test_the_attack_does_not_use_the_draws_that_decide():
    x = torch.rand(2, 6, dtype=torch.float64)
    seen = []

    def function(x, draws):
        seen.append((torch.is_grad_enabled(), tuple(draws.normal("n", x[:, :1]).flatten().tolist())))
        return x

    module = nn.Linear(6, 3).double().eval()
    model = defend(
        Classifier(module), Transformation("spy", function, True, "exact"), verdict_draws=3, gradient_draws=4
    )
    model.gradient(lambda z, rows: z[:, 0], x)
    verdict, gradient = ({n for graded, n in seen if graded is kind} for kind in (False, True))
    assert (len(verdict), len(gradient), verdict & gradient) == (3, 4, set())
    assert all(a == b for a, b in verdict | gradient), "every input meets the same draws"


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_means_of_logits_and_of_probabilities(average):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x, made = torch.rand(4, 6, dtype=torch.float64), noise(0.7)
    each = torch.stack([module(made.apply(x, Draws(5, (k,) * 4, "defended/noise/verdict"))).detach() for k in range(7)])
    due = each.mean(0) if average == "logits" else each.softmax(2).mean(0).log()
    model = defend(Classifier(module), made, verdict_draws=7, average=average, seed=5)
    torch.testing.assert_close(model.logits(x), due)


# Functions of the input alone.


class OwnNoise(nn.Module):
    """Draws from the global generators of torch, NumPy and Python, as published defences do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3).double()

    def forward(self, x):
        shift = torch.randn_like(x) + np.random.standard_normal() + random.random()
        return self.linear((x + 0.3 * shift).tanh())


def stochastic_subjects():
    torch.manual_seed(0)
    own = OwnNoise().eval()
    return {
        "own noise": randomised(Classifier(own), verdict_draws=3, gradient_draws=2),
        "transformation": defend(Classifier(own.linear), noise(0.5), verdict_draws=3, gradient_draws=2),
    }


@pytest.mark.parametrize("name", ["own noise", "transformation"])
def test_a_stochastic_defence_is_a_function_of_its_input(name):
    model = stochastic_subjects()[name]
    x = torch.rand(5, 6, dtype=torch.float64)

    def ask(part):
        return torch.cat([model.gradient(lambda z, rows: z[:, 0] - z[:, 1], part)[1], model.logits(part)], 1)

    with other_global_numbers(1):
        whole = ask(x)
    with other_global_numbers(2):
        before = random_state()
        again = ask(x)
        assert same_random_state(before, random_state())
    assert torch.equal(whole, again)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(ask(x[order]), whole[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([ask(row) for row in x.split(1)]), whole, rtol=0, atol=1e-12)
    assert (whole[:, 6:] - whole[:1, 6:]).abs().max() > 1e-3
    twin = stochastic_subjects()[name]
    other = replace(twin, module=type(twin.module)(**_settings(twin.module)))
    assert not torch.equal(other.logits(x), twin.logits(x)), "another seed decides otherwise"


def _settings(module):
    facts = {"door": module._door, "verdict_draws": 3, "gradient_draws": 2, "average": "logits", "seed": 1}
    if hasattr(module, "_transformation"):
        facts |= {"transformation": module._transformation, "approximate": True}
    return facts


def test_a_bare_stochastic_network_is_none():
    model = Classifier(OwnNoise().eval())
    x = torch.rand(3, 6, dtype=torch.float64)
    assert not torch.equal(model.logits(x), model.logits(x))


def test_an_empty_batch_passes():
    for model in stochastic_subjects().values():
        assert model.logits(torch.rand(0, 6, dtype=torch.float64)).shape[0] == 0


def test_rows_are_questions_to_the_whole_defence():
    model = stochastic_subjects()["transformation"]
    x, y = torch.rand(4, 6, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    result = attack("pgd", model, x, model.logits(x).argmax(1), "linf:0.001", steps=5).result
    assert result.forward.tolist() == [6] * 4
    assert result.backward.tolist() == [5] * 4
    assert y.numel() == 4


def test_fingerprints_tell_defences_apart():
    model = Classifier(nn.Linear(6, 3).eval())
    marks = {
        fingerprint(defend(model, made, **facts).module)
        for made, facts in (
            (transformation("bit_depth", depth=3), {}),
            (transformation("bit_depth", depth=4), {}),
            (transformation("gaussian_noise"), {}),
            (transformation("gaussian_noise"), {"verdict_draws": 8}),
            (transformation("gaussian_noise"), {"seed": 1}),
            (QUARTERS, {}),
            (noise(0.1), {}),
        )
    }
    assert len(marks) == 7


def test_what_cannot_be_is_refused():
    model = Classifier(nn.Linear(4, 3).eval())
    with pytest.raises(InvalidValue, match="gradient_draws=0"):
        defend(model, QUARTERS, gradient_draws=0)
    with pytest.raises(InvalidValue, match="average="):
        defend(model, QUARTERS, average="votes")
    with pytest.raises(InvalidValue, match="without draws"):
        noise(0.1).apply(torch.zeros(1, 4))
    with pytest.raises(InvalidValue, match="backward="):
        Transformation("t", lambda x: x, backward="none")
    with pytest.raises(InvalidType, match="function="):
        Transformation("t", 3)
    shrinking = defend(model, Transformation("half", lambda x: x[:, ::2]))
    with pytest.raises(ModelError, match="an approximation of the same form is allowed"):
        shrinking.gradient(lambda z, rows: z[:, 0], torch.rand(2, 8))
