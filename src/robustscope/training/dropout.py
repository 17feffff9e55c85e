"""Dropout that is a matter of training alone: the network that comes out has no layers of it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle


class _Drop:
    """Drop a share of what goes into a layer, in training mode."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(inputs[0], self.share, layer.training), *inputs[1:])


def add_dropout(module: nn.Module, share: float) -> list[RemovableHandle]:
    """Drop inputs of all linear layers but the network's first layer, and return the hooks that do it.

    Args:
        module: the network.
        share: of the inputs that are set to 0, the others being divided by 1 - share; 0 adds nothing.
    """
    if not share:
        return []
    weighted = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.modules.conv._ConvNd))]
    return [part.register_forward_pre_hook(_Drop(share)) for part in weighted[1:] if isinstance(part, nn.Linear)]
