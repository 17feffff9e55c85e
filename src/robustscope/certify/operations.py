"""Affine maps of a traced network: what bounds need of a convolution, a matrix, a sum, a reshape.

Every map can be evaluated, evaluated without its constant, applied to radii with the absolute values of its weights,
and transposed. Tensors have the rows first, ``(N, *S)``; what the rows are, samples or linear forms, is the caller's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

Shape = tuple[int, ...]


class Affine(ABC):
    """A map W v + b of one value or more, each (N, *S), whose weights do not depend on the row."""

    plain: ClassVar[bool] = False
    """Whether every output depends on one input at most, so that boxes and balls pass without loss."""

    @abstractmethod
    def linear(self, *values: Tensor) -> Tensor:
        """Return W v, without the constant."""

    @abstractmethod
    def forward(self, *values: Tensor) -> Tensor:
        """Return W v + b."""

    @abstractmethod
    def spread(self, *radii: Tensor) -> Tensor:
        """Return abs(W) r for radii r >= 0: how far the outputs can move."""

    @abstractmethod
    def backward(self, forms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return a W for each input, and a b: what linear forms ``a`` (N, *S) of the output are of the inputs."""


@dataclass(frozen=True, eq=False)
class Matrix(Affine):
    """A matrix on the last axis, as ``torch.nn.Linear``.

    Args:
        weight: (out, in).
        bias: (out,) or None.
    """

    weight: Tensor
    bias: Tensor | None

    def linear(self, *values: Tensor) -> Tensor:
        """Map (N, ..., in) to (N, ..., out)."""
        return F.linear(values[0], self.weight)

    def forward(self, *values: Tensor) -> Tensor:
        """Map (N, ..., in) to (N, ..., out)."""
        return F.linear(values[0], self.weight, self.bias)

    def spread(self, *radii: Tensor) -> Tensor:
        """Map (N, ..., in) to (N, ..., out)."""
        return F.linear(radii[0], self.weight.abs())

    def backward(self, forms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Map (N, ..., out) to (N, ..., in) and (N,)."""
        if self.bias is None:
            return (forms @ self.weight,), forms.new_zeros(len(forms))
        return (forms @ self.weight,), (forms @ self.bias).view(len(forms), -1).sum(1)

    def lengths(self, scale: Tensor, dual: float) -> Tensor:
        """Return the norms of the rows of W diag(scale), ``scale`` (1, ..., in): (1, ..., out)."""
        if dual == math.inf:
            return (self.weight.abs() * scale.abs().unsqueeze(-2)).amax(-1)
        return F.linear(scale.abs() ** dual, self.weight.abs() ** dual) ** (1 / dual)


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """A two-dimensional convolution padded with zeros.

    Args:
        weight: (out, in / groups, kernel, kernel).
        bias: (out,) or None.
        stride, padding, dilation: for rows and columns.
        groups: as in torch.
        shape: (in, H, W) of the input.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    shape: Shape

    def _apply(self, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(value, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def linear(self, *values: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H', W')."""
        return self._apply(values[0], self.weight)

    def forward(self, *values: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H', W')."""
        return self._apply(values[0], self.weight, self.bias)

    def spread(self, *radii: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H', W')."""
        return self._apply(radii[0], self.weight.abs())

    def backward(self, forms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Map (N, out, H', W') to (N, in, H, W) and (N,)."""
        size = (len(forms), *self.shape)
        given = conv2d_input(size, self.weight, forms, self.stride, self.padding, self.dilation, self.groups)
        if self.bias is None:
            return (given,), forms.new_zeros(len(forms))
        return (given,), forms.sum((2, 3)) @ self.bias

    def lengths(self, scale: Tensor, dual: float) -> Tensor:
        """Return norms of the rows of W diag(scale), ``scale`` (1, in, H, W): (1, out, H', W').

        The largest absolute value, for ``dual`` = inf, is taken over the whole kernel, also where padding hides part.
        """
        if dual != math.inf:
            return self._apply(scale.abs() ** dual, self.weight.abs() ** dual) ** (1 / dual)
        channels = scale.abs().amax((0, 2, 3)).view(self.groups, -1)
        weight = self.weight.abs().amax((2, 3)).view(self.groups, -1, channels.shape[1])
        largest = (weight * channels[:, None]).amax(2).flatten()
        return torch.zeros_like(self._apply(scale, self.weight)) + largest[:, None, None]


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """A factor and a shift for each value: normalisation, batch norm in evaluation mode, arithmetic with constants.

    Args:
        factor, shift: (*S).
    """

    factor: Tensor
    shift: Tensor
    plain: ClassVar[bool] = True

    def linear(self, *values: Tensor) -> Tensor:
        """Keep the shape (N, *S)."""
        return values[0] * self.factor

    def forward(self, *values: Tensor) -> Tensor:
        """Keep the shape (N, *S)."""
        return values[0] * self.factor + self.shift

    def spread(self, *radii: Tensor) -> Tensor:
        """Keep the shape (N, *S)."""
        return radii[0] * self.factor.abs()

    def backward(self, forms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Map (N, *S) to (N, *S) and (N,)."""
        return (forms * self.factor,), forms.flatten(1) @ self.shift.flatten()


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """Another shape for the same values in the same order.

    Args:
        before, after: shapes without the rows.
    """

    before: Shape
    after: Shape
    plain: ClassVar[bool] = True

    def linear(self, *values: Tensor) -> Tensor:
        """Map (N, *before) to (N, *after)."""
        return values[0].reshape(-1, *self.after)

    def forward(self, *values: Tensor) -> Tensor:
        """Map (N, *before) to (N, *after)."""
        return self.linear(*values)

    def spread(self, *radii: Tensor) -> Tensor:
        """Map (N, *before) to (N, *after)."""
        return self.linear(*radii)

    def backward(self, forms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Map (N, *after) to (N, *before) and zeros (N,)."""
        return (forms.reshape(-1, *self.before),), forms.new_zeros(len(forms))


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """The sum of several values of one shape, each with its sign.

    Args:
        signs: +1.0 or -1.0 for each.
    """

    signs: tuple[float, ...]

    def linear(self, *values: Tensor) -> Tensor:
        """Map several (N, *S) to one."""
        total = values[0] * self.signs[0]
        for value, sign in zip(values[1:], self.signs[1:], strict=True):
            total = total + sign * value
        return total

    def forward(self, *values: Tensor) -> Tensor:
        """Map several (N, *S) to one."""
        return self.linear(*values)

    def spread(self, *radii: Tensor) -> Tensor:
        """Map several (N, *S) to one."""
        return torch.stack(radii).sum(0)

    def backward(self, forms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Map (N, *S) to as many (N, *S), and zeros (N,)."""
        return tuple(forms * sign for sign in self.signs), forms.new_zeros(len(forms))


@dataclass(frozen=True, eq=False)
class Moving(Affine):
    """A linear map without constant whose weights are >= 0: slices, padding with zeros, means, average pooling, cat.

    Its transpose is taken by autograd.

    Args:
        function: of the values (N, *S), for any N.
        shapes: of its inputs, without the rows.
    """

    function: Callable[..., Tensor]
    shapes: tuple[Shape, ...]

    def linear(self, *values: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(*values)

    def forward(self, *values: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(*values)

    def spread(self, *radii: Tensor) -> Tensor:
        """Apply the function: its weights are their own absolute values."""
        return self.function(*radii)

    def backward(self, forms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Map (N, *out) to (N, *S) for each input, and zeros (N,)."""
        keep = forms.requires_grad
        with torch.enable_grad():
            leaves = [forms.new_zeros(len(forms), *shape, requires_grad=True) for shape in self.shapes]
            # The scalar, not grad_outputs=forms: the latter's first use imports a computer algebra system.
            given = torch.autograd.grad((self.function(*leaves) * forms).sum(), leaves, create_graph=keep)
        return tuple(given), forms.new_zeros(len(forms))
