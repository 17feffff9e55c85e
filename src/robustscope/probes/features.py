"""The last features of a network, and a copy of it that ends in two logits of one's own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustscope.core.errors import ModelError, RobustscopeError
from robustscope.geometry import balls
from robustscope.probes.bench import Bench

POINTS = 10
"""Random points, and as many corners, at which features are compared."""


class Readout(nn.Module):
    """Two logits: class 0 for what lies inside, class 1 for what looks like the boundary point."""

    weight: Tensor
    bias: Tensor

    def __init__(self, like: Tensor, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", like.new_zeros(size))
        self.register_buffer("bias", like.new_zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return (..., 2) for features (..., F)."""
        half = (features @ self.weight.to(features) + self.bias.to(features)) / 2
        return torch.stack([-half, half], -1)


class Cut(nn.Module):
    """A copy of a network whose last linear layer is a readout, or which ends in one where there is no such layer.

    Args:
        module: the network, which is not changed.
        x: (1, *S), an input as the module gets it.

    Raises:
        ModelError: if the network cannot be copied.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        try:
            network = copy.deepcopy(module)
        except Exception as error:
            raise ModelError(
                f"the network could not be copied ({type(error).__name__})",
                "a module that deepcopy takes is allowed",
                "",
            ) from error
        name, features = _last_linear(network, x)
        self.readout = Readout(features, features.shape[-1])
        self.features = features.shape[-1]
        self.inner = bool(name)
        if name:
            parent, _, key = name.rpartition(".")
            setattr(network.get_submodule(parent), key, self.readout)
        self.network = network
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits (B, 2) for inputs (B, *S)."""
        out = self.network(x)
        return out if self.inner else self.readout(out)

    def seen(self, x: Tensor) -> Tensor:
        """Return the features (B, F) that the readout is fed."""
        caught: list[Tensor] = []
        handle = self.readout.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        try:
            with torch.no_grad():
                self(x)
        finally:
            handle.remove()
        return caught[0].detach()


def _last_linear(network: nn.Module, x: Tensor) -> tuple[str, Tensor]:
    """Return the name of the linear layer that makes the logits and its inputs (1, F); "" and the outputs if there is none.

    It must be the last linear layer that is called, called once, on one row for each input.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []
    handles = [
        part.register_forward_hook(lambda module, inputs, out, name=name: calls.append((name, inputs[0], out)))
        for name, part in network.named_modules()
        if type(part) is nn.Linear
    ]
    try:
        with torch.no_grad():
            out = network(x)
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _, _ in calls]
    if calls and names[-1] and names.count(names[-1]) == 1:
        name, features, made = calls[-1]
        siblings = sum(made_.shape == out.shape for _, _, made_ in calls)
        if features.dim() == 2 and made.shape == out.shape and siblings == 1:
            return name, features
    return "", out


def constant(bench: Bench, rows: Tensor) -> Tensor:
    """Tell where nothing in the network moves over the whole ball: bool (len(rows),).

    Features before the last layer are the same, to the bit, at random points and corners of the threat set: all units are
    dead there, as provable training makes them, and a gradient of zero is the truth. Where outputs alone are the same,
    something behind the features hides what moves. False where there is no last linear layer to look at.

    Args:
        bench: model, samples and threat model.
        rows: int64, positions of the samples to look at.
    """
    still = torch.zeros(len(rows), dtype=torch.bool, device=bench.x.device)
    if not len(rows):
        return still
    x, threat, draws = bench.x[rows], bench.threat.select(rows), bench.draws.select(rows).within("constant")
    try:
        cut = Cut(bench.model.module, bench.model._normalise(x[:1]))
    except RobustscopeError:
        return still
    if not cut.inner:
        return still
    still, before = ~still, cut.seen(bench.model._normalise(x))
    for number in range(POINTS):
        for point in (
            balls.sample(threat, x, draws, f"inside/{number}"),
            balls.furthest(threat, x, draws.normal(f"corner/{number}", x)),
        ):
            bench.model.ledger.forward += len(x)
            still &= (cut.seen(bench.model._normalise(point)) == before).all(1)
    return still
