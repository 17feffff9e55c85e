"""Small networks trained in seconds, for benchmarks and tests: the same seed gives the same network everywhere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws, permutation
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.models.layers import build
from robustscope.models.zoo import perceptron


def initialise(module: nn.Module, seed: int) -> nn.Module:
    """He initialisation from draws."""
    draws = Draws(seed, (0,), "init")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                scale = math.sqrt(2 / parameter[0].numel())
                parameter.copy_(draws.normal(name, parameter[None])[0] * scale)
            else:
                parameter.zero_()
    return module


def train(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    seed: int = 0,
    rate: float = 3e-3,
    batch: int = 128,
    adversary: tuple[ThreatModel, int] | None = None,
) -> nn.Module:
    """One-cycle Adam on cross-entropy; on PGD examples where an adversary (threat, steps) is given."""
    initialise(module, seed).train()
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    steps = epochs * math.ceil(len(x) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for epoch in range(epochs):
        order = permutation(seed, f"epoch/{epoch}", len(x))
        for start in range(0, len(order), batch):
            ids = order[start : start + batch]
            inputs = x[ids]
            if adversary is not None:
                draws = Draws(seed, tuple(ids), f"train/{epoch}")
                module.eval()
                given = {"steps": adversary[1], "relative_step_size": 2.5 / adversary[1], "loss": "cross_entropy"}
                found = attack("pgd", Classifier(module), inputs, y[ids], adversary[0], draws=draws, **given)
                inputs = found.result.x_adv
                module.train()
            loss = F.cross_entropy(module(inputs), y[ids])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return module.eval()


def pooled_cnn(channels: int = 1, classes: int = 10, width: int = 12) -> nn.Module:
    """Three convolutions and a mean over each quarter."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, classes),
    )


def mlp(hidden: tuple[int, ...]) -> nn.Module:
    """A fully connected network on the 64 values of a digit."""
    return build(perceptron((1, 8, 8), 10, hidden=hidden))
