"""The one door to a network: what it refuses, what it counts, and that it leaves no trace."""

import dataclasses

import pytest
import torch
from torch import nn

from robustscope.contracts.trial import ModelWatch
from robustscope.core.errors import InvalidType, InvalidValue, ModelError
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.geometry.losses import cross_entropy
from robustscope.models.classifier import Classifier, looks_like_probabilities


class Recorder(nn.Module):
    """A linear model that remembers the size of every batch it sees."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.sizes = inner, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.inner(x)


class Returns(nn.Module):
    """Returns what a function makes of the inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def answering(function):
    return Classifier(Returns(function).eval())


def linear():
    return problems.linear_boxed(n=20)


def loss_of(y):
    return lambda logits, rows: cross_entropy(logits, y[rows])


def test_training_mode_is_refused_wherever_it_hides():
    p = problems.normalised_cnn()
    with pytest.raises(InvalidValue, match="training mode"):
        Classifier(p.module.train())
    p.module.eval()[3].train()
    with pytest.raises(InvalidValue, match=r"training mode \(3\)"):
        Classifier(p.module)
    p.module.eval()
    model = Classifier(p.module)
    p.module[1].train()  # after construction, too
    for use in (lambda: model.logits(p.x), lambda: model.gradient(loss_of(p.y), p.x)):
        with pytest.raises(InvalidValue, match=r"model.eval\(\)"):
            use()
    assert p.module[1].training, "refused, not switched"


def test_broken_weights_are_refused():
    for value in (torch.nan, torch.inf):
        p = problems.linear_boxed()
        with torch.no_grad():
            p.module[1].weight[0, 0] = value
        with pytest.raises(InvalidValue, match=r"'1.weight' holds NaN"):
            Classifier(p.module)


