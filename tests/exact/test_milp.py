"""The exact verifier against all activation patterns of tiny networks, and against a grid where there is no pattern."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from enumerated import fill, tiny_network
from robustscope.attacks.verify import verify
from robustscope.certify import CERTIFIERS, certify
from robustscope.certify.bounds import bound
from robustscope.certify.graph import trace
from robustscope.certify.milp import Answer, minimise
from robustscope.certify.program import Program, encode, weights
from robustscope.certify.region import Region
from robustscope.contracts.certifiers import run_certifier_check
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, Bounds, ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

CLOSE = 1e-4  # what loosening each constraint by 2e-6 may cost on these networks


@pytest.fixture(scope="module")
def tiny():
    return tiny_network()


def test_the_least_margin_is_that_of_all_activation_patterns(tiny):
    model, x, y, truth = tiny
    asked = 0
    for epsilon, margins in truth.items():
        exact = torch.tensor(margins, dtype=torch.float64)
        threat = ThreatModel("linf", epsilon)
        crown = certify("crown", model, x, y, threat)
        found = certify("milp", model, x, y, threat, margins="exact")
        is_open = torch.tensor([s == "unknown" for s in crown.status])
        asked += int(is_open.sum())
        assert bool((found.lower_margin <= exact + 1e-9).all())
        assert torch.allclose(found.lower_margin[is_open], exact[is_open], rtol=0, atol=CLOSE)
        assert found.status == tuple("verified" if m > 0 else "unknown" for m in margins)
        assert certify("milp", model, x, y, threat).status == found.status
    assert asked >= 5


def test_what_is_not_verified_comes_with_a_point_that_the_judge_accepts(tiny):
    model, x, y, truth = tiny
    for epsilon, margins in truth.items():
        threat = ThreatModel("linf", epsilon)
        for mode in ("decide", "exact"):
            found = certify("milp", model, x, y, threat, margins=mode)
            nothing = torch.zeros_like(y)
            verdict = verify(model, x, y, threat, AttackResult(found.x_adv, nothing, nothing))
            assert verdict.success.tolist() == [m < 0 for m in margins]
            assert bool((found.forward >= 1 + verdict.success.long()).all())


def test_ibp_deepz_crown_and_milp_stand_in_their_order():
    module = fill(nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)), 5, 1.5)
    x = problems._samples(1, 40, 4)
    with torch.no_grad():
        module[4].bias.sub_(module(x).mean(0))
    model = Classifier(module)
    y = model.logits(x).argmax(1)
    threat = ThreatModel("linf", 0.08)
    found = {name: certify(name, model, x, y, threat).verified for name in ("ibp", "deepz", "crown", "milp")}
    assert not (found["ibp"] & ~found["deepz"]).any()
    assert not ((found["deepz"] | found["crown"]) & ~found["milp"]).any()
    assert int(found["ibp"].sum()) < int(found["crown"].sum()) < int(found["milp"].sum()) < 40


LAYERS = {
    "leaky": lambda: [nn.Linear(2, 6), nn.LeakyReLU(0.3), nn.Linear(6, 4), nn.LeakyReLU(0.1), nn.Linear(4, 3)],
    "clipped": lambda: [nn.Linear(2, 6), nn.Hardtanh(-0.4, 0.3), nn.Linear(6, 4), nn.ReLU6(), nn.Linear(4, 3)],
    "pooled": lambda: [
        nn.Linear(2, 36),
        nn.Unflatten(1, (1, 6, 6)),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(9, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    ],
    "convolved": lambda: [
        nn.Linear(2, 16),
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    ],
}


def on_a_grid(model, x, y, norm, epsilon, steps=161):
    """Return the least margins over a grid of the ball of two inputs inside the bounds."""
    unit = torch.linspace(-1, 1, steps, dtype=torch.float64)
    grid = epsilon * torch.cartesian_prod(unit, unit)
    grid = grid[grid.abs().sum(1) <= epsilon] if norm == "l1" else grid
    least = []
    for one, label in zip(x, y, strict=True):
        logits = model.logits((one + grid).clamp(0, 1))
        rest = logits.clone()
        rest[:, label] = -torch.inf
        least.append((logits[:, label] - rest.amax(1)).min())
    return torch.stack(least)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_exact_on_a_plane(name, norm):
    module = nn.Sequential(*LAYERS[name]())
    if name in ("pooled", "convolved"):
        module[1] = Shaped(module[1].unflattened_size)
    module = fill(module, 2, 2.0)
    x = torch.tensor([[0.5, 0.4], [0.02, 0.9], [0.7, 0.2]], dtype=torch.float64)
    with torch.no_grad():
        module[-1].bias.sub_(0.9 * module(x[:1] + 0.03)[0])
    model = Classifier(module)
    y = model.logits(x).argmax(1)
    for epsilon in (0.1, 0.3):
        threat = ThreatModel(norm, epsilon)
        grid = on_a_grid(model, x, y, norm, epsilon)
        found = certify("milp", model, x, y, threat, margins="exact")
        crown = certify("crown", model, x, y, threat)
        assert bool((found.lower_margin <= grid + 1e-9).all())
        is_open = torch.tensor([s == "unknown" for s in crown.status])
        coarse = epsilon / 80 * 40  # the grid's step times a generous slope
        assert bool((found.lower_margin >= grid - coarse)[is_open].all())
        point = on_a_grid(model, found.x_adv, y, norm, 0.0, 2)
        broken = (found.x_adv != x).any(1)
        assert torch.allclose(point[broken], found.lower_margin[broken], rtol=0, atol=CLOSE)
        assert bool((broken == (found.lower_margin < -CLOSE))[is_open].all())


class Shaped(nn.Module):
    """Views its input in a shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x):
        return x.view(x.shape[0], *self.shape)


