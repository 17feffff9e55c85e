"""Smoothness of kernels: constant, independent, chequered; smoothing by brute force."""

import math

import pytest
import torch
from scipy import ndimage
from torch import nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model
from robustscope.probes.why import WHY
from robustscope.probes.why.kernel_smoothness import roughness, smooth_kernels


def ask(model):
    x = torch.rand(2, 1, 8, 8)
    found = WHY["kernel_smoothness"].function(
        model, x, torch.zeros(2, dtype=torch.int64), ThreatModel("linf", 0.1), draws=Draws(0, (0, 1))
    )
    return found.figures["kernel_roughness"]


def test_roughness_of_known_kernels():
    chequers = (-1.0) ** (torch.arange(5)[:, None] + torch.arange(5))
    assert roughness(torch.full((2, 3, 5, 5), 0.7)) == 0
    assert roughness(chequers.expand(2, 3, 5, 5)) == 4
    noise = torch.randn(400, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert roughness(noise) == pytest.approx(2, abs=0.05)
    assert roughness(1000 * noise) == pytest.approx(roughness(noise))
    assert math.isnan(roughness(torch.zeros(1, 1, 3, 3)))


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_smoothing_by_brute_force(rho):
    model = load_model("bundled:digits_standard").classifier
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    smoothed = smooth_kernels(model, rho)
    mask = torch.full((3, 3), rho)
    mask[1, 1] = 1
    for name, tensor in smoothed.module.state_dict().items():
        wanted = before[name]
        if wanted.dim() == 4:
            wanted = torch.tensor(ndimage.correlate(wanted.numpy(), mask[None, None].numpy(), mode="reflect"))
        assert torch.allclose(tensor, wanted, atol=1e-5)
        assert torch.equal(model.module.state_dict()[name], before[name])  # the model itself is left alone
    assert smoothed.ledger is not model.ledger


def test_the_figure_is_that_of_the_first_kernels():
    model = load_model("bundled:digits_standard").classifier
    first = next(part for part in model.module if isinstance(part, nn.Conv2d))
    assert ask(model) == roughness(first.weight) > ask(smooth_kernels(model, 0.5))
    assert model.ledger.forward == 0
    with pytest.raises(InvalidValue, match="without a convolution kernel"):
        ask(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()))


@pytest.mark.parametrize("rho", [-1, math.inf, math.nan])
def test_what_is_refused(rho):
    with pytest.raises(InvalidValue, match="rho"):
        smooth_kernels(load_model("bundled:digits_standard").classifier, rho)
