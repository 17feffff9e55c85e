"""Bounds that are trained on: lower bounds of the margins with gradients in the weights, and the loss of the worst logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustscope.certify.bounds import Bounds, backward, bound
from robustscope.certify.graph import Graph, live
from robustscope.certify.margins import margin_forms
from robustscope.certify.region import Region
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.cards import Term
from robustscope.training.network import Network
from robustscope.training.schedules import ramp


class Margins:
    """Lower bounds of the margins z_y - z_j to all other classes, of one batch on the weights of this moment.

    Args:
        network: the network in training; its module must be one that ``certify`` can trace.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.

    Raises:
        InvalidValue: for a layer that bounds cannot pass, naming it.
    """

    def __init__(self, network: Network, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        self.network, self.rows = network, len(x)
        self.graph: Graph = live_graph(network, x)
        self.forms = margin_forms(self.graph, y, x)
        self.bounds: Bounds = bound(self.graph, Region.of(threat, x))
        network.count(2 * len(x), 2 * len(x))  # centre and half-width

    def by_intervals(self) -> Tensor:
        """Return the bounds over the boxes of the last hidden values: (B, K - 1)."""
        return backward(self.bounds, len(self.graph.nodes) - 1, self.forms, stop=True)

    def by_lines(self) -> Tensor:
        """Return the bounds of CROWN with intervals for the hidden values, (B, K - 1): one form backward for each."""
        forms = self.forms.shape[1] * self.rows
        self.network.count(forms, forms)
        return backward(self.bounds, len(self.graph.nodes) - 1, self.forms)


def live_graph(network: Network, x: Tensor) -> Graph:
    """Return the graph of a network in training, normalisation included; see :func:`robustscope.certify.graph.live`."""
    with network.judged() as model:
        return live(model, x)


def against_bounds(
    network: Network, x: Tensor, y: Tensor, threat: ThreatModel, *, clean_share: float, line_share: float = 0.0
) -> Iterator[Term]:
    """Yield the loss of certified training: k J(z) + (1 - k) J(z_worst), with what is certified as a note.

    Args:
        network: the network in training; of layers that ``certify`` knows.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        clean_share: k, weight of the clean loss; at 1 no bounds are asked for.
        line_share: weight of CROWN's margins beside those of intervals; at 0 they are not asked for.

    Raises:
        InvalidValue: for a network that cannot be traced, naming the layer.
    """
    clean = cross_entropy(network.logits(x), y)
    if clean_share == 1.0:
        yield Term(clean)
        return
    bounded = Margins(network, x, y, threat)
    margins = bounded.by_intervals()
    if line_share > 0:
        margins = line_share * bounded.by_lines() + (1 - line_share) * margins
    notes = {"certified": (margins.detach().amin(1) > 0).to(x)}
    yield Term(clean_share * clean + (1 - clean_share) * worst_cross_entropy(margins), notes=notes)


def worst_cross_entropy(margins: Tensor) -> Tensor:
    """Return the cross-entropy of the logits 0 of the true class and -margin of each other: (B, K - 1) -> (B,).

    Where the margins are lower bounds, it is an upper bound of the cross-entropy over the region.
    """
    return torch.cat([torch.zeros_like(margins[:, :1]), -margins], 1).logsumexp(1)


def between(first: float, last: float, share: float, progress: float) -> float:
    """Return what moves in a straight line from ``first`` to ``last`` during ``share`` of the training."""
    return first + (last - first) * ramp(share)(progress)
