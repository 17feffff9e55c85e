"""Bounds hold at sampled points of many networks, and nothing but the inputs decides them."""

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.certify import CERTIFIERS, certified_radius, certify
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, UnknownName
from robustscope.core.threats import Patch
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier
from robustscope.models.layers import ResidualAdd, SubsampleAndPad
from robustscope.models.loading import load_model

SHARED = Path(__file__).resolve().parents[3] / "shared"
CASES = [(card.name, norm) for card in CERTIFIERS if "Tanh" in card.layers for norm in card.norms]
RADIUS = {"linf": 0.04, "l2": 0.25, "l1": 0.8}


def conv(into, out, kernel=3, **facts):
    return nn.Conv2d(into, out, kernel, **{"padding": kernel // 2, **facts})


def head(width, *more):
    return [nn.Flatten(), nn.Linear(width, 6), *more, nn.Linear(6, 3)]


NETWORKS = {
    "relu": lambda: [conv(2, 4, stride=2), nn.ReLU(), conv(4, 4), nn.ReLU(), *head(36, nn.ReLU())],
    "leaky": lambda: [conv(2, 4), nn.LeakyReLU(0.2), *head(144, nn.LeakyReLU(0.05))],
    "clipped": lambda: [conv(2, 4), nn.Hardtanh(-0.3, 0.4), *head(144, nn.ReLU6())],
    "curves": lambda: [conv(2, 4), nn.Sigmoid(), conv(4, 3), nn.Tanh(), *head(108, nn.Softplus())],
    "max pooling": lambda: [
        conv(2, 4),
        nn.MaxPool2d(2),
        conv(4, 4),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        *head(16, nn.ReLU()),
    ],
    "means": lambda: [conv(2, 4), nn.ReLU(), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), *head(36)],
    "residual": lambda: [
        conv(2, 4),
        nn.ReLU(),
        ResidualAdd(nn.Sequential(conv(4, 6, stride=2), nn.ReLU(), conv(6, 6)), nn.Sequential(SubsampleAndPad(2, 1))),
        nn.ReLU(),
        ResidualAdd(
            nn.Sequential(conv(6, 6, groups=2), nn.ReLU(), conv(6, 6)), nn.Sequential(nn.Tanh(), conv(6, 6, 1))
        ),
        nn.ReLU(),
        *head(54),
    ],
}


def network(name, dtype=torch.float64):
    module = nn.Sequential(*NETWORKS[name]()).double().eval()
    with torch.no_grad():
        for key, tensor in module.named_parameters():
            tensor.copy_(1.5 * problems._numbers(2, f"{name}/{key}", *tensor.shape) / max(tensor[0].numel(), 1) ** 0.5)
        module[-1].bias.sub_(module(torch.full((1, 2, 6, 6), 0.5, dtype=torch.float64))[0])
    x = problems._samples(4, 4, 2, 6, 6).to(dtype)
    x[0, 0] = x[0, 0].round()  # values on the bounds
    model = Classifier(module.to(dtype), mean=(0.4, 0.5), std=(0.5, 0.4))
    return model, x, model.logits(x).argmax(1)


def margins(model, x, y):
    logits = model.logits(x)
    return logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)


