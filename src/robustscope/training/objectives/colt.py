"""COLT: convex layerwise adversarial training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from robustscope.certify.graph import Node
from robustscope.certify.operations import Convolution, Matrix
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.bounded import live_graph
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.latent import Latent, cuts, zonotope
from robustscope.training.network import Network

BIBTEX = """@inproceedings{balunovic2020adversarial,
  title = {Adversarial Training and Provable Defenses: Bridging the Gap},
  author = {Balunovic, Mislav and Vechev, Martin},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}"""


def _passes(parameters: Mapping[str, Any]) -> Passes:
    rows = (parameters["steps"] + 1) * (2 if parameters["mix"] else 1)
    return Passes(rows, rows)


@register(
    "colt",
    version=1,
    source="Balunovic & Vechev, 2020, ICLR, Sec. 4, Alg. 1",
    bibtex=BIBTEX,
    norms=("linf",),
    kind="certified",
    passes=_passes,
    quick={"steps": 2, "mix": 0.0},
)
def colt(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    steps: int = 8,
    step_size: float = 0.25,
    mix: float = 0.3,
    growth: float = 1.1,
    stability: float = 0.5,
    l1: float = 1e-4,
) -> Iterator[Term]:
    """Train layer after layer on the worst point of the zonotope that the ball has become behind the layers before.

    Training has as many stages, of equal length, as the network can be cut: at the input, then behind each activation but
    the last. In a stage the layers before the cut are frozen, PGD looks for a point of the zonotope at the cut by moving
    its error terms, and the layers behind the cut are trained on it. So adversarial training proves something in the
    end: what no attack of the zonotopes breaks, ``deepz``, ``crown`` or ``milp`` have a chance to verify. A stage begins
    with the loss of the one before, which fades out; the first with the clean loss.

    Passes that begin at a cut are counted as if they went through the whole network, so that the ledger states the most
    they can cost; once the loss before has faded out, a stage costs half of what the card says. Error terms carried through the frozen
    layers are counted as partial rows; how many there are depends on the data.

    Args:
        network: the network in training; of layers that ``certify`` knows.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: linf; radius and bounds.
        draws: random numbers of these samples in this epoch.
        step: where training stands.
        steps: of PGD, >= 0; the authors take 8.
        step_size: in error terms, which run from -1 to 1; the authors take 0.25.
        mix: share of a stage in which the loss of the one before fades out.
        growth: by which the radius is larger in each stage than in the next; the last one has epsilon. The authors take
            1.1 for small radii and 1.2 for large ones.
        stability: weight of max(0, -lower) max(0, upper), summed over the inputs of the next activation. The authors take
            0.005 and less; on digits, with a radius of 0.15, that leaves 3 % of the samples that ``deepz`` verifies, and
            0.5 with ``l1`` 1e-4 gives 34 %.
        l1: weight of the absolute values of the weights behind the cut; the authors take 1e-5.

    Raises:
        InvalidValue: for a network that cannot be traced, naming the layer.

    Source: Balunovic & Vechev 2020, "Adversarial Training and Provable Defenses: Bridging the Gap", ICLR, Alg. 1 and
        Sec. 4.3; settings of the authors' scripts.

    Departures: zonotopes are exact, where the authors estimate their bounds from 50 random projections to save memory:
        this one is for small networks. The rate does not fall from stage to stage, the weights of the penalties do not
        grow, and their certificates (learned slopes, then a mixed-integer program) are left to ``certify``. Networks can
        be cut only where all later values are made of one, not inside residual blocks. Behind the first stage batch norm
        has its running statistics and dropout does nothing.
    """
    graph = live_graph(network, x)
    places = cuts(graph)
    progress = step.epoch / step.epochs * len(places)
    stage = min(int(progress), len(places) - 1)
    share = min(1.0, (progress - stage) / mix) if mix else 1.0
    losses = partial(cross_entropy, y=y)
    cut = places[stage]

    def attacked(which: int, name: str) -> Tensor:
        radius = threat.scaled(growth ** (len(places) - 1 - stage))
        latent = Latent(network, graph, places[which], zonotope(network, graph, x, radius, places[which]))
        point = latent.ascend(losses, draws.within(name), steps, step_size)
        if cut == 0:
            return losses(network.logits(point))
        network.count(len(x), len(x))
        value = losses(latent.logits(point, cut))
        return value + stability * latent.instability() if stability and which == stage else value

    value = x.new_zeros(len(x))
    if share > 0:
        value = share * attacked(stage, "here")
    if share < 1:
        before = attacked(stage - 1, "before") if stage else losses(network.logits(x))
        value = value + (1 - share) * before
    yield Term(value + l1 * _size(graph.nodes[cut + 1 :]))


def _size(nodes: Sequence[Node]) -> Tensor | float:
    """Return the sum of the absolute values of the matrices and kernels of some nodes."""
    weights = [each.operation.weight for each in nodes if isinstance(each.operation, (Matrix, Convolution))]
    return sum(weight.abs().sum() for weight in weights)
