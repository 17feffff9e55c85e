"""Training on bounds: closed forms, agreement with the certifiers, and digits that are certified and not broken."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from objective_bed import Linear, call, rectified
from robustscope.attacks.cards import ATTACKS
from robustscope.certify import certify
from robustscope.certify.operations import Matrix
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data.datasets import load_data
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.training import OBJECTIVES, Recipe, train
from robustscope.training.bounded import Margins, live_graph, worst_cross_entropy
from robustscope.training.loop import Training
from robustscope.training.network import Network

RECIPE = Recipe(
    data="digits#train",
    objective="ibp",
    threat="linf:0.1",
    model="perceptron",
    model_parameters={"hidden": [40]},
    validation=30,
    epochs=8,
    batch_size=64,
    optimizer="adam",
    learning_rate=5e-3,
    weight_decay=0.0,
    validation_steps=1,
    epsilon_ramp=0.5,
    best_by="last",
)


def convolutional():
    """Return a network with every kind of layer that bounds treat by themselves, in training mode."""
    generator = torch.Generator().manual_seed(3)
    layers = [nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(27, 5)]
    module = nn.Sequential(*layers, nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        module[1].running_mean.uniform_(-0.2, 0.2, generator=generator)
        module[1].running_var.uniform_(0.5, 2.0, generator=generator)
    return module, torch.rand(6, 1, 6, 6, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", ["ibp", "crown_ibp"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_model_the_loss_is_the_closed_form(name, norm):
    bed = Linear()
    (term,) = call(name, bed.module, bed.x, bed.y, f"{norm}:0.05", kappa=0.25, ramp=0.0)
    expected = 0.25 * softplus(-bed.margin) + 0.75 * softplus(0.05 * bed.dual(norm) - bed.margin)
    torch.testing.assert_close(term.losses, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_margins_are_those_of_the_certifiers(norm):
    module, x, y = convolutional()
    margins = Margins(Network(module), x, y, ThreatModel(norm, 0.1))
    assert all(part.training for part in module.modules())
    model = Classifier(module.eval())
    ibp = certify("ibp", model, x, y, f"{norm}:0.1").lower_margin
    crown = certify("crown", model, x, y, f"{norm}:0.1", intermediate="ibp", stop_early=False).lower_margin
    intervals, lines = margins.by_intervals().amin(1), margins.by_lines().amin(1)
    if norm == "linf":
        torch.testing.assert_close(intervals, ibp, atol=1e-10, rtol=0)
        torch.testing.assert_close(torch.maximum(intervals, lines), crown, atol=1e-10, rtol=0)
    else:  # certifiers take a closer minimum over ball and bounds together
        assert bool((intervals <= ibp + 1e-10).all())
        assert bool((lines <= crown + 1e-10).all())


@pytest.mark.parametrize("kind", ["by_intervals", "by_lines"])
@pytest.mark.parametrize("layer", [0, 1, 5])
def test_bounds_carry_gradients_to_every_weight(kind, layer):
    module, x, y = convolutional()

    def loss():
        return worst_cross_entropy(getattr(Margins(Network(module), x, y, ThreatModel("linf", 0.1)), kind)()).sum()

    for weight in (module[layer].weight, module[layer].bias):
        (gradient,) = torch.autograd.grad(loss(), weight)
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        with torch.no_grad():
            weight += 1e-6 * direction
            above = loss()
            weight -= 2e-6 * direction
            below = loss()
            weight += 1e-6 * direction
        slope = (gradient * direction).sum()
        assert slope.abs() > 1e-3
        torch.testing.assert_close((above - below) / 2e-6, slope.detach(), atol=1e-6, rtol=1e-5)


def test_the_live_graph_is_the_module_in_evaluation_mode():
    module, x, _ = convolutional()
    graph = live_graph(Network(module, mean=(0.4,), std=(0.2,)), x)
    torch.testing.assert_close(graph.evaluate(x), module.eval()((x - 0.4) / 0.2))


def test_worst_cross_entropy_is_that_of_the_worst_logits():
    module, x, y = rectified(), torch.rand(8, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    threat = ThreatModel("linf", 0.1)
    found = worst_cross_entropy(Margins(Network(module), x, y, threat).by_intervals())
    draws = Draws(0, tuple(range(8)))
    for trial in range(50):  # no point of the ball has a larger loss
        point = (x + 0.1 * draws.uniform(str(trial), x)).clamp(0, 1)
        assert bool((nn.functional.cross_entropy(module(point), y, reduction="none") <= found).all())


@pytest.mark.parametrize("name", ["ibp", "crown_ibp"])
def test_ledgers_count_rows_and_forms(name, monkeypatch):
    # Rows through the first matrix, counted there: clean rows by a hook, centres, half-widths and forms by the operation.
    card, rows = OBJECTIVES[name], [0]
    recipe = dataclasses.replace(RECIPE, objective=name, parameters=card.quick, samples=100, epochs=1)
    training = Training(recipe, None, None, None, (), None)
    first = training.network.module[1]
    first.register_forward_pre_hook(lambda module, inputs: rows.__setitem__(0, rows[0] + len(inputs[0])))

    def counting(door):
        def counted(self, *values):
            if self.weight is first.weight and len(values[0]) > 2:  # a probe of two rows finds the shapes
                rows[0] += len(values[0])
            return door(self, *values)

        return counted

    for door in ("forward", "spread", "backward"):
        monkeypatch.setattr(Matrix, door, counting(getattr(Matrix, door)))
    training._epoch()
    stated = card.passes({**card.resolve(card.quick), "classes": 10})
    assert rows[0] == 70 * stated.forward
    assert training.network.passes == dataclasses.replace(
        stated, forward=70 * stated.forward, backward=70 * stated.backward
    )


def test_weights_of_the_losses_follow_the_epochs():
    recipe = dataclasses.replace(RECIPE, objective="crown_ibp", samples=100, epochs=4)
    passes = [row["forward"] for row in train(recipe).history]
    # Clean alone, then CROWN beside intervals, then intervals alone.
    assert passes == [70, 70 + 70 * 12, 70 + 70 * 12 + 70 * 3, 70 + 70 * 12 + 2 * 70 * 3]


@pytest.mark.parametrize("name", ["ibp", "crown_ibp"])
def test_with_the_clean_loss_alone_it_is_standard_training_bit_for_bit(name):
    plain = dataclasses.replace(RECIPE, objective="standard", samples=80, epochs=1)
    other = dataclasses.replace(plain, objective=name, parameters=OBJECTIVES[name].neutral)
    a, b = train(plain).module.parameters(), train(other).module.parameters()
    assert all(torch.equal(one, two) for one, two in zip(a, b, strict=True))


def test_digits_are_certified_and_no_attack_breaks_what_is():
    data = load_data("digits#test")
    x, y = data.read(range(len(data))), torch.as_tensor(data.labels)
    model = Classifier(train(RECIPE).module)
    proof = certify("ibp", model, x, y, RECIPE.threat).verified
    right = model.logits(x).argmax(1) == y
    assert right.double().mean() > 0.85
    assert (proof & right).double().mean() > 0.3
    plain = Classifier(train(dataclasses.replace(RECIPE, objective="standard")).module)
    assert not bool(certify("ibp", plain, x, y, RECIPE.threat).verified.any())
    assert bool((certify("crown", model, x, y, RECIPE.threat).verified | ~proof).all())
    threat, draws = ThreatModel.parse(RECIPE.threat), Draws(0, tuple(range(len(x))))
    for name, settings in (("pgd", {"steps": 20}), ("fgsm", {})):
        found = ATTACKS[name].function(model, x, y, threat, draws=draws, **settings).x_adv
        assert not bool((is_adversarial(model.logits(found), y) & proof).any())


def test_a_layer_without_bounds_is_named():
    module = nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(InvalidValue, match="GELU"):
        call("ibp", module, torch.rand(3, 6), torch.tensor([0, 1, 0]), "linf:0.1", ramp=0.0)
