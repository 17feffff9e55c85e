"""What the loop is put together from and what it gives: optimizer, averaged weights, peak memory; the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robustscope.training.cards import Passes
from robustscope.training.recipe import Recipe

Row = dict[str, Any]
Tracker = Callable[[Row], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Args:
        module: the network, in evaluation mode, with the weights that ``best_by`` chose.
        history: one row for each epoch.
        best: the row of the epoch whose weights these are.
        passes: rows of the whole training, of all processes.
        stopped: why it ended before its last epoch, or "".
        card: path of the model's card, None if nothing was written.
    """

    module: nn.Module
    history: tuple[Row, ...]
    best: Row
    passes: Passes
    stopped: str = ""
    card: Path | None = None


def optimizer_of(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that the recipe names, of all weights that are trained."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=recipe.momentum, weight_decay=decay, nesterov=recipe.nesterov)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=rate, weight_decay=decay)


def averaged(recipe: Recipe, module: nn.Module) -> AveragedModel | None:
    """Return the averaged weights that the recipe asks for; buffers such as running statistics are averaged too."""
    if recipe.average == "none":
        return None
    mean = get_ema_multi_avg_fn(recipe.ema_decay) if recipe.average == "ema" else None
    return AveragedModel(module, multi_avg_fn=mean, use_buffers=True)


def resident_bytes() -> int:
    """Return the most memory that this process has held so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # not a Unix system
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
