"""A loop of a few lines that drives objectives, and networks on which their losses are known."""

from types import SimpleNamespace

import torch
from torch import nn

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.training import OBJECTIVES, Step
from robustscope.training.network import Network


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def drive(
    name,
    module,
    x,
    y,
    threat,
    *,
    rate=0.0,
    scale=1.0,
    precision=None,
    step=None,
    ids=None,
    draws=None,
    divide=None,
    **settings,
):
    """Do with the terms of an objective what the loop does, by plain gradient descent.

    Returns the losses of each term, the gradients of each update, the network, and the inputs that its first module saw.
    """
    card, network = OBJECTIVES[name], Network(module, precision=precision, scale=lambda: scale)
    out = SimpleNamespace(losses=[], gradients=[], network=network, seen=[])
    handle = module.register_forward_pre_hook(lambda part, inputs: out.seen.append(inputs[0].detach().clone()))
    threat = ThreatModel.parse(threat) if isinstance(threat, str) else threat
    ids = ids or tuple(range(len(x)))
    step = step or Step(0, 1, torch.arange(len(x)), len(x), len(x))
    draws = draws or Draws(0, ids)
    module.zero_grad()
    for term in card.function(network, x, y, threat, draws=draws, step=step, **card.resolve(settings)):
        (term.losses.sum() / (divide or len(x)) * scale).backward()
        network.settle()
        out.losses.append(term.losses.detach())
        if term.update:
            out.gradients.append({n: w.grad / scale for n, w in module.named_parameters() if w.grad is not None})
            with torch.no_grad():
                for weight in module.parameters():
                    if weight.grad is not None:
                        weight -= rate * weight.grad / scale
            module.zero_grad()
    handle.remove()
    return out


def binary(values=6, samples=40, bounds_far=True):
    """Two classes with logits -+ z / 2, z = w . x - 0.2: module, w, x, y and margins, in float64."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(values, generator=generator, dtype=torch.float64)
    spread = 0.1 if bounds_far else 1.0
    x = (0.5 + spread * torch.randn(samples, values, generator=generator, dtype=torch.float64)).clamp(0, 1)
    y = torch.randint(0, 2, (samples,), generator=generator)
    module = nn.Sequential(nn.Linear(values, 2)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.stack([-w / 2, w / 2]))
        module[0].bias.copy_(torch.tensor([0.1, -0.1], dtype=torch.float64))
    return module, w, x, y, (2.0 * y - 1) * (x @ w - 0.2)


def curved(classes=3, values=5, seed=1, act=nn.Tanh):
    """A small network with drawn weights and samples for it, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(values, 7), act(), nn.Linear(7, 6), act(), nn.Linear(6, classes)).double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    x = 0.5 + 0.2 * torch.rand(12, values, generator=generator, dtype=torch.float64)
    return module, x, torch.randint(0, classes, (12,), generator=generator)
