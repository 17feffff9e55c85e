"""Pruning and dropout in the loop: exact counts, zeros that stay, and files that know nothing of them."""

import dataclasses

import pytest
import torch
from torch import nn

from robustscope.core.errors import RobustscopeError
from robustscope.models.loading import load_model
from robustscope.training import Recipe, Sparsity, train
from robustscope.training.loop import Training
from robustscope.training.sparsity import Pruner, prunable, smallest, sparsity

RECIPE = Recipe(
    data="digits#train",
    objective="fast",
    threat="linf:0.15",
    model="perceptron",
    model_parameters={"hidden": [12]},
    samples=150,
    validation=30,
    epochs=4,
    batch_size=32,
    optimizer="adam",
    learning_rate=3e-3,
    validation_steps=1,
    sparsity=Sparsity(0.7, begin=0.25, end=0.5),
)
WEIGHTS = 64 * 12 + 12 * 10


def zeros(module):
    return sum(int((weight == 0).sum()) for weight in prunable(module).values())


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
@pytest.mark.parametrize("amount", [0.5, 0.7, 0.99])
def test_sparsity_is_exact_to_one_weight(method, amount):
    recipe = dataclasses.replace(RECIPE, sparsity=Sparsity(amount, method=method, begin=0.0, end=0.5))
    trained = train(recipe)
    assert zeros(trained.module) == round(amount * WEIGHTS)
    assert sparsity(trained.module) == pytest.approx(amount, abs=1 / WEIGHTS)
    assert trained.best["sparsity"] == pytest.approx(amount, abs=1 / WEIGHTS)


def test_each_layer_loses_its_share():
    module = train(dataclasses.replace(RECIPE, sparsity=Sparsity(0.6, "layer", begin=0.5, end=0.5))).module
    assert [int((w == 0).sum()) for w in prunable(module).values()] == [round(0.6 * 768), round(0.6 * 120)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_pruned_weights_stay_zero_through_every_update(optimizer):
    training = Training(dataclasses.replace(RECIPE, optimizer=optimizer), None, None, None, (), None)
    gone = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in training.pruner.weights.items()}
    step = training.optimizer.step
    checked = []

    def watched(*args, **kwargs):
        for name, weight in training.pruner.weights.items():
            assert not weight[gone[name]].any()
            gone[name] |= ~training.pruner.masks[name]
            assert not weight[gone[name]].any()
        checked.append(sum(int(mask.sum()) for mask in gone.values()))
        return step(*args, **kwargs)

    training.optimizer.step = watched
    training.run()
    assert checked[0] == 0
    assert checked[-1] == round(0.7 * WEIGHTS)  # none has come back, so all that ever left are those


def test_surgery_lets_weights_come_back():
    # One weight, pruned as the smaller of two, grows out of sight until it takes the other's place.
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0.5]]))
    pruner = Pruner(Sparsity(0.5, method="surgery", begin=0.0, end=0.0), module)
    pruner.advance(0.0)
    assert module.weight.tolist() == [[1.0, 0.0]]
    for grown, seen in ((1.05, [[1.0, 0.0]]), (1.2, [[0.0, 1.2]])):  # ten percent of grace for the one inside
        with pruner.updating(), torch.no_grad():
            assert module.weight[0, 0] == 1.0
            module.weight[0, 1] = grown
        pruner.advance(0.5)
        torch.testing.assert_close(module.weight.detach(), torch.tensor(seen))


def test_the_smallest_of_all_go_first():
    size = torch.tensor([[0.3, 0.1], [0.2, 0.4]])
    assert smallest(size, 0.5).tolist() == [[True, False], [False, True]]
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    every = torch.cat([weight.detach().abs().flatten() for weight in prunable(module).values()])
    Pruner(Sparsity(0.5, begin=0.0, end=0.0), module).advance(0.0)
    left = torch.cat([weight.detach().abs().flatten() for weight in prunable(module).values()])
    assert torch.equal(left[left > 0].sort().values, every.sort().values[9:])


def test_the_share_rises_as_a_cube():
    pruner = Pruner(Sparsity(0.8, begin=0.2, end=0.6), nn.Linear(2, 2))
    assert [pruner.wanted(t) for t in (0.0, 0.19, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0, 0, 0, 0.7, 0.8, 0.8])


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
@pytest.mark.parametrize("average", ["none", "ema", "swa"])
def test_killed_and_resumed_is_undisturbed_bit_for_bit(tmp_path, method, average):
    recipe = dataclasses.replace(RECIPE, average=average, sparsity=dataclasses.replace(RECIPE.sparsity, method=method))
    whole = train(recipe)

    def progress(done, total):
        if done == 11:  # in the third epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, progress=progress)
    resumed = train(recipe, tmp_path)
    assert zeros(whole.module) >= round(0.7 * WEIGHTS)
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_files_hold_plain_weights(tmp_path):
    trained = train(dataclasses.replace(RECIPE, dropout=0.3), tmp_path)
    loaded = load_model(str(trained.card)).classifier.module
    assert sorted(loaded.state_dict()) == ["1.bias", "1.weight", "3.bias", "3.weight"]
    assert zeros(loaded) == round(0.7 * WEIGHTS)
    assert not any(part._forward_pre_hooks for part in trained.module.modules())


def test_dropout_is_of_the_training_alone():
    seen = []
    training = Training(dataclasses.replace(RECIPE, dropout=0.5, objective="standard"), None, None, None, (), None)
    first, last = training.network.module[1], training.network.module[3]
    first.register_forward_pre_hook(lambda layer, inputs: seen.append((inputs[0] == 0).all(0).sum()))
    last.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].clone()))
    x = torch.rand(256, 1, 8, 8)
    training.network.logits(x)
    with training.network.judged() as model:
        model.logits(x)
    assert seen[0] == seen[2] == 0
    hidden = torch.relu(first(x.flatten(1)))
    active = hidden > 0
    assert (seen[1][active] == 0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    kept = active & (seen[1] != 0)
    torch.testing.assert_close(seen[1][kept], 2 * hidden[kept])
    torch.testing.assert_close(seen[3], hidden)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sparsity": {"amount": 1.0}}, "amount=1.0"),
        ({"sparsity": {"amount": 0.5, "scope": "network"}}, "scope='network'"),
        ({"sparsity": {"amount": 0.5, "method": "magnitud"}}, "magnitude"),
        ({"sparsity": {"amount": 0.5, "end": 0.9}}, "start of the last epoch"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_bad_plans_are_refused(changes, text):
    with pytest.raises(RobustscopeError, match=text):
        dataclasses.replace(RECIPE, **changes)


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
def test_gradients_of_pruned_weights_count_for_nothing_but_surgery(method):
    module = nn.Linear(4, 2, bias=False)
    pruner = Pruner(Sparsity(0.5, method=method, begin=0.0, end=0.0), module)
    pruner.advance(0.0)
    module(torch.ones(1, 4)).sum().backward()
    pruner.mask_gradients()
    assert int((module.weight.grad == 0).sum()) == (4 if method == "magnitude" else 0)
