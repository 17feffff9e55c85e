"""YOPO-m-n: most of the attack happens in the first layer alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import climb, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Network

BIBTEX = """@inproceedings{zhang2019you,
  title = {You Only Propagate Once: Accelerating Adversarial Training via Maximal Principle},
  author = {Zhang, Dinghuai and Zhang, Tianyuan and Lu, Yiping and Zhu, Zhanxing and Dong, Bin},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""


class _Hamiltonian(torch.autograd.Function):
    """p . f_0(x + eta) as a loss of value 0: its gradient in f_0 is p, which already carries the factors of the loop."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(p)
        return output.new_zeros(len(output), dtype=torch.float32 if output.dtype.itemsize < 4 else output.dtype)

    @staticmethod
    def backward(ctx: Any, *factor: Tensor) -> Any:
        return ctx.saved_tensors[0], None


@register(
    "yopo",
    version=1,
    source="Zhang et al., 2019, arXiv:1905.00877, Alg. 1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["rounds"], p["rounds"], p["rounds"] * (p["inner"] + 1)),
    neutral={"rounds": 1},
    quick={"rounds": 2, "inner": 3},
    known_failures={f"heeds_the_radius/{norm}": "the first round is at a random point" for norm in ("linf", "l1")},
)
def yopo(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    rounds: int = 5,
    inner: int = 3,
    relative_step_size: float = 0.25,
    random_start: bool = True,
    first_layer: str = "",
    official_double_count: bool = False,
) -> Iterator[Term]:
    """Attack and train together: m passes through the network, n steps through its first layer f_0 after each.

    A round goes forward and backward at x + eta, which gives the gradients of the later layers and p = dL/df_0. With p
    frozen, n steps eta <- P(eta + a * epsilon * s(p . df_0/dx)) follow; at their end the weights of the first layer get
    the gradient of p . f_0(x + eta). After m rounds the weights are updated once, by the mean over the rounds.

    Args:
        network: the network in training; any one that everything passes through one first layer of, once.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        rounds: m, >= 1.
        inner: n, >= 1. The paper: YOPO-5-3 and YOPO-3-5 on CIFAR-10, YOPO-5-10 on MNIST.
        relative_step_size: as a fraction of epsilon; 2/8 on CIFAR-10, 0.01/0.3 on MNIST.
        random_start: start at a uniform point of the ball.
        first_layer: name of the module, as ``named_modules`` gives it, after which the network is cut; "" cuts behind the
            first one with weights. The published code for MNIST cuts behind the ReLU that follows it.
        official_double_count: let the full backward pass reach the first layer as well, so that its weights get two
            gradients, that of the loss and that of p . f_0. The published code does so by accident.

    Raises:
        InvalidValue: for less than one round or inner step, or a layer that is not there.
        ModelError: for a network that cannot be cut there.

    Source: Zhang, Zhang, Lu, Zhu, Dong 2019, arXiv:1905.00877, Sec. 3 and Alg. 1.

    Departures: gradients are averaged over the rounds, where the paper adds them up and divides the learning rate by m
        (they differ by weight decay). The gradient of the first layer's weights needs one pass more through that layer,
        so that a visit counts m * (n + 1) partial rows, not m * n.
    """
    if rounds < 1 or inner < 1:
        raise InvalidValue(
            f"rounds={rounds} and inner={inner} were given",
            "1 or more is allowed",
            "YOPO-5-3 is rounds = 5, inner = 3.",
        )
    layer = network.first_layer(first_layer)
    point = random_point(x, threat, draws, "start") if random_start else x
    for done in range(1, rounds + 1):
        logits, output = network.logits_behind(layer, point, through=official_double_count)
        yield Term(cross_entropy(logits, y) / rounds, update=False)
        p = network.received(output)
        for _ in range(inner):
            with torch.enable_grad():
                leaf = point.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(network.output_of(layer, leaf), leaf, p)
            point = climb(threat, x, point, gradient, relative_step_size)
        # An overflow must reach the first layer's weights, or they alone would be updated by what is left of p.
        yield Term(_Hamiltonian.apply(network.output_of(layer, point), output.grad), update=done == rounds)
