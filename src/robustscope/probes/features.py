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
    """A copy of a network whose last linear layer is a readout, or which ends in one where that cannot be.

    Args:
        module: the network, which is not changed.
        x: (1, *S), an input as the module gets it.
        runs: whether it must run to its end, which what stands behind the last layer may not do on two logits.

    Raises:
        ModelError: if the network cannot be copied.
    """

    def __init__(self, module: nn.Module, x: Tensor, runs: bool = True) -> None:
        super().__init__()
        try:
            self.network = copy.deepcopy(module)
        except Exception as error:
            raise ModelError(
                f"the network could not be copied ({type(error).__name__})",
                "a module that deepcopy takes is allowed",
                "Keep handles and open files out of the module.",
            ) from error
        name, features, out = _last_linear(self.network, x)
        self.inner = bool(name)
        self.readout = Readout(features, features.shape[-1])
        if name:
            parent, _, key = name.rpartition(".")
            place = self.network.get_submodule(parent)
            layer = getattr(place, key)
            setattr(place, key, self.readout)
            if runs and not _gives_two(self.network, x):
                setattr(place, key, layer)
                self.inner, self.readout = False, Readout(out, out.shape[-1])
        self.features = self.readout.weight.shape[0]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits (B, 2) for inputs (B, *S)."""
        out = self.network(x)
        return out if self.inner else self.readout(out)

    def seen(self, x: Tensor) -> Tensor:
        """Return the features (B, F) that the readout is fed.

        Raises:
            ModelError: if the network does not come so far.
        """
        caught: list[Tensor] = []
        handle = self.readout.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        try:
            with torch.no_grad():
                self(x)
        except Exception as error:
            if not caught:  # what comes behind may want more logits than two
                raise ModelError(
                    f"the network without its last layer raised {type(error).__name__}",
                    "a network that runs on these inputs is allowed",
                    "Look at what its forward does before the last layer.",
                ) from error
        finally:
            handle.remove()
        return caught[0].detach()


def _gives_two(network: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            return tuple(network(x).shape) == (1, 2)
    except Exception:  # whatever the network's own code raises, the readout then stands behind it
        return False


def _last_linear(network: nn.Module, x: Tensor) -> tuple[str, Tensor, Tensor]:
    """Return the name of the linear layer that makes the logits, its inputs (1, F) and the outputs of the network (1, K).

    "" and the outputs twice if there is none.

    It must be the last linear layer that is called, called once, on one row for each input.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []
    handles = [
        part.register_forward_hook(
            lambda module, inputs, out, name=name: calls.append((name, inputs[0] if inputs else out, out))
        )
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
            return name, features, out
    return "", out, out


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
        cut = Cut(bench.model.module, bench.model._normalise(x[:1]), runs=False)
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
