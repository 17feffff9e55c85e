"""What objectives that train on adversarial samples promise: passes, neutrality, half precision, memory."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from objective_drive import curved, drive, same, weights
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, ModelError
from robustscope.geometry.losses import cross_entropy
from robustscope.training import OBJECTIVES, Passes, Recipe, Step, train
from robustscope.training.loop import Training
from robustscope.training.network import Network

RECIPE = Recipe(
    data="digits#train",
    threat="linf:0.15",
    model_parameters={"width": 4},
    samples=150,
    validation=30,
    epochs=1,
    batch_size=32,
    optimizer="adam",
    learning_rate=3e-3,
    validation_steps=2,
    augment=("flip",),
)
VARIANTS = [
    ("atda", {}),
    ("atda", {"steps": 3}),
    ("awp", {"steps": 3}),
    ("awp", {"steps": 3, "weight_radius": 0.0}),
    ("fast", {"start": "previous"}),
    ("fgsm", {"labels": "predicted"}),
    ("free", {"replays": 3}),
    ("grad_align", {}),
    ("grad_align", {"weight": 0.0}),
    ("iaat", {"steps": 3, "warm_up": 0}),
    ("mart", {"steps": 3}),
    ("mmc", {"steps": 3}),
    ("mmc", {"steps": 0}),
    ("trades", {"steps": 3}),
    ("trades", {"beta": 0.0}),
    ("yopo", {"rounds": 2, "inner": 3}),
    ("yopo", {"rounds": 2, "inner": 3, "official_double_count": True}),
]
NAMES = sorted({name for name, _ in VARIANTS})


# What all of them promise.


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_ledgers_count_what_the_cards_say(name, settings):
    recipe = dataclasses.replace(RECIPE, objective=name, parameters=settings)
    training = Training(recipe, None, None, None, (), None)
    module, rows = training.network.module, {"first": 0, "last": 0, "back": 0}

    def back(gradient):
        rows["back"] += len(gradient)

    def last(part, inputs, output):
        rows["last"] += len(output)
        if output.requires_grad:
            output.register_hook(back)

    def first(part, inputs):
        rows["first"] += len(inputs[0])

    module[0].register_forward_pre_hook(first)
    module[-1].register_forward_hook(last)
    training._epoch()
    card = OBJECTIVES[name]
    stated, passes = card.passes(card.resolve(settings)), training.network.passes
    assert passes == Passes(120 * stated.forward, 120 * stated.backward, 120 * stated.partial)
    assert rows["last"] == passes.forward
    assert rows["first"] == passes.forward + passes.partial
    # Differentiating a gradient comes to the logits once more, and counts as two rows.
    twice = 120 if name == "grad_align" and settings != {"weight": 0.0} else 0
    assert rows["back"] == passes.backward - twice


@pytest.mark.parametrize("name", [name for name in NAMES if OBJECTIVES[name].neutral is not None])
def test_without_a_threat_it_is_standard_training_bit_for_bit(name):
    plain = dataclasses.replace(RECIPE, objective="standard", threat="linf:0")
    settings = {**OBJECTIVES[name].quick, **OBJECTIVES[name].neutral}
    other = dataclasses.replace(plain, objective=name, parameters=settings)
    assert same(weights(train(plain).module), weights(train(other).module))


@pytest.mark.parametrize(("name", "settings"), [*VARIANTS, ("pgd", {}), ("yopo", {"inner": 2, "rounds": 1})])
def test_the_factor_of_half_precision_changes_no_gradient(name, settings):
    module, x, y = curved()
    found = [drive(name, copy.deepcopy(module), x, y, "linf:0.1", scale=s, **settings) for s in (1.0, 64.0, 4096.0)]
    for other in found[1:]:
        assert [set(g) for g in other.gradients] == [set(g) for g in found[0].gradients]
        for a, b in zip(found[0].gradients, other.gradients, strict=True):
            for key in a:
                torch.testing.assert_close(b[key], a[key], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_gradients_of_half_precision_are_those_of_full_precision_but_for_rounding(name, settings):
    module, x, y = curved()
    module, x = module.float(), x.float()
    full = drive(name, copy.deepcopy(module), x, y, "linf:0.1", **settings)
    half = drive(name, copy.deepcopy(module), x, y, "linf:0.1", scale=2.0**13, precision=torch.float16, **settings)
    for a, b in zip(full.gradients, half.gradients, strict=True):
        for key in a:
            assert (a[key] - b[key]).norm() < 0.05 * a[key].norm() + 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("name", "settings"), [v for v in VARIANTS if v[0] not in ("atda", "awp")])
def test_a_sample_does_not_know_the_rest_of_its_batch(name, settings, norm):
    # ATDA compares distributions, and AWP perturbs the weights for all samples of a batch.
    module, x, y = curved()
    whole = drive(name, copy.deepcopy(module), x, y, f"{norm}:0.2", **settings)
    step, draws = Step(0, 1, torch.arange(6), 6, 12), Draws(0, tuple(range(6, 12)))
    half = drive(name, copy.deepcopy(module), x[6:], y[6:], f"{norm}:0.2", step=step, draws=draws, **settings)
    torch.testing.assert_close(half.losses[0], whole.losses[0][6:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_process_may_have_no_row_of_the_last_batch(name, settings):
    module, x, y = curved()
    step = Step(3, 9, torch.arange(0), 12, 12)
    out = drive(name, module, x[:0], y[:0], "linf:0.1", step=step, draws=Draws(0, ()), divide=1, **settings)
    assert all(bool((gradient == 0).all()) for update in out.gradients for gradient in update.values())


@pytest.mark.parametrize("name", ["free", "iaat", "atda", "fast"])
def test_what_is_remembered_survives_a_kill(name, tmp_path):
    settings = {"fast": {"start": "previous"}, "iaat": {"steps": 2, "warm_up": 1}, "free": {"replays": 2}}.get(name, {})
    recipe = dataclasses.replace(RECIPE, objective=name, parameters=settings, epochs=3)

    class Killed(Exception):
        pass

    def progress(done, total):
        if done == 6:  # in the second of three epochs of four batches
            raise Killed

    whole = train(recipe)
    with pytest.raises(Killed):
        train(recipe, tmp_path, progress=progress)
    assert same(weights(train(recipe, tmp_path).module), weights(whole.module))
    # And it matters: without its memory the second half goes another way.
    training = Training(recipe, None, None, None, (), None)
    training._epoch()
    assert any(bool(tensor.abs().sum() > 0) for tensor in training.memory.values())


@pytest.mark.parametrize("name", ["free", "iaat", "fast"])
def test_two_processes_change_their_own_part_of_the_memory(name):
    # What merge_changes adds up at the end of an epoch: the start plus the changes of each.
    module, x, y = curved()
    settings = {"fast": {"start": "previous"}, "iaat": {"steps": 2, "warm_up": 0}, "free": {"replays": 2}}[name]

    key = {"iaat": "iaat/radius"}.get(name, f"{name}/delta")
    start = torch.full((20,), 0.05, dtype=torch.float64) if name == "iaat" else torch.full_like(x, 0.01)

    def after(part):
        step = Step(3, 9, torch.arange(12)[part], 12, 20, {key: start.clone()})
        draws = Draws(0, tuple(range(12))[part])
        drive(name, copy.deepcopy(module), x[part], y[part], "linf:0.1", step=step, draws=draws, **settings)
        return step.memory[key]

    whole = after(slice(0, 12))
    merged = start + sum(after(part) - start for part in (slice(0, 6), slice(6, 12)))
    torch.testing.assert_close(merged, whole, rtol=0, atol=1e-12)
    assert not torch.equal(whole, start)


# Half precision, and what is refused.


def test_input_gradients_of_half_precision_do_not_overflow_at_the_loops_scale():
    # 2^16 times the gradient of a misclassified sample is past the largest half; it once read as divergence.
    module = nn.Linear(4, 3)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
        module.weight[0, 0] = 20.0
    network = Network(module, precision=torch.float16, scale=lambda: 65536.0)
    _, gradient, _ = network.input_gradient(lambda z: cross_entropy(z, torch.tensor([1])), torch.ones(1, 4))
    assert gradient.tolist() == [[20.0, 0.0, 0.0, 0.0]]


def test_an_overflow_moves_nothing_in_half_precision_and_is_an_error_in_full():
    point = torch.zeros(2, 3, requires_grad=True)
    point.grad = torch.tensor([[1.0, math.inf, -2.0], [math.nan, 0.0, 1.0]])
    found = Network(nn.Linear(3, 2), scale=lambda: 1024.0).received(point)
    assert found.tolist() == [[1.0, 0.0, -2.0], [0.0, 0.0, 1.0]]
    with pytest.raises(ModelError, match="no finite gradient"):
        Network(nn.Linear(3, 2)).received(point)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("trades", {"beta": -1.0}),
        ("mart", {"beta": -1.0}),
        ("free", {"replays": 0}),
        ("grad_align", {"weight": -0.1}),
        ("yopo", {"inner": 0}),
        ("iaat", {"memory": 1.5}),
        ("awp", {"weight_radius": -1.0}),
        ("mmc", {"length": 0.0}),
        ("atda", {"steps": 0}),
        ("fast", {"start": "corner"}),
        ("fgsm", {"labels": "none"}),
    ],
)
def test_bad_parameters_are_refused(name, settings):
    module, x, y = curved()
    with pytest.raises(InvalidValue):
        drive(name, module, x, y, "linf:0.1", **settings)
