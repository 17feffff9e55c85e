"""A network in training: it normalises inside, counts its rows, and lends itself to attacks; weights and mode may change."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from robustscope.core.errors import ModelError
from robustscope.core.types import Bounds
from robustscope.models.classifier import Classifier, normalise
from robustscope.models.outputs import all_finite
from robustscope.training.cards import Passes

Mode = Literal["train", "eval"]
Losses = Callable[[Tensor], Tensor]


@dataclass
class Network:
    """The door that objectives use; the counterpart of ``Classifier``, which refuses training mode.

    Args:
        module: maps (B, *S) to logits (B, K).
        bounds: valid range of the inputs, before normalisation.
        mean, std: per-channel normalisation done here; None when there is none.
        precision: dtype of mixed precision; None computes in the dtype of the weights.
        scale: factor of the losses while gradients of half precision are computed, so that small ones do not vanish.
    """

    module: nn.Module
    bounds: Bounds = Bounds(0.0, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    precision: torch.dtype | None = None
    scale: Callable[[], float] = lambda: 1.0
    forward_rows: int = field(default=0, init=False)
    backward_rows: int = field(default=0, init=False)
    partial_rows: int = field(default=0, init=False)
    elsewhere_rows: int = field(default=0, init=False)
    _pending: int = field(default=0, init=False)

    @property
    def passes(self) -> Passes:
        """Rows so far."""
        return Passes(self.forward_rows, self.backward_rows, self.partial_rows)

    def run(self, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Send ``x`` through a part of the network in the precision of this training; nothing is counted."""
        if self.precision is None:
            return part(x)
        with torch.autocast(x.device.type, self.precision):
            return part(x).float()

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, *S), with a graph where gradients are on; counted forward, and backward
        once the loop sends its loss back.
        """
        self.forward_rows += len(x)
        if torch.is_grad_enabled():
            self._pending += len(x)
        return self.run(self.module, normalise(x, self.mean, self.std))

    def input_gradient(self, losses: Losses, x: Tensor, *, graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return per-sample losses, their gradients in the inputs, and the logits: one pass forward, one backward.

        Args:
            losses: logits (B, K) -> (B,).
            x: (B, *S).
            graph: keep the graph, so that the gradient itself can be trained on; that costs two rows more when the loop
                sends the loss back.

        Returns:
            losses (B,), gradients (B, *S), logits (B, K); none carries a graph unless asked for.

        Raises:
            ModelError: if the gradient is not finite.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            self.forward_rows += len(x)
            self.backward_rows += len(x)
            logits = self.run(self.module, normalise(leaf, self.mean, self.std))
            values = losses(logits)
            scale = self.scale()
            (gradient,) = torch.autograd.grad(values.sum() * scale, leaf, create_graph=graph)
        gradient = gradient / scale if scale != 1 else gradient
        if not all_finite(gradient.detach()):
            raise ModelError(
                "the loss has no finite gradient in the inputs",
                "finite gradients are allowed",
                "Training has probably diverged: lower the learning rate, or clip gradients with clip_norm.",
            )
        if graph:
            self._pending += 2 * len(x)
            return values, gradient, logits
        return values.detach(), gradient, logits.detach()

    def count(self, forward: int, backward: int, *, done: bool = False) -> None:
        """Count rows that an objective sends through the weights by itself, such as bounds.

        Args:
            forward: rows forward.
            backward: rows backward, now if ``done``, else once the loop sends their loss back.
            done: whether the backward pass has been run.
        """
        self.forward_rows += forward
        self.elsewhere_rows += forward
        if done:
            self.backward_rows += backward
        else:
            self._pending += backward

    def settle(self) -> None:
        """Count the rows of the backward pass that the loop has just run."""
        self.backward_rows += self._pending
        self._pending = 0

    @contextmanager
    def mode(self, mode: Mode) -> Generator[None]:
        """Be in evaluation or training mode inside the block, and afterwards as before."""
        before = [(part, part.training) for part in self.module.modules()]
        self.module.train(mode == "train")
        try:
            yield
        finally:
            for part, training in before:
                part.training = training

    @contextmanager
    def judged(self, module: nn.Module | None = None, batch_size: int = 256) -> Generator[Classifier]:
        """Lend the network, or averaged weights of it, to attacks and certifiers: a classifier in evaluation mode.

        Its rows are not counted as training.
        """
        with self.mode("eval"):
            subject = self.module if module is None else module.eval()
            yield Classifier(subject, self.bounds, self.mean, self.std, batch_size=batch_size)
