"""Input gradients of thin convolutions on a CPU, by the kernel that is fastest for them.

The gradient at the input of a network ends in its first convolution, which has few channels to give it to. oneDNN fills
such channels up to its own width and runs at a few percent of the processor's speed; PyTorch's other kernel does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

THIN, THIN_STRIDED = 4, 8
"""Most input channels for which the other kernel is taken: measured 2.5 to 8 times as fast up to the first number for all
strides, and 1.3 to 5 times up to the second where the stride is above 1."""


class ThinConvolutions(TorchFunctionMode):
    """Inside this block, float32 convolutions of few input channels on a CPU have a faster backward pass.

    Values are untouched; derivatives by the input and by the bias are the same sums, in another order. A weight that is a
    parameter gets no derivative, so the block is for input gradients only.

    Example:
        >>> layer, x = torch.nn.Conv2d(3, 8, 3, stride=2), torch.rand(2, 3, 9, 9, requires_grad=True)
        >>> with ThinConvolutions():
        ...     value = layer(x).square().sum()
        >>> quick, plain = (torch.autograd.grad(v, x)[0] for v in (value, layer(x).square().sum()))
        >>> bool(torch.allclose(quick, plain, atol=1e-5))
        True
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace ``torch.conv2d`` where it pays, and call everything else as it is."""
        if func is torch.conv2d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            if _thin(x, weight, stride, padding, dilation, groups):
                return _Thin.apply(x, weight.detach() if weight.is_leaf else weight, bias, stride, padding)
        return func(*args, **(kwargs or {}))


def _thin(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    if x.dim() != 4 or not x.requires_grad or (weight.requires_grad and not weight.is_leaf):
        return False
    if any(torch._C._functorch.is_functorch_wrapped_tensor(part) for part in (x, weight)):
        return False  # under vmap and its kin the kernel has no rule
    pairs = (stride, padding, dilation)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs) or groups != 1 or dilation != (1, 1):
        return False
    few = weight.shape[1] <= (THIN_STRIDED if min(stride) > 1 else THIN)
    known = hasattr(torch.ops.aten, "_slow_conv2d_backward")  # a name that a later release may take away
    return known and few and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32


class _Thin(torch.autograd.Function):
    """A convolution whose derivative by its input is taken by PyTorch's own kernel."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        """Return the convolution: (B, C, H, W)."""
        return torch.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivative needs."""
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor | None, None, None]:
        """Return the derivatives by the input and by the bias."""
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        slow = torch.ops.aten._slow_conv2d_backward.output_mask
        found, _, _ = slow(gradient, x, weight, weight.shape[2:], ctx.stride, ctx.padding, [True, False, False])
        return found, None, gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None
