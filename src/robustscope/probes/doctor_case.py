"""What every check of the doctor works on: a model, some samples, and what was declared about them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustscope.core.types import Bounds

Stats = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass
class Case:
    """One examination.

    Args:
        module: a copy in evaluation mode.
        x: (B, *S) inputs before normalisation.
        y: (B,) labels.
        class_names: names of the classes of the data, or None.
        mean, std, bounds: as declared.
        training: names of the parts that were found in training mode.
        logits: (B, K), set by the check of the outputs.
        best: the normalisation under which the model is most accurate, set by that check; None as declared.
    """

    module: nn.Module
    x: Tensor
    y: Tensor
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    bounds: Bounds
    training: tuple[str, ...] = ()
    logits: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    best_logits: Tensor | None = None

    def __post_init__(self) -> None:
        place = next(iter([*self.module.parameters(), *self.module.buffers()]), None)
        if place is not None:
            dtype = place.dtype if place.is_floating_point() else self.x.dtype
            self.x, self.y = self.x.to(place.device, dtype), self.y.to(place.device)

    @property
    def declared(self) -> Stats | None:
        """Mean and std as declared, or None."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def normalised(self, x: Tensor, stats: Stats | None) -> Tensor:
        """Return (x - mean) / std per channel."""
        if stats is None:
            return x
        shape = (1, -1, *([1] * (x.dim() - 2)))
        mean, std = (x.new_tensor(values).view(shape) for values in stats)
        return (x - mean) / std

    def run(self, x: Tensor, batch_size: int = 64) -> Tensor:
        """Return the outputs (B, K) for inputs as the module itself gets them, without a graph."""
        with torch.no_grad():
            return torch.cat([self.module(part).detach() for part in x.split(batch_size)])

    def accuracy(self, logits: Tensor) -> float:
        """Return the fraction of samples whose largest logit is that of the label."""
        return (logits.argmax(1) == self.y).double().mean().item()


def percent(value: float) -> str:
    """Write a fraction as percent with one decimal."""
    return f"{100 * value:.1f} %"
