"""Problems on which the loss of a training objective is known in closed form, and one call of an objective."""

import torch
from torch import nn

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.training import OBJECTIVES
from robustscope.training.cards import Step
from robustscope.training.network import Network


def call(name, module, x, y, threat, *, network=None, step=None, seed=0, ids=None, **settings):
    """Return the terms of one call of an objective."""
    card = OBJECTIVES[name]
    network = network or Network(module)
    ids = tuple(range(len(x))) if ids is None else ids
    step = step or Step(0, 1, torch.arange(len(x)), len(x), len(x))
    threat = ThreatModel.parse(threat) if isinstance(threat, str) else threat
    return list(card.function(network, x, y, threat, draws=Draws(seed, ids), step=step, **card.resolve(settings)))


class Linear:
    """Two classes, logits -+ z / 2 with z = w . x - 0.2, float64, samples so near 0.5 that no bound is in the way."""

    def __init__(self, samples=40, values=6):
        generator = torch.Generator().manual_seed(0)
        self.w = torch.randn(values, generator=generator, dtype=torch.float64)
        self.x = 0.5 + 0.1 * torch.randn(samples, values, generator=generator, dtype=torch.float64)
        self.y = torch.randint(0, 2, (samples,), generator=generator)
        self.module = nn.Linear(values, 2).double()
        with torch.no_grad():
            self.module.weight.copy_(torch.stack([-self.w / 2, self.w / 2]))
            self.module.bias.copy_(torch.tensor([0.1, -0.1], dtype=torch.float64))
        self.margin = (2.0 * self.y - 1) * (self.x @ self.w - 0.2)

    def dual(self, norm):
        """Return the length of w in the norm dual to ``norm``."""
        return torch.linalg.vector_norm(self.w, {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm])


def rectified(seed=0, values=6, hidden=8, classes=3, dtype=torch.float64):
    """Return a small ReLU network with weights drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(values, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                           nn.Linear(hidden, classes)).to(dtype)  # fmt: skip
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=dtype) / weight.shape[-1] ** 0.5)
    return module
