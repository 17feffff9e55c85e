"""Magnitude pruning while a network is trained: what is pruned is exactly 0 whenever anyone looks at the network.

``torch.nn.utils.prune`` says which weights are the smallest. Its reparametrisation is not used: it renames the weights of
the network, which optimizers, averaged weights, checkpoints and traced graphs would all have to know of. The masks are kept
here instead and put on after each update, which for the network comes to the same.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from robustscope.training.recipe import Sparsity

GRACE = 1.1
"""By what a weight that is in the network counts for more than one that would come back, so that few change places."""


class Pruner:
    """The masks of a network in training.

    Args:
        plan: how many weights, and when.
        module: the network; the weights of its linear and convolutional layers are pruned.

    Source: the gradual rise of sparsity, Zhu & Gupta 2017, arXiv:1710.01878, Eq. 1; surgery, Guo, Yao, Chen 2016,
        arXiv:1608.04493, Alg. 1, with which Guo et al. 2018, arXiv:1810.09619, studied sparsity and robustness.

    Departures: surgery takes the share of pruned weights as given, where the paper fixes two thresholds on their size; one
        weight comes back for each that leaves.
    """

    def __init__(self, plan: Sparsity, module: nn.Module) -> None:
        self.plan, self.weights = plan, prunable(module) if plan.amount else {}
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        self.dense: dict[str, Tensor] = {}
        if plan.method == "surgery":
            self.dense = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @property
    def share(self) -> float:
        """Share of the weights that are pruned now."""
        masks = self.masks.values()
        total = sum(mask.numel() for mask in masks)
        return 1 - sum(int(mask.sum()) for mask in masks) / total if total else 0.0

    def wanted(self, progress: float) -> float:
        """Return the share that is to be pruned when so much of the training is done."""
        plan = self.plan
        if progress < plan.begin:
            return 0.0
        part = 1.0 if progress >= plan.end else (progress - plan.begin) / (plan.end - plan.begin)
        return plan.amount * (1 - (1 - part) ** 3)

    def advance(self, progress: float) -> None:
        """Choose the weights to be pruned, and prune them.

        Args:
            progress: share of the training that is done.
        """
        share = self.wanted(progress)
        if not share:
            return
        sizes = {name: self._size(name) for name in self.weights}
        if self.plan.scope == "layer":
            self.masks = {name: smallest(size, share) for name, size in sizes.items()}
        else:
            whole = smallest(torch.cat([size.flatten() for size in sizes.values()]), share)
            parts = whole.split([size.numel() for size in sizes.values()])
            self.masks = {name: part.view_as(sizes[name]) for name, part in zip(sizes, parts, strict=True)}
        self._put_on()

    def _size(self, name: str) -> Tensor:
        if self.dense:
            return self.dense[name].abs() * torch.where(self.masks[name], GRACE, 1.0).to(self.dense[name])
        # Below every other size, so that what is pruned stays so, even beside weights that happen to be 0.
        size = self.weights[name].detach().abs()
        return size.clamp(min=torch.finfo(size.dtype).tiny).masked_fill(~self.masks[name], 0.0)

    @torch.no_grad()
    def _put_on(self) -> None:
        for name, weight in self.weights.items():
            weight.copy_(torch.where(self.masks[name], self.dense.get(name, weight), torch.zeros_like(weight)))

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to 0, except under surgery."""
        if not self.dense:
            for name, weight in self.weights.items():
                if weight.grad is not None:
                    weight.grad.masked_fill_(~self.masks[name], 0.0)

    @contextmanager
    def updating(self) -> Generator[None]:
        """Let the optimizer update the weights inside the block: under surgery all of them, pruned ones included."""
        with torch.no_grad():
            for name, weight in self.dense.items():
                self.weights[name].copy_(weight)
        yield
        with torch.no_grad():
            for name, weight in self.dense.items():
                weight.copy_(self.weights[name])
        if self.weights:
            self._put_on()

    @torch.no_grad()
    def apply(self, module: nn.Module) -> None:
        """Put the masks on another network of the same layers, such as averaged weights."""
        for name, weight in prunable(module).items() if self.weights else ():
            weight.masked_fill_(~self.masks[name], 0.0)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"masks": self.masks, "dense": self.dense}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; the network's weights are loaded by the caller."""
        for mine, saved in ((self.masks, state["masks"]), (self.dense, state["dense"])):
            for name, tensor in saved.items():
                mine[name] = tensor.to(self.weights[name].device)


def prunable(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights of all linear and convolutional layers by name, those that are not trained left out."""
    parts = ((name, part) for name, part in module.named_modules())
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return {name: part.weight for name, part in parts if isinstance(part, kinds) and part.weight.requires_grad}


def smallest(size: Tensor, share: float) -> Tensor:
    """Return which values stay when a share of them, to one value, is taken away from below: bool, in the same shape.

    Example:
        >>> smallest(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.5)
        tensor([ True, False, False,  True])
    """
    count = round(share * size.numel())
    return L1Unstructured(count).compute_mask(size, torch.ones_like(size)).bool()


def sparsity(module: nn.Module) -> float:
    """Return the share of the weights of linear and convolutional layers that are exactly 0."""
    weights = [part.weight for part in module.modules() if isinstance(part, (nn.Linear, nn.modules.conv._ConvNd))]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
