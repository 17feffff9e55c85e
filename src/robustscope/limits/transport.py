"""Optimal transport between classes: the least adversarial error that any classifier can have on given samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from robustscope.core.errors import ConstraintViolated, InvalidValue
from robustscope.geometry.pairwise import PairNorm, check_pair_norm, check_sets, rounding, within
from robustscope.limits.cards import check_epsilons, check_labels, register

BHAGOJI = """@inproceedings{bhagoji2019lower,
  title = {Lower Bounds on Adversarial Robustness from Optimal Transport},
  author = {Bhagoji, Arjun Nitin and Cullina, Daniel and Mittal, Prateek},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""


@dataclass(frozen=True)
class Matching:
    """What holds at one radius.

    Args:
        epsilon: radius, in the units of the samples.
        pairs: int64 (k, 2), positions of samples of the first and of the second class whose balls touch, no sample
            twice; as many as possible. Every classifier errs on one of each pair under attack.
        given_up: bool (n,), the k samples on which one best classifier errs; without them no two balls of different
            classes touch. That there are k of them proves that no larger matching exists, and no better classifier.
    """

    epsilon: float
    pairs: Tensor
    given_up: Tensor


@dataclass(frozen=True)
class TransportBound:
    """The least adversarial 0-1 loss that any classifier can have on the samples given, for each radius.

    It speaks of these samples, not of the population that they come from: in many dimensions samples lie far apart, and
    the figure here may be 0 where that of the population is large. See :func:`gaussian_transport` for a population.

    Args:
        norm: of the balls.
        classes: the two labels.
        n: samples of each.
        matchings: one for each radius, in the order asked for.
        nearest: smallest distance between the classes, ``inf`` if it exceeds twice the largest radius.
        tolerance: by how much 2 epsilon was exceeded at most, for the rounding of stored values.
    """

    norm: PairNorm
    classes: tuple[int, int]
    n: tuple[int, int]
    matchings: tuple[Matching, ...]
    nearest: float
    tolerance: float
    subject: Literal["samples"] = "samples"

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The radii, in the units of the samples."""
        return tuple(matching.epsilon for matching in self.matchings)

    @property
    def matched(self) -> Tensor:
        """Pairs matched at each radius: int64 (E,)."""
        return torch.tensor([len(matching.pairs) for matching in self.matchings])

    @property
    def loss(self) -> Tensor:
        """Lower bound on the share of samples lost under attack at each radius, and reached: float64 (E,)."""
        return self.matched.double() / sum(self.n)


@dataclass(frozen=True)
class ClassTransport:
    """Lower bounds on the adversarial 0-1 loss on samples of any number of classes.

    Args:
        norm: of the balls.
        classes: K labels.
        n: samples of each.
        epsilons: E radii, in the units of the samples.
        matched: int64 (E, K, K), symmetric; matched pairs of every two classes alone.
        joint: float64 (E,), size of the largest fractional matching of all classes together, a multiple of 1/2.
        tolerance: by how much 2 epsilon was exceeded at most, for the rounding of stored values.
    """

    norm: PairNorm
    classes: tuple[int, ...]
    n: tuple[int, ...]
    epsilons: tuple[float, ...]
    matched: Tensor
    joint: Tensor
    tolerance: float
    subject: Literal["samples"] = "samples"

    @property
    def loss(self) -> Tensor:
        """Lower bound on the share of all samples lost under attack at each radius: float64 (E,)."""
        return self.joint / sum(self.n)

    @property
    def pair_loss(self) -> Tensor:
        """Least loss on the samples of two classes alone: float64 (E, K, K); 0 on the diagonal."""
        sizes = torch.tensor(self.n, dtype=torch.float64)
        return self.matched / (sizes[:, None] + sizes[None])


@register(
    "transport",
    version=1,
    source="Bhagoji, Cullina & Mittal, 2019, arXiv:1909.12272, Theorem 1 and Sec. 5",
    bibtex=BHAGOJI,
    subject="samples",
    direction="exact",
    quantity="least adversarial 0-1 loss of any classifier, two classes",
    norms=("linf", "l2", "l1"),
    quick={"epsilons": (0.1,)},
)
def transport(
    x: Tensor, y: Tensor, *, norm: PairNorm = "l2", epsilons: Sequence[float | str] = (1.0, 2.0, 3.0, 4.0, 5.0)
) -> TransportBound:
    """Bound the adversarial error on samples of two classes by a largest matching of samples that can be confused.

    Two samples of different classes can be confused if their closed balls touch, that is if they are at most 2 epsilon
    apart; then every classifier errs on one of them. As many disjoint such pairs as possible, k of them, make k errors
    certain. There is a classifier with no more: it gives up a smallest set of samples that touches every such pair,
    which has k members (Kőnig). Both sets are returned, so each proves the other. The bounds on the input values do not
    matter, since the midpoint of two samples lies inside them.

    The distances are measured once for all radii; each radius is one matching (Hopcroft and Karp).

    Args:
        x: (n, *S), samples of both classes.
        y: int64 (n,), two different labels.
        norm: "linf", "l2" or "l1".
        epsilons: radii, in the units of ``x``.

    Returns:
        Matched pairs, losses k / n and the samples to give up, for each radius.

    Raises:
        InvalidType: for samples or labels of a wrong type.
        InvalidValue: for another number of classes, or samples, norms or radii that are not allowed.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [1.5], [4.0]])
        >>> bound = transport(x, torch.tensor([0, 0, 1, 1]), norm="linf", epsilons=(0.1, 0.25, 2.0))
        >>> bound.matched.tolist(), bound.loss.tolist()
        ([0, 1, 2], [0.0, 0.25, 0.5])

    Source: Bhagoji, Cullina & Mittal 2019, arXiv:1909.12272, Theorem 1; the matching of empirical distributions, Sec. 5.

    Departures: the authors solve an assignment problem for equally many samples of both classes; a matching gives the
        same number, for any numbers of samples, in less time. 2 epsilon is compared with a tolerance of one rounding.
    """
    check_sets(x)
    labels = check_labels(y, len(x), classes=2)
    radii = check_epsilons(epsilons)
    first, second = (int(label) for label in labels.unique())
    rows, columns = ((labels == label).nonzero()[:, 0].cpu() for label in (first, second))
    slack = rounding(check_pair_norm(norm), x)
    edges = _edges(norm, x[rows.to(x.device)], x[columns.to(x.device)], 2 * max(radii) + slack)
    shape = (len(rows), len(columns))
    found: dict[float, Matching] = {}
    match, given_up, perfect = np.empty(0, np.int32), (np.empty(0, bool), np.empty(0, bool)), False
    for epsilon in sorted(set(radii)):
        # Pairs that touch go on touching, so a matching that cannot grow is the answer for all larger radii.
        if not perfect:
            graph = _graph(edges, 2 * epsilon + slack, shape)
            match = np.asarray(maximum_bipartite_matching(graph, perm_type="column"))
            given_up = _cover(graph, match)
            perfect = int((match >= 0).sum()) == min(shape)
        if perfect:  # the whole smaller class: it touches every pair, also those to come
            given_up = np.full(shape[0], shape[0] <= shape[1]), np.full(shape[1], shape[0] > shape[1])
        i = np.flatnonzero(match >= 0)
        pairs = torch.stack([rows[torch.as_tensor(i)], columns[torch.as_tensor(match[i])].long()], 1)
        lost = torch.zeros(len(x), dtype=torch.bool)
        lost[rows], lost[columns] = (torch.as_tensor(part) for part in given_up)
        found[epsilon] = Matching(epsilon, pairs, lost)
    nearest = float(edges[2].min()) if len(edges[2]) else float("inf")
    return TransportBound(norm, (first, second), shape, tuple(found[e] for e in radii), nearest, slack)


@register(
    "transport_classes",
    version=1,
    source="Bhagoji, Cullina & Mittal, 2019, arXiv:1909.12272, Theorem 1, for every two classes",
    bibtex=BHAGOJI,
    subject="samples",
    direction="lower",
    quantity="adversarial 0-1 loss of any classifier, two classes or more",
    norms=("linf", "l2", "l1"),
    quick={"epsilons": (0.1,)},
)
def transport_classes(
    x: Tensor, y: Tensor, *, norm: PairNorm = "l2", epsilons: Sequence[float | str] = (1.0, 2.0, 3.0, 4.0, 5.0)
) -> ClassTransport:
    """Bound the adversarial error on samples of any number of classes, by pairs of classes and for all together.

    For every two classes the largest matching as in :func:`transport`. For all classes, the largest fractional
    matching of the samples that can be confused, half the largest matching of two copies of them: it is at least what
    any combination of pairs of classes gives, and the errors of any classifier, also of a random one, are at least it.

    Args:
        x: (n, *S), samples of all classes.
        y: int64 (n,), K >= 2 different labels.
        norm: "linf", "l2" or "l1".
        epsilons: radii, in the units of ``x``.

    Returns:
        Matched pairs of every two classes, and a bound on the loss over all samples. With more than two classes the
        bound is a lower one: three samples that touch pairwise cost two errors, and half of three are counted.

    Raises:
        InvalidType: for samples or labels of a wrong type.
        InvalidValue: for fewer than two classes, or samples, norms or radii that are not allowed.

    Example:
        >>> x, y = torch.tensor([[0.0], [0.1], [0.2]]), torch.tensor([0, 1, 2])
        >>> transport_classes(x, y, norm="l2", epsilons=(0.06, 0.2)).joint.tolist()
        [1.0, 1.5]

    Source: Bhagoji, Cullina & Mittal 2019, arXiv:1909.12272, Theorem 1. Fractional matchings by two copies of the graph
        are a classic of combinatorial optimisation.
    """
    check_sets(x)
    labels = check_labels(y, len(x)).cpu()
    radii, slack = check_epsilons(epsilons), rounding(check_pair_norm(norm), x)
    classes = tuple(int(label) for label in labels.unique())
    of = [(labels == label).nonzero()[:, 0] for label in classes]
    matched = torch.zeros(len(radii), len(classes), len(classes), dtype=torch.int64)
    every: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for a, b in combinations(range(len(classes)), 2):
        i, j, d = _edges(norm, x[of[a].to(x.device)], x[of[b].to(x.device)], 2 * max(radii) + slack)
        every.append((of[a].numpy()[i], of[b].numpy()[j], d))
        for e, epsilon in enumerate(radii):
            graph = _graph((i, j, d), 2 * epsilon + slack, (len(of[a]), len(of[b])))
            matched[e, a, b] = matched[e, b, a] = int((maximum_bipartite_matching(graph) >= 0).sum())
    i, j, d = (np.concatenate(part) for part in zip(*every, strict=True))
    both = np.concatenate([i, j]), np.concatenate([j, i]), np.concatenate([d, d])
    sizes = [
        int((maximum_bipartite_matching(_graph(both, 2 * epsilon + slack, (len(x), len(x)))) >= 0).sum())
        for epsilon in radii
    ]
    joint = torch.tensor(sizes, dtype=torch.float64) / 2
    return ClassTransport(norm, classes, tuple(len(part) for part in of), radii, matched, joint, slack)


def midpoints(x: Tensor, matching: Matching) -> Tensor:
    """Return the point halfway between the samples of each matched pair: (k, *S), within epsilon of both.

    Args:
        x: (n, *S), the samples that were matched.
        matching: one radius of a :class:`TransportBound` of these samples.

    Raises:
        InvalidValue: if the matching is of other samples.
    """
    if len(matching.given_up) != len(x):
        raise InvalidValue(
            f"{len(x)} samples were given for a matching of {len(matching.given_up)}",
            "the samples that were matched are allowed",
            "Pass the same x.",
        )
    first, second = matching.pairs.to(x.device).unbind(1)
    return (x[first] + x[second]) / 2


def _edges(norm: PairNorm, a: Tensor, b: Tensor, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs at most ``reach`` apart, ordered by row, then column: positions, positions, distances."""
    i, j, d = (part.cpu().numpy() for part in within(norm, a, b, reach))
    order = np.argsort(i.astype(np.int64) * len(b) + j, kind="stable")
    return i[order], j[order], d[order]


