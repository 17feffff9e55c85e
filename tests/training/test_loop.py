"""The loop: what it promises whatever the objective is."""

import dataclasses

import pytest
import torch

from robustscope.core.errors import BadFile, InvalidValue, ModelError
from robustscope.data.arrays import from_tensors
from robustscope.models.loading import load_model
from robustscope.training import OBJECTIVES, Recipe, train
from robustscope.training.loop import Training

RECIPE = Recipe(
    data="digits#train",
    objective="fast",
    threat="linf:0.15",
    model_parameters={"width": 4},
    samples=150,
    validation=30,
    epochs=4,
    batch_size=32,
    optimizer="adam",
    learning_rate=3e-3,
    validation_steps=2,
    average="ema",
    augment=("flip", "crop"),
)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(Exception):
    pass


def interrupted(recipe, out, after):
    """Train until so many updates are done, then die."""

    def progress(done, total):
        if done == after:
            raise Killed

    with pytest.raises(Killed):
        train(recipe, out, progress=progress)


@pytest.mark.parametrize("after", [1, 5, 8])
def test_killed_and_resumed_is_undisturbed_bit_for_bit(tmp_path, after):
    whole = train(RECIPE)
    interrupted(RECIPE, tmp_path, after)
    resumed = train(RECIPE, tmp_path)
    assert same(weights(whole.module), weights(resumed.module))
    quiet = [{k: v for k, v in row.items() if k not in ("seconds", "peak_bytes")} for row in whole.history]
    assert [{k: row[k] for k in quiet[0]} for row in resumed.history] == quiet
    # What went through the network before the kill, in an epoch that had to start anew, counts no more.
    assert resumed.passes == whole.passes


def test_resuming_another_training_is_refused(tmp_path):
    train(dataclasses.replace(RECIPE, epochs=1), tmp_path)
    with pytest.raises(InvalidValue, match="another training"):
        train(dataclasses.replace(RECIPE, epochs=1, seed=1), tmp_path)


