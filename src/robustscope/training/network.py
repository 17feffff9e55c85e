"""A network in training: it normalises inside, counts its rows, and lends itself to attacks; weights and mode may change."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from robustscope.core.errors import InvalidValue, ModelError, did_you_mean
from robustscope.core.types import Bounds
from robustscope.models.classifier import Classifier, normalise
from robustscope.models.outputs import all_finite
from robustscope.training.cards import Passes

Mode = Literal["train", "eval"]
Losses = Callable[[Tensor], Tensor]
LARGEST_SCALE = 256.0
"""Largest factor of a sample's own loss in half precision. The loop scales a mean over the batch, by 2^16 at first; the sum
that input gradients are taken of would overflow with it: 2^16 times a cross-entropy's gradient of 1 is past the largest half.
A power of two, so that dividing by it again changes nothing."""


class _Reached(Exception):
    """Ends a forward pass at a layer; never leaves this module."""


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
            scale = min(self.scale(), LARGEST_SCALE)
            (gradient,) = torch.autograd.grad(values.sum() * scale, leaf, create_graph=graph)
        gradient = gradient / scale if scale != 1 else gradient
        _require_finite(gradient)
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

    def weight_gradients(self, losses: Tensor, weights: Sequence[Tensor], factor: float) -> tuple[Tensor, ...]:
        """Return the gradients of ``factor * losses.sum()`` in some weights, for an objective that needs them itself.

        The rows were counted where ``losses`` came from, by :meth:`logits`. In half precision a gradient that overflows
        is 0: the loop lowers its scale once it meets such a one.

        Args:
            losses: (B,), with a graph.
            weights: of the network.
            factor: 1 / batch size, as the loop has it, keeps half precision from overflowing.

        Raises:
            ModelError: if a gradient is not finite in full precision.
        """
        scale = self.scale()
        found = torch.autograd.grad(losses.sum() * (factor * scale), weights, allow_unused=True)
        return tuple(
            torch.zeros_like(weight) if gradient is None else self._direction(gradient) / scale
            for weight, gradient in zip(weights, found, strict=True)
        )

    def received(self, point: Tensor) -> Tensor:
        """Return the gradient that the loop's backward pass has left on a tensor of an objective: its direction alone.

        It carries the loop's factors. In half precision an overflow is 0: the loop skips the update of the weights, and
        the objective should not move either.

        Raises:
            ModelError: if it is not finite in full precision.
        """
        return self._direction(torch.zeros_like(point) if point.grad is None else point.grad)

    def _direction(self, gradient: Tensor) -> Tensor:
        if self.scale() != 1:
            return torch.where(torch.isfinite(gradient), gradient, torch.zeros_like(gradient))
        _require_finite(gradient)
        return gradient

    # The network cut in two, for objectives that go through its first layer more often than through the rest.

    def first_layer(self, name: str = "") -> nn.Module:
        """Return the layer after which the network is to be cut: the one named, or the first with weights of its own.

        Raises:
            InvalidValue: if there is none.
        """
        layers = dict(self.module.named_modules())
        if name and name not in layers:
            raise InvalidValue(
                f"the network has no layer {name!r}", "", did_you_mean(name, [each for each in layers if each])
            )
        weighted = [layer for layer in layers.values() if any(True for _ in layer.parameters(recurse=False))]
        if not name and not weighted:
            raise InvalidValue("the network has no weights", "a network to train is allowed", "Give another one.")
        return layers[name] if name else weighted[0]

    def output_of(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Send ``x`` up to a layer and no further, and return what comes out of it; counted as partial rows.

        Raises:
            ModelError: if the forward pass does not come to this layer.
        """
        self.partial_rows += len(x)
        found: list[Tensor] = []

        def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
            found.append(output)
            raise _Reached

        with hooked(layer, stop):
            try:
                self.run(self.module, normalise(x, self.mean, self.std))
            except _Reached:
                return found[0]
        raise _uncut("it does not pass through that layer")

    def logits_behind(self, layer: nn.Module, x: Tensor, *, through: bool = False) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and the output of a layer, on which the loop's backward pass will leave its gradient.

        Counted as :meth:`logits`. The backward pass ends at that output: weights up to the layer get no gradient.

        Args:
            layer: see :meth:`first_layer`.
            x: (B, *S).
            through: let the backward pass go on to the first weights.

        Raises:
            ModelError: if the inputs reach the logits on a way around the layer (during the backward pass), or the
                forward pass does not come to it exactly once.
        """
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            found.append(output if through else output.detach().requires_grad_(True))
            found[-1].retain_grad()
            return found[-1].clone()  # what follows may work in place

        def refuse(gradient: Tensor) -> None:
            raise _uncut("its inputs reach the logits on a way around that layer")

        point = x.detach()
        if not through:
            point.requires_grad_(True).register_hook(refuse)
        with hooked(layer, keep):
            logits = self.logits(point)
        if len(found) != 1:
            raise _uncut(f"it passes through that layer {len(found)} times")
        return logits, found[0]

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


@contextmanager
def hooked(layer: nn.Module, hook: Callable[..., Tensor | None]) -> Generator[None]:
    """Have a layer call a forward hook inside the block."""
    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _uncut(why: str) -> ModelError:
    return ModelError(
        f"the network cannot be cut after its first layer: {why}",
        "a layer that everything passes through once is allowed",
        "Name another one with first_layer, such as the block around it.",
    )


def _require_finite(gradient: Tensor) -> None:
    if not all_finite(gradient.detach()):
        raise ModelError(
            "the loss has no finite gradient",
            "finite gradients are allowed",
            "Training has probably diverged: lower the learning rate, or clip gradients with clip_norm.",
        )