def _graph(edges: tuple[np.ndarray, np.ndarray, np.ndarray], reach: float, shape: tuple[int, int]) -> csr_array:
    """Return the pairs at most ``reach`` apart as a sparse matrix of ones."""
    i, j, d = edges
    keep = d <= reach
    i, j = i[keep], j[keep]
    if (np.diff(i) < 0).any():
        return csr_array((np.ones(len(i), np.int8), (i, j)), shape=shape)
    starts = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=shape[0]))]).astype(np.int32)
    return csr_array((np.ones(len(j), np.int8), j, starts), shape=shape)


def _cover(graph: csr_array, match: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a smallest set of rows and columns that touches every pair, as two masks, and prove that it is one.

    Reached from the unmatched rows, by any pair to a column and by a matched pair back to a row: the rows not reached
    and the columns reached.

    Raises:
        ConstraintViolated: if the two do not prove each other, so that the matching is not the largest.
    """
    rows, columns = np.zeros(graph.shape[0], bool), np.zeros(graph.shape[1], bool)
    partner = np.full(graph.shape[1], -1)
    partner[match[match >= 0]] = np.flatnonzero(match >= 0)
    front = np.flatnonzero(match < 0)
    while len(front):
        rows[front] = True
        fresh = np.unique(graph[front].indices)
        fresh = fresh[~columns[fresh]]
        columns[fresh] = True
        front = partner[fresh]
        front = front[front >= 0]
    owner = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    size, left = int((~rows).sum() + columns.sum()), int((rows[owner] & ~columns[graph.indices]).sum())
    if left or size != (match >= 0).sum():
        raise ConstraintViolated(
            f"a matching of {int((match >= 0).sum())} pairs came with a cover of {size} that misses {left} pairs",
            "equal sizes are allowed",
            "The matching is not the largest; please report this with the versions of SciPy and NumPy.",
        )
    return ~rows, columns
