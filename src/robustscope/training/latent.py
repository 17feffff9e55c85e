"""Adversarial examples between the layers: points of the zonotope that a ball becomes on its way through a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.certify.deepz import Zonotope, propagate
from robustscope.certify.graph import Graph
from robustscope.certify.region import Region
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.training.network import Losses, Network


def cuts(graph: Graph) -> list[int]:
    """Return the nodes behind which a network can be cut: the input, and each activation that all later values are made of.

    The last activation is left out: behind it there is one affine map, which needs no layer to be frozen for it.
    """
    bent = [i for i, node in enumerate(graph.nodes) if node.operation is not None and node.affine is None]
    reach = [min(node.inputs, default=0) for node in graph.nodes]  # the earliest node that each is made of
    return [0, *(i for i in bent[:-1] if min(reach[i + 1 :]) >= i)]


def zonotope(network: Network, graph: Graph, x: Tensor, threat: ThreatModel, cut: int) -> Zonotope:
    """Return what the ball around each sample becomes at a node, without a graph; its terms are counted as partial rows.

    Args:
        network: the network in training, which counts.
        graph: of it.
        x: (B, *S), clean inputs.
        threat: linf; radius and bounds.
        cut: node.
    """
    with torch.no_grad():
        made, _ = propagate(Graph(graph.nodes[: cut + 1]), Region.of(threat, x))
    assert made is not None  # there is no limit to its terms
    if cut:
        network.partial_rows += len(x) * made.terms.shape[1]
    return made


@dataclass(frozen=True)
class Latent:
    """A cut of the network, and the values that a ball can take there.

    Args:
        network: the network in training.
        graph: of it.
        cut: node.
        values: of the node.
    """

    network: Network
    graph: Graph
    cut: int
    values: Zonotope

    def point(self, errors: Tensor) -> Tensor:
        """Return the point of error terms (B, E): (B, *S)."""
        flat = self.values.terms.flatten(2)
        return self.values.centre + (errors[:, None] @ flat).view_as(self.values.centre)

    def logits(self, point: Tensor, frozen: int) -> Tensor:
        """Return the logits of a point; layers up to the node ``frozen`` get no gradient."""
        held = self.graph.carry(point, self.cut, frozen).detach()
        return self.graph.carry(held, frozen, len(self.graph.nodes) - 1)

    def ascend(self, losses: Losses, draws: Draws, steps: int, step_size: float) -> Tensor:
        """Return the point where ascent of the loss by signs of its gradients in the error terms ends: (B, *S), no graph.

        It starts at a random share of the way to the vertex furthest in a random direction, which is the same however
        the terms are numbered.

        Args:
            losses: logits (B, K) -> (B,).
            draws: of these samples.
            steps: >= 0.
            step_size: in error terms, which run from -1 to 1.
        """
        direction = draws.normal("direction", self.values.centre).flatten(1)
        share = draws.uniform("share", direction[:, :1], 0.0, 1.0)
        errors = share * (self.values.terms.flatten(2) @ direction[:, :, None])[:, :, 0].sign()
        for _ in range(steps):
            with torch.enable_grad():
                leaf = errors.detach().requires_grad_(True)
                value = losses(self.graph.carry(self.point(leaf), self.cut, len(self.graph.nodes) - 1))
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            self.network.count(len(leaf), len(leaf), done=True)
            errors = (errors + step_size * gradient.sign()).clamp(-1, 1)
        return self.point(errors).detach()

    def instability(self) -> Tensor:
        """Return the sum over the next activation's inputs of max(0, -lower) max(0, upper): (B,), with a graph.

        It is what their open signs may cost the next zonotope. Zero where the way there is no chain of affine maps.
        """
        centre, terms = self.values.centre, self.values.terms
        for number in range(self.cut + 1, len(self.graph.nodes)):
            node = self.graph.nodes[number]
            if node.affine is None:
                lower, upper = Zonotope(centre, terms).span()
                return ((-lower).clamp(min=0) * upper.clamp(min=0)).flatten(1).sum(1)
            if node.inputs != (number - 1,):
                break
            centre = node.affine.forward(centre)
            terms = node.affine.linear(terms.flatten(0, 1)).unflatten(0, terms.shape[:2])
        return centre.new_zeros(len(centre))