@pytest.mark.parametrize(
    ("facts", "error", "match"),
    [
        ({"mean": (0.5,)}, InvalidValue, "both or neither"),
        ({"mean": (0.5, 0.5), "std": (0.1,)}, InvalidValue, "equally many"),
        ({"mean": (0.5,), "std": (0.0,)}, InvalidValue, "std > 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, InvalidValue, "finite"),
        ({"bounds": (1.0, 0.0)}, InvalidValue, "lower < upper"),
        ({"batch_size": 0}, InvalidValue, "batch_size=0"),
    ],
)
def test_wrong_facts_are_refused(facts, error, match):
    with pytest.raises(error, match=match):
        Classifier(linear().module, **facts)


def test_a_function_is_no_module():
    with pytest.raises(InvalidType, match=r"a torch\.nn\.Module is allowed"):
        Classifier(lambda x: x)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: x.flatten(1).sum(1), r"returned \(20,\)"),
        (lambda x: x.flatten(1)[:3], r"returned \(3, 48\)"),
        (lambda x: (x.flatten(1), x), "returned tuple"),
        (lambda x: x.flatten(1) / 0, "NaN or infinite logits for 20 of 20"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(function, match):
    p = linear()
    model = answering(function)
    for use in (lambda: model.logits(p.x), lambda: model.gradient(lambda z, rows: z.sum(1), p.x)):
        with pytest.raises(ModelError, match=match):
            use()


def test_counting_the_classes_checks_the_outputs_too():
    with pytest.raises(ModelError, match=r"returned \(1,\)"):
        answering(lambda x: x.flatten(1).sum(1)).classes(linear().x)


def test_infinite_gradients_are_refused():
    model = answering(lambda x: x.flatten(1).sqrt())
    with pytest.raises(ModelError, match="input gradient"):
        model.gradient(lambda z, rows: z.sum(1), torch.zeros(2, 3))


def test_models_that_fail_say_so_once():
    model = Classifier(nn.Linear(5, 3).eval())
    with pytest.raises(ModelError, match="RuntimeError on inputs of shape"):
        model.check_outputs(torch.rand(2, 4), torch.tensor([0, 1]))


def test_probabilities_are_refused_unless_allowed():
    p = linear()
    soft = nn.Sequential(p.module, nn.Softmax(1)).eval()
    with pytest.raises(InvalidValue, match="softmax"):
        Classifier(soft).check_outputs(p.x, p.y)
    Classifier(soft, allow_probabilities=True).check_outputs(p.x, p.y)
    Classifier(p.module).check_outputs(p.x, p.y)
    assert looks_like_probabilities(torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert not looks_like_probabilities(torch.tensor([[0.25, 0.75], [1.0, 0.1]]))
    assert not looks_like_probabilities(torch.tensor([[-0.5, 1.5]]))
    assert not looks_like_probabilities(torch.empty(0, 2))


def test_labels_and_classes_are_checked():
    p = linear()
    with pytest.raises(InvalidValue, match="0 to 3 are allowed"):
        Classifier(p.module).check_outputs(p.x, p.y + 3)
    with pytest.raises(InvalidValue, match="0 to 3 are allowed"):
        Classifier(p.module).check_outputs(p.x, p.y - 5)
    with pytest.raises(InvalidValue, match="two classes or more"):
        answering(lambda x: x.flatten(1)[:, :1]).check_outputs(p.x, p.y * 0)


@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        (torch.ones(2, 3, dtype=torch.uint8), None, InvalidType, r"x.float\(\) / 255"),
        ([[0.5]], None, InvalidType, "list"),
        (torch.rand(3), None, InvalidValue, "batch dimension"),
        (torch.full((1, 2), torch.nan), None, InvalidValue, "NaN"),
        (torch.tensor([[0.0, 255.0]]), None, InvalidValue, "inputs in \\[0, 255\\]"),
        (torch.tensor([[-0.1, 1.0]]), None, InvalidValue, "before normalisation"),
        (torch.rand(2, 3), torch.zeros(2), InvalidType, "int64"),
        (torch.rand(2, 3), torch.zeros(2, dtype=torch.int32), InvalidType, "int64"),
        (torch.rand(2, 3), torch.zeros(3, dtype=torch.int64), InvalidValue, "labels of shape"),
        (torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.int64), InvalidValue, "one-hot"),
    ],
)
def test_wrong_inputs_are_refused(x, y, error, match):
    with pytest.raises(error, match=match):
        Classifier(linear().module).check_inputs(x, y)


def test_the_range_is_that_of_the_bounds():
    wide = Classifier(linear().module, Bounds(-1.0, 2.0))
    wide.check_inputs(torch.tensor([[-1.0, 2.0]]))
    with pytest.raises(InvalidValue, match=r"bounds=\(-1, 2\)"):
        wide.check_inputs(torch.tensor([[-1.0, 2.1]]))


def test_channels_of_the_normalisation_are_checked():
    model = Classifier(linear().module, mean=(0.5, 0.5), std=(1.0, 1.0))
    with pytest.raises(InvalidValue, match="2 channels"):
        model.check_inputs(torch.rand(1, 3, 4, 4))
    model.check_inputs(torch.rand(1, 2, 4, 4))


def test_normalisation_equals_doing_it_by_hand():
    p = problems.linear_boxed(n=7)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    x = p.x.clone().requires_grad_(True)
    by_hand = (x - torch.tensor(mean, dtype=x.dtype).view(1, 3, 1, 1)) / torch.tensor(std, dtype=x.dtype).view(
        1, 3, 1, 1
    )
    logits = p.module(by_hand)
    value = cross_entropy(logits, p.y)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    model = Classifier(p.module, mean=mean, std=std)
    torch.testing.assert_close(model.logits(p.x), logits.detach(), rtol=1e-12, atol=1e-12)
    got_value, got_gradient, got_logits = model.gradient(loss_of(p.y), p.x)
    torch.testing.assert_close(got_value, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_gradient, gradient, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_logits, logits.detach(), rtol=1e-12, atol=1e-12)
    assert not any(t.requires_grad for t in (got_value, got_gradient, got_logits))
    single = Classifier(p.module, mean=(0.5,), std=(0.5,))
    torch.testing.assert_close(single.logits(p.x), p.module((p.x - 0.5) / 0.5).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 256])