def test_seeds_decide_and_global_generators_do_not():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = train(dataclasses.replace(RECIPE, epochs=1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    b = train(dataclasses.replace(RECIPE, epochs=1))
    c = train(dataclasses.replace(RECIPE, epochs=1, seed=1))
    assert same(weights(a.module), weights(b.module))
    assert not same(weights(a.module), weights(c.module))


def test_what_is_written_is_evaluated_as_it_is(tmp_path):
    trained = train(RECIPE, tmp_path)
    loaded = load_model(str(trained.card))
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.classifier.logits(x), trained.module(x))
    assert {"recipe.json", "history.csv", "checkpoint.pt", "model.json", "model.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_a_training_starts_from_a_card_as_its_loader_reads_it(tmp_path):
    first = train(dataclasses.replace(RECIPE, epochs=1, mean=(0.5,), std=(0.25,)), tmp_path)
    onward = dataclasses.replace(RECIPE, epochs=1, average="none", learning_rate=0.0, model=str(first.card))
    kept = train(dataclasses.replace(onward, mean=(0.5,), std=(0.25,)))
    assert same(weights(first.module), weights(kept.module))
    with pytest.raises(InvalidValue, match="trained behind"):  # the weights know another scale
        train(onward)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(BadFile, match="SHA-256"):
        train(dataclasses.replace(onward, mean=(0.5,), std=(0.25,)))


def test_the_best_epoch_is_kept_and_patience_ends_the_training():
    # Scripted accuracies: the loop must keep the weights of the third epoch and stop two epochs later.
    script = iter([0.0, 0.1, 0.2, 0.5, 0.4, 0.3, 0.9])  # the first is of the network before training
    training = Training(dataclasses.replace(RECIPE, epochs=6, patience=2), None, None, None, (), None)
    look, seen = training._look, []

    def scripted():
        seen.append(weights(training._averaged_module() or training.network.module))
        return dataclasses.replace(look(), robust=next(script))

    training._look = scripted
    trained = training.run()
    assert trained.best["epoch"] == 3
    assert len(trained.history) == 5
    assert "has not improved for 2 epochs" in trained.stopped
    assert same(weights(trained.module), seen[3])


@pytest.mark.parametrize("alarm", ["stop", "rollback", "warn"])
def test_the_alarm_brings_back_the_weights_from_before(alarm):
    script = iter([(0.1, 0.1), (0.5, 0.4), (0.6, 0.5), (0.9, 0.05), (0.6, 0.5), (0.6, 0.5), (0.6, 0.5)])
    training = Training(dataclasses.replace(RECIPE, alarm=alarm, average="none"), None, None, None, (), None)
    look, seen = training._look, []

    def scripted():
        seen.append(weights(training.network.module))
        fgsm, robust = next(script)
        return dataclasses.replace(look(), clean=0.9, fgsm=fgsm, robust=robust)

    training._look = scripted
    trained = training.run()
    if alarm == "warn":
        assert "catastrophic overfitting" in trained.history[2]["remark"]
        assert len(trained.history) == 4
    elif alarm == "stop":
        assert "catastrophic overfitting" in trained.stopped
        assert same(weights(trained.module), seen[2])
        assert trained.history[-1]["undone"]
    else:
        assert [row["epoch"] for row in trained.history] == [1, 2, 3, 3, 4]
        assert [row["attempt"] for row in trained.history] == [0, 0, 0, 1, 1]
        assert not same(seen[3], seen[4])


def test_what_was_no_better_is_not_gone_back_to():
    # From the first look on, FGSM misses what PGD finds: going back would never end.
    script = iter([(0.6, 0.05)] * 5)
    training = Training(dataclasses.replace(RECIPE, alarm="rollback", average="none"), None, None, None, (), None)
    look = training._look
    training._look = lambda: dataclasses.replace(look(), **dict(zip(("fgsm", "robust"), next(script), strict=True)))
    trained = training.run()
    assert [row["attempt"] for row in trained.history] == [0, 0, 0, 0]
    assert all("catastrophic overfitting" in row["remark"] for row in trained.history)


def test_ledgers_count_what_the_cards_say():
    # Counted by the network itself, in another way than by the ledger: hooks on its first layer.
    for name in ("standard", "fgsm", "fast", "pgd"):
        rows = {"forward": 0}
        training = Training(dataclasses.replace(RECIPE, objective=name, epochs=1), None, None, None, (), None)

        def count(module, inputs, rows=rows):
            rows["forward"] += len(inputs[0])

        handle = training.network.module[0].register_forward_pre_hook(count)
        training._epoch()
        handle.remove()
        card = OBJECTIVES[name]
        stated = card.passes(card.resolve({}))
        assert rows["forward"] == 120 * stated.forward
        assert training.network.passes == dataclasses.replace(
            stated, forward=120 * stated.forward, backward=120 * stated.backward
        )


@pytest.mark.parametrize("name", ["fgsm", "fast", "pgd"])
def test_without_a_threat_it_is_standard_training_bit_for_bit(name):
    plain = dataclasses.replace(RECIPE, objective="standard", epochs=1, threat="linf:0")
    assert same(weights(train(plain).module), weights(train(dataclasses.replace(plain, objective=name)).module))


@pytest.mark.parametrize("name", ["fgsm", "fast", "pgd"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_model_the_loss_is_the_closed_form(name, norm):
    # Two classes, logits +-z/2, no box in the way: the worst point is known, and the loss is softplus(epsilon |w|* - y z).
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, generator=generator, dtype=torch.float64)
    x = 0.5 + 0.1 * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (40,), generator=generator)
    module = torch.nn.Linear(6, 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.stack([-w / 2, w / 2]))
        module.bias.copy_(torch.tensor([0.1, -0.1]))
    epsilon = 0.05
    sign = 2.0 * y - 1
    dual = w.abs().sum() if norm == "linf" else w.norm()
    expected = torch.nn.functional.softplus(epsilon * dual - sign * (x @ w - 0.2))
    from robustscope.core.draws import Draws
    from robustscope.core.types import ThreatModel
    from robustscope.training.cards import Step
    from robustscope.training.network import Network

    card = OBJECTIVES[name]
    step = Step(0, 1, torch.arange(40), 40, 40)
    settings = {"steps": 20, "relative_step_size": 2.0} if name == "pgd" else {}
    # From a random start an l2 step does not end on the worst point of the ball unless it is long.
    if name == "fast":
        settings = {"relative_step_size": 2.0 if norm == "linf" else 1e6}
    (term,) = card.function(
        Network(module),
        x,
        y,
        ThreatModel(norm, epsilon),
        draws=Draws(0, tuple(range(40))),
        step=step,
        **card.resolve(settings),
    )
    torch.testing.assert_close(term.losses, expected, atol=1e-4, rtol=0)


def test_a_training_that_diverges_says_so():
    with pytest.raises(ModelError, match=r"Lower the learning rate|lower the learning rate"):
        train(dataclasses.replace(RECIPE, learning_rate=1e30, schedule="flat", optimizer="sgd", average="none"))


@pytest.mark.parametrize("objective", ["fast", "free"])
@pytest.mark.parametrize("count", [33, 34, 65])
def test_no_sample_is_left_alone_in_a_batch(objective, count):
    # Batch norm refuses one sample; one of 33 in batches of 32 would stop every epoch at its end.
    sizes = []
    x = torch.rand(count + 1, 3, 4, 4)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2), torch.nn.BatchNorm1d(2))
    module[0].register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])) if module.training else None)
    recipe = dataclasses.replace(RECIPE, samples="all", validation=1, epochs=1, objective=objective, augment=())
    trained = train(recipe, data=from_tensors(x, (x[:, 0, 0, 0] > 0.5).long()), module=module)
    assert {33: [33], 34: [32, 2], 65: [32, 33]}[count] == list(dict.fromkeys(sizes))
    assert trained.passes.forward == {"fast": 2, "free": 8}[objective] * count


def test_data_in_memory_and_a_module_of_ones_own(tmp_path):
    x = torch.rand(60, 3, 4, 4)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(48, 2))
    recipe = dataclasses.replace(RECIPE, samples="all", epochs=1)
    trained = train(recipe, tmp_path, data=from_tensors(x, (x.mean((1, 2, 3)) > 0.5).long()), module=module)
    assert trained.card.name == "model.safetensors"
    assert not trained.module.training


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"validation": 0.0}, "held-out"),
        ({"validation_data": "digits#train"}, "is the training set"),
        ({"validation_data": "cue-digits:consistent,shape"}, r"inputs \(1, 32, 32\) of 10 classes"),
        ({"alarm": "panic"}, "alarm='panic'"),
        ({"objective": "fats"}, "Did you mean 'fast'"),
        ({"parameters": {"step": 1}}, "'step'"),
        ({"augment": ("mirror",)}, "mirror"),
        ({"mean": (0.5,)}, "both"),
        ({"mean": (0.5,), "std": (0.0,)}, "> 0"),
    ],
)
def test_bad_recipes_are_refused(changes, text):
    from robustscope.core.errors import RobustscopeError

    with pytest.raises(RobustscopeError, match=text):
        train(dataclasses.replace(RECIPE, **changes))
