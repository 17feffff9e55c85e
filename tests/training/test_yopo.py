"""YOPO: networks cut after their first layer."""

import copy
import itertools

import pytest
import torch
from torch import nn

from objective_drive import binary, curved, drive
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, ModelError
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import random_point
from robustscope.training.network import Network


def path(name, module, x, y, **settings):
    """Return the distinct points at which an objective looked, in order."""
    seen = drive(name, copy.deepcopy(module), x, y, "linf:0.3", **settings).seen
    return [seen[0], *[b for a, b in itertools.pairwise(seen) if not torch.equal(a, b)]]


def test_yopo_with_one_inner_step_walks_as_pgd():
    module, x, y = curved(act=nn.ReLU)
    ours = path("yopo", module, x, y, rounds=4, inner=1)
    theirs = path("pgd", module, x, y, steps=4)
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_yopo_with_one_round_is_pgd_on_two_linear_classes_but_not_on_three():
    module, _, x, y, _ = binary()
    ours, theirs = path("yopo", module, x, y, rounds=1, inner=4), path("pgd", module, x, y, steps=4)
    torch.testing.assert_close(ours[-1], theirs[-1], rtol=0, atol=1e-12)
    # With three classes the loss changes its mind on the way, which a frozen p does not notice.
    generator = torch.Generator().manual_seed(0)
    three = nn.Sequential(nn.Linear(6, 3)).double()
    with torch.no_grad():
        three[0].weight.copy_(torch.randn(3, 6, generator=generator, dtype=torch.float64))
    y = torch.arange(40) % 3
    ours, theirs = path("yopo", three, x, y, rounds=1, inner=4), path("pgd", three, x, y, steps=4)
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-12)
    assert bool(((ours[-1] - theirs[-1]).abs().amax(1) > 0.01).any())


def test_yopo_inner_steps_on_a_linear_first_layer_are_one_long_step():
    module, x, y = curved()
    threat = ThreatModel("linf", 0.1)
    out = drive("yopo", module, x, y, threat, rounds=1, inner=3, relative_step_size=0.2)
    start = random_point(x, threat, Draws(0, tuple(range(12))), "start")
    hidden = module[0](start).detach().requires_grad_(True)
    (p,) = torch.autograd.grad(cross_entropy(module[1:](hidden), y).sum(), hidden)
    moved = start - x + 3 * 0.02 * (p @ module[0].weight).sign()
    expected = (x + moved.clamp(-0.1, 0.1)).clamp(0, 1)
    # Clipping after each step or once at the end is the same, for the direction does not change.
    torch.testing.assert_close(out.seen[-1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("doubled", [False, True])
def test_yopo_gradients_are_means_over_the_rounds(doubled):
    module, x, y = curved()
    points = path("yopo", module, x, y, rounds=3, inner=2)
    # Rounds begin at points 0, 2, 4; the first layer's weights look at 2, 4, 6 with the p of the round's beginning.
    out = drive("yopo", copy.deepcopy(module), x, y, "linf:0.3", rounds=3, inner=2, official_double_count=doubled)
    assert len(points) == 7
    expected = {name: torch.zeros_like(weight) for name, weight in module.named_parameters()}
    for i in range(3):
        hidden = module[0](points[2 * i])
        hidden.retain_grad()
        module.zero_grad()
        cross_entropy(module[1:](hidden), y).mean().backward()
        for name, weight in module.named_parameters():
            if doubled or not name.startswith("0."):
                expected[name] += weight.grad / 3
        end = points[2 * i + 2]
        expected["0.weight"] += hidden.grad.T @ end / 3
        expected["0.bias"] += hidden.grad.sum(0) / 3
    for name, gradient in out.gradients[0].items():
        torch.testing.assert_close(gradient, expected[name])


def test_yopo_cuts_where_it_is_told_and_refuses_networks_that_cannot_be_cut():
    module, x, y = curved()
    deeper = drive("yopo", copy.deepcopy(module), x, y, "linf:0.1", rounds=1, inner=1, first_layer="2")
    plain = drive("yopo", copy.deepcopy(module), x, y, "linf:0.1", rounds=1, inner=1)
    # One round with one step is exact wherever the cut is, but the weights before it look at the end of the step.
    torch.testing.assert_close(deeper.seen[-1], plain.seen[-1])
    torch.testing.assert_close(deeper.gradients[0]["4.weight"], plain.gradients[0]["4.weight"])
    assert not torch.allclose(deeper.gradients[0]["2.weight"], plain.gradients[0]["2.weight"])

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5).double(), nn.Linear(5, 3).double()

        def forward(self, x):
            return self.b(self.a(x) + x)

    class Twice(Skip):
        def forward(self, x):
            return self.b(self.a(self.a(x)))

    class Never(Skip):
        def forward(self, x):
            return self.b(x)

    for kind, why in ((Skip, "on a way around"), (Twice, "2 times"), (Never, "0 times")):
        with pytest.raises(ModelError, match=why):
            drive("yopo", kind(), x, y, "linf:0.1")
    with pytest.raises(ModelError, match="does not pass"):
        Network(Never()).output_of(Never().a, x)
    with pytest.raises(InvalidValue, match="no layer '9'"):
        drive("yopo", module, x, y, "linf:0.1", first_layer="9")
    with pytest.raises(InvalidValue, match="no weights"):
        Network(nn.ReLU()).first_layer()


def test_yopo_goes_behind_a_layer_that_works_in_place():
    module, x, y = curved(act=lambda: nn.ReLU(inplace=True))
    twin = copy.deepcopy(module)
    for part in twin:
        if isinstance(part, nn.ReLU):
            part.inplace = False
    for doubled in (False, True):
        a, b = (drive("yopo", m, x, y, "linf:0.1", official_double_count=doubled) for m in (module, twin))
        torch.testing.assert_close(a.gradients[0]["0.weight"], b.gradients[0]["0.weight"])
    assert not module[0]._forward_hooks