def broken_kink(self, z, low, high, slope=0.0, whole=Program.kink):
    """Take half of the upper bound for the big M."""
    return whole(self, z, low, np.where((low < 0) & (high > 0), high / 2, high), slope)


def other_half(self, z, low, high, slope=0.0, whole=Program.kink):
    """Take half of the lower bound for the other big M."""
    return whole(self, z, np.where((low < 0) & (high > 0), low / 2, low), high, slope)


@pytest.mark.parametrize("broken", [broken_kink, other_half])
def test_a_wrong_big_m_is_caught(tiny, broken, monkeypatch):
    monkeypatch.setattr(Program, "kink", broken)
    model, x, y, truth = tiny
    found = certify("milp", model, x, y, ThreatModel("linf", 0.3), margins="exact").lower_margin
    assert bool((found > torch.tensor(truth[0.3]) + 1e-3).any())
    assert broken is other_half or not run_certifier_check("is_never_broken", CERTIFIERS["milp"], "linf").passed


def test_every_point_of_the_network_keeps_all_constraints(tiny):
    model, x = tiny[:2]
    graph, _ = trace(model, x)
    region = Region.of(ThreatModel("linf", 0.3), x[:1])
    program, logits = encode(bound(graph, region, "crown"), weights(graph, x.device))
    # Fix the inputs of the program at a point: what is left must be feasible, and the logits those of the network.
    for k in range(5):
        point = (region.lower + (region.upper - region.lower) * torch.rand(3, generator=seeded(k)).double())[0]
        fixed = Program(program.low[:], program.high[:], program.whole, program.blocks)
        fixed.low[:3], fixed.high[:3] = point.tolist(), point.tolist()
        for c, sign in ((0, 1.0), (1, -1.0), (2, 1.0)):
            answer = minimise(fixed, logits.weighted(sign * np.eye(3)[c]), 10.0)
            assert answer.value == pytest.approx(sign * float(model.logits(point[None])[0, c]), abs=CLOSE)


def seeded(number):
    return torch.Generator().manual_seed(number)


def test_a_margin_as_small_as_the_solver_s_error_is_unknown(tiny):
    model, x, y, truth = tiny
    assert certify("crown", model, x, y, ThreatModel("linf", 0.3)).status[1] == "unknown"
    for margin, due in ((3e-6, "unknown"), (1e-3, "verified"), (-1e-3, "unknown")):
        module = copy.deepcopy(model.module)
        with torch.no_grad():
            module[4].bias[y[1]] -= truth[0.3][1] - margin
        found = certify("milp", Classifier(module), x[1:2], y[1:2], ThreatModel("linf", 0.3))
        assert found.status == (due,)
        assert bool((found.x_adv != x[1:2]).any()) == (margin < 0)


def test_a_solver_that_says_nothing_decides_nothing(tiny, monkeypatch):
    model, x, y, truth = tiny
    threat = ThreatModel("linf", 0.3)
    crown = certify("crown", model, x, y, threat)
    nothing = Answer(None, None, np.inf, False)
    monkeypatch.setattr("robustscope.certify.milp.minimise", lambda *given: nothing)
    found = certify("milp", model, x, y, threat)
    assert found.status == crown.status
    assert torch.allclose(found.lower_margin, crown.lower_margin, atol=1e-12)
    assert min(truth[0.3]) < 0


def test_time_and_size_that_are_up_are_said(tiny):
    model, x, y, _ = tiny
    threat, x, y = ThreatModel("linf", 0.3), x[:1], y[:1]
    for budget in ({"sample_timeout": 1e-9}, {"binaries": 1}, {"timeout": 1e-9}):
        found = certify("milp", model, x, y, threat, **budget)
        assert set(found.status) == {"timeout"}
        assert not found.verified.any()
    with pytest.raises(InvalidValue, match="binaries"):
        certify("milp", model, x, y, threat, binaries=0)
    with pytest.raises(InvalidValue, match="sample_timeout"):
        certify("milp", model, x, y, threat, sample_timeout=0.0)


def test_a_curve_is_refused_by_name():
    problem = problems.smooth_cnn(torch.float64, 2)
    with pytest.raises(InvalidValue, match="Tanh"):
        certify("milp", Classifier(problem.module), problem.x, problem.y, ThreatModel("linf", 0.1))


def test_float32_and_bounds_of_their_own(tiny):
    model, x, y, truth = tiny
    single = Classifier(copy.deepcopy(model.module).float(), Bounds(-1.0, 2.0))
    threat = ThreatModel("linf", (0.05, 0.2, 0.2), Bounds(-1.0, 2.0))
    found = certify("milp", single, x.float(), y, threat, margins="exact")
    assert found.lower_margin.dtype == found.x_adv.dtype == torch.float32
    assert found.status[0] == ("verified" if truth[0.05][0] > 0 else "unknown")
