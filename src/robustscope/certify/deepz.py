"""DeepZ: zonotopes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustscope.certify.cards import register
from robustscope.certify.graph import Graph
from robustscope.certify.ibp import by_intervals
from robustscope.certify.layers import LAYERS
from robustscope.certify.margins import Work, begin, check_limit, empty
from robustscope.certify.operations import Affine
from robustscope.certify.region import Region
from robustscope.certify.relaxations import Band, MaxPool, Nonlinear
from robustscope.core.types import Certificate, ThreatModel
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{singh2018fast,
  title = {Fast and Effective Robustness Certification},
  author = {Singh, Gagandeep and Gehr, Timon and Mirman, Matthew and P{\\"u}schel, Markus and Vechev, Martin},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018}
}"""


@register(
    "deepz",
    version=1,
    source="Singh et al., 2018, NeurIPS, Sec. 3",
    bibtex=BIBTEX,
    norms=("linf",),
    layers=LAYERS,
)
def deepz(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    stop_early: bool = True,
    memory: int = 256,
    most_terms: int | None = None,
    timeout: float | None = None,
) -> Certificate:
    """Carry a zonotope forward: a centre and error terms, exact through affine maps, wider through every activation.

    Each input value has an error term e in [-1, 1]. Between the bounds l < 0 < u a ReLU becomes s z + m + m e' with the
    slope s = u / (u - l) of the chord, m = -s l / 2 and a new error term e'; sigmoid and tanh take the smaller of the
    slopes at both ends. The margin z_y - z_j is at least its centre less the absolute values of its terms.

    Args:
        model: classifier whose module can be traced.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        stop_early: let samples leave that intervals verify, or that are misclassified.
        memory: mebibytes that the terms of one part of the batch may take at their widest; one sample always fits.
        most_terms: error terms that a sample may have; one that needs more is "timeout". None: no limit.
        timeout: seconds for the call; samples not reached by then are "timeout". None: no limit.

    Returns:
        Lower bounds of the margins.

    Raises:
        InvalidValue: for a network that cannot be traced, naming the layer.

    Source: Singh et al. 2018, "Fast and Effective Robustness Certification", NeurIPS, Sec. 3 and App. A.

    Departures: bounds are cut with plain intervals at the end, never inside. Max pooling whose winner is not certain
        becomes a value of its own between its bounds; clipping takes the band parallel to its chord.
    """
    check_limit("most_terms", most_terms)
    work = begin(model, x, y, threat, timeout)
    if work is None:
        return empty(x)
    everyone = torch.arange(len(x), device=x.device)
    terms, widest = term_count(work.graph), max(torch.Size(node.shape).numel() for node in work.graph.nodes)
    size = max(1, memory * 2**20 // (2 * terms * widest * x.element_size()))
    work.in_parts(everyone, 64, lambda rows: by_intervals(work, rows))
    rest = work.open() if stop_early else everyone
    work.in_parts(rest, size, lambda rows: by_zonotopes(work, rows, most_terms))
    return work.certificate()


def term_count(graph: Graph) -> int:
    """Return the most error terms that one sample can have: one for each input, one for each activation."""
    bent = (node for node in graph.nodes if node.operation is not None and node.affine is None)
    return sum(torch.Size(node.shape).numel() for node in (graph.nodes[0], *bent))


def by_zonotopes(work: Work, rows: Tensor, most_terms: int | None = None) -> None:
    """Bound the margins of some samples by zonotopes; those that have too many terms are late."""
    logits, cost = propagate(work.graph, work.region.select(rows), most_terms)
    if logits is None:
        work.late[rows[cost > (most_terms or 0)]] = True
        rows = rows[~work.late[rows]]
        if len(rows):
            by_zonotopes(work, rows, most_terms)
        return
    forms = work.forms[rows]
    middle = (forms @ logits.centre[:, :, None])[:, :, 0]
    reach = (forms @ logits.terms.transpose(1, 2)).abs().sum(2)
    work.learn(rows, (middle - reach).amin(1), cost)


@dataclass(frozen=True, eq=False)
class Zonotope:
    """The values centre + sum over i of e_i terms_i with every |e_i| <= 1.

    Args:
        centre: (B, *S).
        terms: (B, E, *S); the i-th term of every node belongs to the same e_i. Missing last terms are zero.
    """

    centre: Tensor
    terms: Tensor

    def span(self) -> tuple[Tensor, Tensor]:
        """Return the smallest box around it: lower and upper (B, *S)."""
        reach = self.terms.abs().sum(1)
        return self.centre - reach, self.centre + reach

    def padded(self, count: int) -> Tensor:
        """Return the terms with zeros behind, ``count`` in all."""
        missing = count - self.terms.shape[1]
        return F.pad(self.terms, (*([0, 0] * (self.terms.dim() - 2)), 0, missing)) if missing else self.terms


def propagate(graph: Graph, region: Region, most_terms: int | None = None) -> tuple[Zonotope | None, Tensor]:
    """Return the zonotope of the logits, and how many error terms each sample has: int64 (B,).

    Where a sample comes to have more than ``most_terms``, there is no zonotope; its count tells which sample it is.
    """
    half = (region.upper - region.lower) / 2
    middle = (region.upper + region.lower) / 2
    values = {0: Zonotope(middle, _diagonal(half))}
    cost = (half > 0).flatten(1).sum(1)
    count = values[0].terms.shape[1]
    readers = Counter(i for node in graph.nodes for i in node.inputs)
    for number, node in enumerate(graph.nodes[1:], 1):
        given = [values[i] for i in node.inputs]
        if isinstance(node.operation, Affine):
            values[number] = _affine(node.operation, given)
        else:
            assert node.operation is not None  # only the input has none
            values[number], new = _bent(node.operation, given[0], count)
            cost += new
            if most_terms is not None and int(cost.max()) > most_terms:
                return None, cost
            count = values[number].terms.shape[1]
        for i in node.inputs:
            readers[i] -= 1
            if not readers[i]:
                del values[i]  # the widest tensors of all
    return values[len(graph.nodes) - 1], cost


def _affine(operation: Affine, given: list[Zonotope]) -> Zonotope:
    most = max(each.terms.shape[1] for each in given)
    terms = [each.padded(most) for each in given]
    moved = operation.linear(*(each.flatten(0, 1) for each in terms)).unflatten(0, terms[0].shape[:2])
    return Zonotope(operation.forward(*(each.centre for each in given)), moved)


def _bent(operation: Nonlinear | MaxPool, given: Zonotope, count: int) -> tuple[Zonotope, Tensor]:
    """Pass an activation: the terms that stay, scaled, and behind all of the network's so far the new ones."""
    if isinstance(operation, MaxPool):
        centre, kept, radius = _pooled(operation, given)
    else:
        band: Band = operation.band(*given.span())
        centre, kept, radius = band.slope * given.centre + band.middle, given.terms * band.slope[:, None], band.radius
    new = _diagonal(radius)
    old = Zonotope(centre, kept).padded(count)
    return Zonotope(centre, torch.cat([old, new], 1)), (radius > 0).flatten(1).sum(1)


def _pooled(operation: MaxPool, given: Zonotope) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the terms of a winner that is certain; elsewhere a fresh value between the bounds."""
    lower, upper = given.span()
    winner, sure = operation.winners(lower, upper)
    low, high = operation.value(lower), operation.value(upper)
    shape = low.shape
    sure = sure.view(shape)
    centre = torch.where(sure, given.centre.flatten(2).gather(2, winner).view(shape), (low + high) / 2)
    index = winner[:, None].expand(-1, given.terms.shape[1], -1, -1)
    kept = given.terms.flatten(3).gather(3, index).unflatten(3, shape[2:]) * sure[:, None]
    return centre, kept, torch.where(sure, torch.zeros_like(low), (high - low) / 2)


def _diagonal(radius: Tensor) -> Tensor:
    """Return one term for each positive radius (B, *S): (B, E, *S), E the largest number over the batch."""
    flat = radius.flatten(1)
    most = int((flat > 0).sum(1).max())
    places = (flat > 0).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    terms = flat.new_zeros(*places.shape, flat.shape[1])
    return terms.scatter_(2, places[:, :, None], flat.gather(1, places)[:, :, None]).unflatten(2, radius.shape[1:])
