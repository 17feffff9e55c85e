"""What every estimate must keep: form, manners, randomness that belongs to samples, true counts, a complete card."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from robustscope.contracts.explained import _documented, _raised, sections
from robustscope.contracts.trial import ModelWatch
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, UnknownName
from robustscope.core.types import Bounds, Estimate, ThreatModel
from robustscope.data import problems
from robustscope.estimates import ESTIMATES, WARNINGS
from robustscope.estimates.compose import estimate
from robustscope.estimates.records import records
from robustscope.models.classifier import Classifier

CASES = [(card.name, norm) for card in ESTIMATES for norm in card.norms]
RADIUS = {"linf": 0.05, "l2": 0.3, "l1": 1.0}
every = pytest.mark.parametrize(("name", "norm"), CASES)


def run(name, norm, model=None, dtype=torch.float64, rows=slice(None), ids=None, n=5, **more):
    p = problems.smooth_cnn(dtype, n=n)
    x, y = p.x[rows], p.y[rows]
    ids = range(n)[rows] if ids is None else ids
    model = model or Classifier(p.module)
    return estimate(
        name, model, x, y, f"{norm}:{RADIUS[norm]}", draws=Draws(0, tuple(ids)), **{**ESTIMATES[name].quick, **more}
    )


def tensors(found):
    return {f.name: v for f in dataclasses.fields(found) if isinstance(v := getattr(found, f.name), torch.Tensor)}


def assert_same(one, other, rtol=0.0):
    for name, value in tensors(one).items():
        torch.testing.assert_close(value, tensors(other)[name], rtol=rtol, atol=0, equal_nan=True, msg=name)
    assert one.warnings == other.warnings


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_form(name, norm, dtype):
    """One row for each sample: measures in float64, counts in int64, no graph."""
    found = run(name, norm, dtype=dtype)
    batches = ESTIMATES[name].quick["batches"]
    for key, value in tensors(found).items():
        assert not value.requires_grad
        shape = {"maxima": (5, batches), "rivals": (5, 3), "radii": (5, 3)}.get(key, (5,))
        assert value.shape == shape, key
        integer, flag = key in ("rival", "rivals", "forward", "backward"), key == "capped"
        assert value.dtype == (torch.int64 if integer else torch.bool if flag else torch.float64), key
    assert len(found.warnings) == 5
    assert {code for codes in found.warnings for code in codes} <= set(WARNINGS)
    assert ((found.radius > 0) & (found.radius <= RADIUS[norm])).all()


@every
@pytest.mark.parametrize("count", [1, 0])
def test_one_sample_and_none(name, norm, count):
    found = run(name, norm, rows=slice(0, count))
    assert found.radius.shape == (count,)
    assert found.radii.shape == (count, 3)
    assert len(found.warnings) == count
    assert records(found) == records(found, ids=range(count))


@every
def test_the_batch_does_not_matter(name, norm):
    """In any company, order and cut: the same numbers, to 1e-9 in float64, where another kernel may sum."""
    whole = run(name, norm)
    order = [3, 0, 4, 2, 1]
    turned = run(name, norm, rows=order, ids=order)
    alone = [run(name, norm, rows=[i], ids=[i]) for i in range(5)]
    small = run(name, norm, model=Classifier(problems.smooth_cnn(torch.float64, n=5).module, batch_size=7))
    for key, value in tensors(whole).items():
        for other in (
            tensors(small)[key],
            torch.cat([tensors(one)[key] for one in alone]),
            tensors(turned)[key][torch.tensor(order).argsort()],
        ):
            torch.testing.assert_close(value, other, rtol=1e-6, atol=0, equal_nan=True, msg=f"{key}")


def test_what_is_held_at_once_does_not_matter(monkeypatch):
    whole = run("clever", "l2", points=50)
    monkeypatch.setattr("robustscope.estimates.points.HELD", 500)
    assert_same(whole, run("clever", "l2", points=50), rtol=1e-6)


def test_more_batches_contain_fewer():
    few, many = run("clever", "l2", batches=6), run("clever", "l2", batches=9)
    torch.testing.assert_close(few.maxima, many.maxima[:, :6], rtol=1e-12, atol=0)


@every
def test_the_seed_decides(name, norm):
    assert_same(run(name, norm), run(name, norm))
    other = estimate_with_seed(name, norm, 1)
    assert not torch.equal(run(name, norm).maxima, other.maxima)


def estimate_with_seed(name, norm, seed):
    p = problems.smooth_cnn(torch.float64, n=5)
    threat = ThreatModel(norm, RADIUS[norm])
    return estimate(name, Classifier(p.module), p.x, p.y, threat, seed=seed, **ESTIMATES[name].quick)


@every
def test_manners(name, norm, capfd):
    """Inputs, model, global generator and terminal are left as they were."""
    p = problems.smooth_cnn(n=4)
    x, y, state, watch = p.x.clone(), p.y.clone(), torch.get_rng_state(), ModelWatch(p.module)
    estimate(name, Classifier(p.module), p.x, p.y, f"{norm}:0.1", **ESTIMATES[name].quick)
    assert torch.equal(x, p.x)
    assert torch.equal(y, p.y)
    assert torch.equal(state, torch.get_rng_state())
    assert watch.changes() == []
    assert capfd.readouterr() == ("", "")


@every
@pytest.mark.parametrize("targeted", [False, True])
def test_rows_are_counted_truly(name, norm, targeted):
    """The ledger, the result and the card say the same; a misclassified sample costs one forward row."""
    p = problems.smooth_cnn(n=5)
    y = p.y.clone()
    y[2] = (y[2] + 1) % 4
    model = Classifier(p.module)
    targets = (torch.where(torch.arange(5) == 2, p.y, y + 1) % 4) if targeted else None
    found = estimate(name, model, p.x, y, f"{norm}:0.1", targets=targets, **ESTIMATES[name].quick)
    assert (model.ledger.forward, model.ledger.backward) == (int(found.forward.sum()), int(found.backward.sum()))
    assert (int(found.forward[2]), int(found.backward[2])) == (1, 0)
    card = ESTIMATES[name]
    due = card.cost(card.resolve(card.quick), 2 if targeted else 4)
    correct = [i for i in range(5) if "misclassified" not in found.warnings[i]]
    assert len(correct) >= 3
    assert {(int(found.forward[i]), int(found.backward[i])) for i in correct} == {due}


@every
def test_misclassified_samples_have_radius_zero(name, norm):
    p = problems.smooth_cnn(n=3)
    found = estimate(name, Classifier(p.module), p.x, (p.y + 1) % 4, f"{norm}:0.1", **ESTIMATES[name].quick)
    assert found.radius.tolist() == [0.0] * 3
    assert found.warnings == (("misclassified",),) * 3
    assert found.rival.tolist() == [-1] * 3
    assert found.location.isnan().all()
    assert not found.capped.any()


@every
def test_fewer_rivals_are_those_of_the_largest_logits(name, norm):
    p = problems.smooth_cnn(torch.float64, n=5)
    whole, one = run(name, norm), run(name, norm, rivals=1)
    logits = p.module(p.x).scatter(1, p.y[:, None], -torch.inf)
    assert torch.equal(one.rival, logits.argmax(1))
    torch.testing.assert_close(one.radii[:, 0], whole.radii[:, 0], rtol=1e-6, atol=0)
    assert (one.backward < whole.backward).all()


@every
def test_each_sample_may_have_its_own_radius(name, norm):
    p = problems.smooth_cnn(torch.float64, n=3)
    model, quick = Classifier(p.module), ESTIMATES[name].quick
    mixed = estimate(name, model, p.x, p.y, ThreatModel(norm, (0.001, 0.2, 0.3)), **quick)
    for i, radius in enumerate((0.001, 0.2, 0.3)):
        alone = estimate(name, model, p.x[i : i + 1], p.y[i : i + 1], f"{norm}:{radius}", draws=Draws(0, (i,)), **quick)
        torch.testing.assert_close(mixed.radius[i : i + 1], alone.radius, rtol=1e-9, atol=0)
    assert mixed.capped[0]


@pytest.mark.parametrize("name", [card.name for card in ESTIMATES])
def test_two_classes(name):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    x = torch.tensor([[0.2, 0.3, 0.4]])
    y = net(x).argmax(1).detach()
    found = estimate(name, Classifier(net), x, y, "l2:0.1", **ESTIMATES[name].quick)
    assert found.rival.tolist() == [1 - int(y)]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_tiny_gradients_are_not_zero_gradients(norm):
    """Squares that underflow: the exact radius still comes out, and nothing is called masked."""
    p = problems.faint_gradients()
    found = estimate("clever", Classifier(p.module), p.x, p.y, f"{norm}:1000", batches=3, points=2)
    assert not any("zero_gradients" in codes for codes in found.warnings)
    weight = next(p.module.parameters()).detach().double()
    dual = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
    due = found.margin / torch.linalg.vector_norm(weight[p.y] - weight[found.rival], dual, dim=1)
    torch.testing.assert_close(found.radius, due, rtol=1e-4, atol=0)


def test_flat_gradients_are_flagged():
    for make in (problems.flat_gradients, problems.constant):
        p = make(n=3)
        found = estimate("clever", Classifier(p.module), p.x, p.y, "l2:0.7", batches=3, points=2)
        assert found.radius[found.margin > 0].eq(0.7).all()
        assert all({"zero_gradients", "constant"} <= set(codes) for codes in found.warnings)


# The card and the errors.


@pytest.mark.parametrize("name", [card.name for card in ESTIMATES])
def test_it_explains_itself(name):
    """Card and docstring complete; an estimate never calls itself a bound without saying that it is none."""
    card = ESTIMATES[name]
    assert card.version >= 1
    assert card.source
    assert card.bibtex.startswith("@")
    parts = sections(inspect.getdoc(card.function))
    signature = inspect.signature(card.function)
    assert set(signature.parameters) <= _documented(parts["Args"])
    assert {"Returns", "Raises", "Source", "Departures", "Example"} <= set(parts)
    assert _raised(card.function) <= _documented(parts["Raises"])
    assert "no bound" in parts[""]
    card.resolve(card.quick)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"name": "clevr"}, UnknownName, "clever"),
        ({"threat": "l0:3"}, InvalidValue, "norm='l0'"),
        ({"threat": "l2:inf"}, InvalidValue, "infinite radius"),
        ({"threat": ThreatModel("l2", 1.0, Bounds(0.0, 2.0))}, InvalidValue, "bounds"),
        ({"threat": "patch:2,2"}, InvalidType, "threat"),
        ({"batches": 2}, InvalidValue, "batches=2"),
        ({"points": 0}, InvalidValue, "points=0"),
        ({"rivals": 0}, InvalidValue, "rivals=0"),
        ({"shape_penalty": -1.0}, InvalidValue, "shape_penalty"),
        ({"batches": 2.5}, InvalidType, "clever.batches"),
        ({"targets": torch.zeros(2, dtype=torch.int64)}, InvalidValue, "true class"),
        ({"targets": torch.tensor([1, 9])}, InvalidValue, "0 to 3"),
        ({"y": torch.tensor([0, 4])}, InvalidValue, "0 to 3"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, InvalidValue, "labels of shape"),
        ({"draws": Draws(0, (0, 1, 2))}, InvalidValue, "3 samples"),
        ({"model": problems.smooth_cnn().module}, InvalidType, "Classifier"),
        ({"name": "clever_second_order", "threat": "linf:0.1"}, InvalidValue, "('l2',)"),
        ({"name": "clever_second_order", "steps": 0}, InvalidValue, "steps=0"),
    ],
)
def test_bad_arguments(change, error, said):
    p = problems.smooth_cnn(n=2)
    given = {"name": "clever", "model": Classifier(p.module), "x": p.x, "y": torch.zeros(2, dtype=torch.int64)}
    given = {**given, "threat": "l2:0.1", **change}
    positional = [given.pop(key) for key in ("name", "model", "x", "y", "threat")]
    with pytest.raises(error) as caught:
        estimate(*positional, **given)
    assert said in str(caught.value)
    assert caught.value.remedy


class Functional(nn.Module):
    def __init__(self, kink):
        super().__init__()
        self.layer, self.kink = nn.Linear(72, 3), kink

    def forward(self, x):
        return self.layer(self.kink(x.flatten(1) - 0.5))


@pytest.mark.parametrize(
    "kink",
    [
        nn.ReLU(),
        nn.LeakyReLU(),
        nn.Hardtanh(),
        torch.relu,
        torch.abs,
        nn.PReLU(),
        lambda x: x.clamp(min=0),
        torch.floor,
    ],
    ids=["relu", "leaky", "hardtanh", "function", "abs", "prelu", "clamp", "floor"],
)
def test_networks_with_kinks_are_refused_by_the_second_order(kink):
    model = Classifier(Functional(kink).eval())
    x = problems.smooth_cnn(n=2).x
    y = model.logits(x).argmax(1)
    with pytest.raises(InvalidValue, match="twice-differentiable"):
        estimate("clever_second_order", model, x, y, "l2:0.1")
    estimate("clever", model, x, y, "l2:0.1", batches=3, points=2)


# The record.


def test_records_are_plain_and_complete():
    import json

    p = problems.smooth_cnn(n=3)
    y = p.y.clone()
    y[1] = (y[1] + 1) % 4
    found = estimate("clever", Classifier(p.module), p.x, y, "l2:0.2", batches=5, points=4)
    rows = records(found, ids=(7, 8, 9))
    assert json.loads(json.dumps(rows)) == rows
    assert [row["sample"] for row in rows] == [7, 8, 9]
    assert rows[1]["location"] is None
    assert rows[1]["maxima"] == []
    assert rows[0]["maxima"] == found.maxima[0].tolist()
    assert rows[0]["radius"] == float(found.radius[0])
    assert set(rows[0]) >= {
        "radius",
        "location",
        "shape",
        "scale",
        "statistic",
        "p_value",
        "warnings",
        "rivals",
        "radii",
    }
    assert isinstance(found, Estimate)
    with pytest.raises(InvalidValue):
        records(found, ids=(1, 2))
