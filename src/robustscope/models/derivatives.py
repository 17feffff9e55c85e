"""Derivatives of a classifier beyond one gradient: many gradients reduced as they come, and products with the Hessian.

Both go through the one door: rows are counted, memory is watched and outputs are checked as in :class:`Classifier`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.models.classifier import Classifier, Scores
from robustscope.models.convolutions import ThinConvolutions

Product = Callable[[Tensor], Tensor]

# Parts of an autograd graph whose second derivative is zero or missing almost everywhere, by the start of their names.
PIECEWISE = ("Relu", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Threshold", "Hard", "Clamp", "Abs", "Sign", "Round")
POOLING = ("MaxPool", "AdaptiveMaxPool", "Max", "Min", "Amax", "Amin", "Floor", "Ceil", "_Replaced")


def reduced_jacobian(model: Classifier, score: Scores, x: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what ``reduce`` makes of the input gradient of each of several scores: one forward pass, C backward passes.

    Each gradient is reduced when it comes, so that C of them never lie in memory at once.

    Args:
        model: the classifier.
        score: ``(logits (b, K), rows (b,)) -> (b, C)``; ``rows`` are the positions in ``x`` of this part.
        x: (B, *S), B >= 1.
        reduce: ``(b, *S) -> (b, *T)``, row by row.

    Returns:
        (B, C, *T), without a graph.

    Raises:
        InvalidValue: in training mode, and of a black box.
        ModelError: if a gradient does not exist or is not finite.
    """

    def each(columns: Tensor, leaf: Tensor) -> Tensor:
        last = columns.shape[1] - 1
        parts = [reduce(model._backward(column, leaf, again=i < last)) for i, column in enumerate(columns.unbind(1))]
        return torch.stack(parts, 1)

    with ThinConvolutions():
        return model._differentiate(score, x, each)[1]


def with_hessian(
    model: Classifier, score: Scores, x: Tensor, work: Callable[[Tensor, Product], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return scores, and what ``work`` makes of products with the Hessian of each row's score.

    A row costs one row forward, one backward for the gradient, and one more for each product.

    Args:
        model: the classifier; its logits must be twice differentiable.
        score: ``(logits (b, K), rows (b,)) -> (b,)``; ``rows`` are the positions in ``x`` of this part.
        x: (B, *S), B >= 1.
        work: ``(gradients (b, *S), product) -> (b, *T)``, where ``product(v (b, *S))`` is the Hessian times v, row by row.

    Returns:
        scores (B,) and results (B, *T), without a graph.

    Raises:
        InvalidValue: in training mode, of a black box, and of a network that is not twice differentiable.
        ModelError: if a derivative does not exist or is not finite.
    """

    def look(value: Tensor, leaf: Tensor) -> Tensor:
        require_smooth(value)
        model.ledger.backward += len(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf, create_graph=True, allow_unused=True)

        def product(v: Tensor) -> Tensor:
            if gradient is None or not gradient.requires_grad:  # affine: there is nothing to differentiate
                model.ledger.backward += len(leaf)
                return torch.zeros_like(leaf)
            return model._backward((gradient * v).flatten(1).sum(1), leaf, again=True)

        return work(torch.zeros_like(leaf) if gradient is None else gradient.detach(), product)

    scores, results, _ = model._differentiate(score, x, look)
    return scores, results


def require_smooth(value: Tensor) -> None:
    """Refuse a graph that holds a kinked or rounded operation between inputs and ``value``.

    Raises:
        InvalidValue: naming the operation.
    """
    for node in _graph(value):
        name = node.name().removesuffix("Backward0").removesuffix("Backward1").removesuffix("Backward")
        if name.startswith(PIECEWISE + POOLING):
            raise InvalidValue(
                f"a network with {name.lstrip('_')!r} was given, whose second derivative is zero or missing",
                "twice-differentiable networks (tanh, sigmoid, softplus, GELU, ELU, average pooling) are allowed",
                "Use the first-order estimate 'clever', or replace the activation.",
            )


def _graph(value: Tensor) -> Iterator[torch.autograd.graph.Node]:
    """Yield every node of the graph behind ``value`` once."""
    seen: set[torch.autograd.graph.Node] = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]