def test_large_inputs_are_cut_and_nothing_else_changes(batch_size):
    p = linear()
    whole, cut = Classifier(p.module), Classifier(p.module, batch_size=batch_size)
    torch.testing.assert_close(cut.logits(p.x), whole.logits(p.x), rtol=0, atol=1e-12)
    for a, b in zip(cut.gradient(loss_of(p.y), p.x), whole.gradient(loss_of(p.y), p.x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_survivors_are_packed_into_full_batches():
    from robustscope.attacks.compose import attack

    p = problems.linear_binary("linf", n=28)
    recorder = Recorder(p.module).eval()
    # eight samples fall at their first step, twenty never do: 28 rows for two iterates, then 20 at a time
    radii = tuple(problems.RADII["linf"] * (5.0 if i % 7 < 2 else 0.5) for i in range(28))
    model = Classifier(recorder, batch_size=8)
    attack("bim", model, p.x, p.y, ThreatModel("linf", radii), steps=3, relative_step_size=0.25)
    first, packed = [8, 8, 8, 4], [8, 8, 4]
    asked, judged = (
        [1],
        [8, 8, 8, 4, *[1] * 8, 8],
    )  # the number of classes; the judge, its eight examples alone and rounded
    assert recorder.sizes == asked + 2 * first + 2 * packed + judged


def test_the_ledger_counts_rows_where_they_pass():
    p = linear()
    recorder = Recorder(p.module).eval()
    model = Classifier(recorder, batch_size=7)
    model.logits(p.x)
    assert (model.ledger.forward, model.ledger.backward) == (20, 0)
    model.gradient(loss_of(p.y), p.x)
    assert (model.ledger.forward, model.ledger.backward) == (40, 20)
    assert sum(recorder.sizes) == 40
    model.ledger.reset()
    assert model.classes(p.x) == 4
    assert model.classes(p.x) == 4
    assert (model.ledger.forward, model.ledger.backward) == (0, 0)
    assert recorder.sizes[-1] == 1, "one uncounted row, asked once"
    assert len(recorder.sizes) == 7


def test_the_module_is_left_as_found():
    p = problems.normalised_cnn()
    next(p.module.parameters()).grad = torch.ones_like(next(p.module.parameters()))
    watch, x, y = ModelWatch(p.module), p.x.clone(), p.y.clone()
    model = Classifier(p.module, mean=(0.4, 0.5), std=(1.0, 2.0), batch_size=3)
    model.logits(x)
    model.gradient(loss_of(y), x)
    model.check_outputs(x, y)
    assert watch.changes() == []
    assert torch.equal(x, p.x)
    assert not x.requires_grad


def test_the_watch_sees_what_it_should():
    """The test above means something only if a change is noticed."""
    p = problems.normalised_cnn()
    watch = ModelWatch(p.module)
    cross_entropy(p.module(p.x), p.y).sum().backward()
    assert any("gradient" in change for change in watch.changes())


def test_empty_batches_come_back_empty():
    p = linear()
    model = Classifier(p.module, class_names=("a", "b", "c", "d"))
    assert model.logits(p.x[:0]).shape == (0, 4)
    value, gradient, logits = model.gradient(loss_of(p.y[:0]), p.x[:0])
    assert (value.shape, gradient.shape, logits.shape) == ((0,), (0, 3, 4, 4), (0, 4))
    assert model.classes(p.x[:0]) == 4


def test_a_copy_with_another_module_asks_again():
    model = Classifier(problems.linear_boxed(classes=4).module)
    assert model.classes(linear().x) == 4
    other = dataclasses.replace(model, module=problems.linear_boxed(classes=3).module)
    assert other.classes(linear().x) == 3