def lowest(model, x, y, threat, points=60):
    """Return the least margin among random points, those moved to the border, and an attack's."""
    draws, found = Draws(0, tuple(range(len(x))), "lowest"), [margins(model, x, y)]
    for i in range(points):
        inside = balls.sample(threat, x, draws, f"point/{i}")
        found += [margins(model, p, y) for p in (inside, balls.furthest(threat, x, inside - x))]
    found.append(margins(model, attack("pgd", model, x, y, threat, loss="margin", steps=10).result.x_adv, y))
    return torch.stack(found).amin(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_point_of_the_ball_is_below_the_bound(name):
    model, x, y = network(name)
    clean = margins(model, x, y)
    for norm, radius in RADIUS.items():
        for factor in (0.3, 1.0):
            threat = ThreatModel(norm, factor * radius)
            low = lowest(model, x, y, threat, 6)
            found = {
                n: certify(n, model, x, y, threat, **CERTIFIERS[n].quick).lower_margin for n, k in CASES if k == norm
            }
            for method, margin in found.items():
                assert bool((margin <= low + 1e-9).all()), method
                assert bool((margin < clean).all()), method
            assert bool((found["crown"] >= found["ibp"]).all())
            assert bool((found["alpha_crown"] >= found["crown"] - 1e-9).all())


@pytest.mark.parametrize("name", ["relu", "residual", "curves"])
def test_crown_is_much_closer_than_intervals_and_not_idle(name):
    model, x, y = network(name)
    threat = ThreatModel("linf", 0.004)
    clean, low = margins(model, x, y), lowest(model, x, y, threat)
    loss = {n: (low - certify(n, model, x, y, threat, **m).lower_margin) for n, m in (("ibp", {}), *FULL.items())}
    assert bool((loss["crown"] < 0.7 * loss["ibp"]).all())
    assert bool((loss["deepz"] < 0.7 * loss["ibp"]).all())
    assert bool((loss["crown"] < clean - low).all())


FULL = {"crown": {"stop_early": False}, "deepz": {"stop_early": False}}


@pytest.mark.parametrize("method", ["crown", "deepz", "alpha_crown", "ibp"])
def test_memory_changes_the_cut_and_not_the_bound(method, monkeypatch):
    model, x, y = network("residual")
    threat = ThreatModel("linf", 0.02)
    more = {"alpha_crown": {"steps": 5, "hidden_steps": 1}, **FULL}.get(method, {})
    whole = certify(method, model, x, y, threat, **more)
    for room in ("bounds", "crown", "alpha_crown"):
        monkeypatch.setattr(f"robustscope.certify.{room}.capacity_of", lambda *given: 3)
    monkeypatch.setattr("robustscope.certify.margins.batch_of", lambda *given: 1)
    cut = certify(method, model, x, y, threat, memory=1, **more)
    assert torch.allclose(cut.lower_margin, whole.lower_margin, rtol=0, atol=1e-9)
    assert torch.equal(cut.rows, whole.rows)


@pytest.mark.parametrize("name", ["residual", "max pooling", "curves"])
def test_float32_agrees(name):
    (model, x, y), threat = network(name), ThreatModel("linf", 0.02)
    twin, x32, _ = network(name, torch.float32)
    for method in ("ibp", "crown", "deepz"):
        one, two = (certify(method, m, z, y, threat).lower_margin for m, z in ((model, x), (twin, x32)))
        assert two.dtype == torch.float32
        assert torch.allclose(one, two.double(), rtol=1e-4, atol=1e-4)


def test_time_that_is_up_is_said():
    model, x, y = network("residual")
    for method in ("ibp", "crown", "alpha_crown", "deepz"):
        found = certify(method, model, x, y, ThreatModel("linf", 0.5), timeout=1e-9)
        assert set(found.status) == {"timeout"}
        assert not found.verified.any()
    found = certify("crown", model, x, y, ThreatModel("linf", 0.001), timeout=600.0)
    assert set(found.status) == {"verified"}


def test_time_that_is_up_inside_a_layer_ends_the_call_and_keeps_what_is_sound(monkeypatch):
    model, x, y = network("residual")
    threat, more = ThreatModel("linf", 0.02), {"stop_early": False, "memory": 1}
    monkeypatch.setattr("robustscope.certify.bounds.capacity_of", lambda *given: 3)
    whole = certify("crown", model, x, y, threat, **more)
    calls, now = [], time.perf_counter()
    # A clock of which every look costs a second.
    monkeypatch.setattr("robustscope.certify.bounds.time.perf_counter", lambda: calls.append(0) or now + len(calls))
    found = certify("crown", model, x, y, threat, timeout=float(20), **more)
    assert "timeout" in found.status
    assert bool((found.rows < whole.rows).any())
    assert bool((found.lower_margin <= whole.lower_margin + 1e-9).all())


@pytest.mark.parametrize(
    ("method", "budget"), [("crown", "most_forms"), ("alpha_crown", "most_forms"), ("deepz", "most_terms")]
)
def test_a_budget_of_forms_is_kept_and_is_the_same_for_every_cut(method, budget):
    model, x, y = network("residual")
    more = {"alpha_crown": {"hidden_steps": 0}, **FULL}.get(method, {})
    threat = ThreatModel("linf", (0.02, 0.002, 0.05, 0.01))
    free = certify(method, model, x, y, threat, **more)
    limit = int(free.rows.median())
    found = certify(method, model, x, y, threat, **more, **{budget: limit})
    assert "timeout" in found.status
    assert set(found.status) != {"timeout"}
    assert bool((found.lower_margin <= free.lower_margin + 1e-9).all())
    late = torch.tensor([status == "timeout" for status in found.status])
    assert torch.allclose(found.lower_margin[~late], free.lower_margin[~late], rtol=0, atol=1e-9)
    for i in range(4):
        alone = certify(
            method, model, x[i : i + 1], y[i : i + 1], threat.select(torch.tensor([i])), **more, **{budget: limit}
        )
        assert alone.status == found.status[i : i + 1]
        assert torch.allclose(alone.lower_margin, found.lower_margin[i : i + 1], rtol=0, atol=1e-9)
    with pytest.raises(InvalidValue, match=budget):
        certify(method, model, x, y, threat, **{budget: 0})


def test_closer_hidden_bounds_verify_more_and_stay_below_every_point():
    gained = 0
    for name in ("relu", "leaky", "residual"):
        model, x, y = network(name)
        for epsilon in (0.01, 0.02, 0.04):
            threat = ThreatModel("linf", epsilon)
            once, both = (certify("alpha_crown", model, x, y, threat, hidden_steps=n) for n in (0, 8))
            is_open = ~once.verified
            assert bool((both.lower_margin >= once.lower_margin - 1e-9).all())
            assert bool((both.lower_margin <= lowest(model, x, y, threat, 6) + 1e-9).all())
            assert bool((both.rows > once.rows)[is_open].all())
            gained += int((both.lower_margin > once.lower_margin + 1e-3)[is_open].sum())
    assert gained >= 6


def test_misclassified_samples_are_never_verified():
    model, x, y = network("relu")
    wrong = (y + 1) % 3
    for card in CERTIFIERS:
        found = certify(card.name, model, x, wrong, ThreatModel("linf", 0.0))
        assert set(found.status) == {"unknown"}
        assert card.subject or bool((found.lower_margin <= margins(model, x, wrong)).all())
    radius = certified_radius("crown", model, x, wrong, "linf", largest=0.1)
    assert radius.radius.tolist() == radius.refused.tolist() == [0.0] * 4


def test_the_radius_is_evidence():
    model, x, y = network("residual")
    found = certified_radius("crown", model, x, y, "linf", largest=0.2, halvings=5)
    again = certify("crown", model, x, y, ThreatModel("linf", tuple(found.radius.tolist())))
    assert set(again.status) == {"verified"}
    assert torch.allclose(again.lower_margin, found.lower_margin)
    beyond = certify("crown", model, x, y, ThreatModel("linf", tuple(found.refused.clamp(max=0.5).tolist())))
    assert not beyond.verified[found.refused < torch.inf].any()
    assert bool((found.refused - found.radius)[found.refused < torch.inf].max() <= 0.2 / 2**5 + 1e-12)
    finer = certified_radius("crown", model, x, y, "linf", largest=0.2, halvings=7)
    assert bool((finer.radius >= found.radius).all())
    assert int(found.tried.max()) == 7
    assert torch.equal(found.forward, found.tried)


def test_what_is_not_allowed_is_refused():
    model, x, y = network("relu")
    threat = ThreatModel("linf", 0.1)
    with pytest.raises(UnknownName, match="Did you mean 'crown'"):
        certify("crowns", model, x, y, threat)
    with pytest.raises(UnknownName, match="steps"):
        certify("crown", model, x, y, threat, steps=3)
    with pytest.raises(InvalidValue, match="ibp"):
        certify("deepz", model, x, y, ThreatModel("l2", 0.1))
    with pytest.raises(InvalidValue, match="attacks"):
        certify("crown", model, x, y, Patch(2, 2))
    with pytest.raises(InvalidValue, match="certified_radius"):
        certify("crown", model, x, y, ThreatModel("linf", "inf"))
    with pytest.raises(InvalidValue, match="timeout"):
        certify("crown", model, x, y, threat, timeout=0.0)
    with pytest.raises(InvalidValue, match="step_size"):
        certify("alpha_crown", model, x, y, threat, steps=0)
    with pytest.raises(InvalidValue, match="labels"):
        certify("crown", model, x, y + 3, threat)
    with pytest.raises(InvalidValue, match="bounds"):
        certify("crown", model, x + 2, y, threat)
    with pytest.raises(InvalidType, match="int64"):
        certify("crown", model, x, y.float(), threat)
    with pytest.raises(InvalidValue, match="halvings"):
        certified_radius("crown", model, x, y, "linf", largest=0.1, halvings=0)


def test_one_logit_is_no_classifier():
    model = Classifier(nn.Linear(3, 1).eval(), Bounds(0.0, 1.0))
    with pytest.raises(InvalidValue, match="two logits"):
        certify(
            "ibp",
            model,
            torch.rand(2, 3, generator=torch.Generator().manual_seed(0)),
            torch.zeros(2).long(),
            ThreatModel("linf", 0.1),
        )


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the shared models are not beside the project")
def test_the_ladder_breaks_no_certificate_of_a_shared_network():
    model = load_model(str(SHARED / "models" / "mnist_toy_mlp_2x20.json")).classifier
    data = problems._samples(5, 12, 1, 28, 28).float()
    y = model.logits(data).argmax(1)
    found = certified_radius("crown", model, data, y, "linf", largest=0.05, halvings=5)
    assert int((found.radius > 0.005).sum()) >= 6
    threat = ThreatModel("linf", tuple(found.radius.tolist()))
    for name, more in (("ladder", {}), ("fab", {"steps": 5}), ("square", {"queries": 100})):
        assert not attack(name, model, data, y, threat, **more).verdict.success.any()


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the shared models are not beside the project")
def test_each_method_stands_in_its_place_on_a_shared_network():
    model = load_model(str(SHARED / "models" / "mnist_toy_mlp_2x20.json")).classifier
    data = problems._samples(5, 24, 1, 28, 28).float()
    y = model.logits(data).argmax(1)
    threat = ThreatModel("linf", 0.04)
    found = {name: certify(name, model, data, y, threat) for name in ("ibp", "deepz", "crown", "alpha_crown", "milp")}
    sure = {name: each.verified for name, each in found.items()}
    assert not (sure["ibp"] & ~sure["deepz"]).any()
    assert not (sure["crown"] & ~sure["alpha_crown"]).any()
    assert not ((sure["deepz"] | sure["alpha_crown"]) & ~sure["milp"]).any()
    assert int(sure["ibp"].sum()) < int(sure["milp"].sum()) < 24
    # What the exact method does not verify, it breaks; what it verifies, nothing breaks.
    broken = model.logits(found["milp"].x_adv).argmax(1) != y
    assert torch.equal(broken, ~sure["milp"])
    assert not (attack("ladder", model, data, y, threat).verdict.success & sure["milp"]).any()
