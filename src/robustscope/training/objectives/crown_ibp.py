"""CROWN-IBP: train on margins that are carried backward through lines between interval bounds."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.training.bounded import against_bounds, between
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Network

BIBTEX = """@inproceedings{zhang2020towards,
  title = {Towards Stable and Efficient Training of Verifiably Robust Neural Networks},
  author = {Zhang, Huan and Chen, Hongge and Xiao, Chaowei and Gowal, Sven and Stanforth, Robert and Li, Bo and
            Boning, Duane and Hsieh, Cho-Jui},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}"""


@register(
    "crown_ibp",
    version=1,
    source="Zhang et al., 2020, arXiv:1906.06316, Sec. 3",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    kind="certified",
    passes=lambda p: Passes(2 + p.get("classes", 10), 2 + p.get("classes", 10)),
    neutral={"kappa": 1.0},
    quick={"ramp": 0.0, "beta": 1.0},
)
def crown_ibp(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    kappa: float = 0.5,
    beta: float = 0.0,
    ramp: float = 0.5,
) -> Iterator[Term]:
    """Train on k J(z) + (1 - k) J(z_worst), with margins b * CROWN's + (1 - b) * those of intervals.

    CROWN's margins are closer, and make the early training stable; intervals are what the network is judged by in the
    end. b falls from 1 to ``beta`` and k from 1 to ``kappa``, together with a rising epsilon (``epsilon_ramp``). Each of
    the K - 1 margins of a sample goes backward through the network once, which is counted as a row forward, and its
    gradient as one backward; once b is 0 it costs what ``ibp`` costs.

    Args:
        network: the network in training; of layers that ``certify`` knows.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: not used.
        step: where training stands.
        kappa: weight of the clean loss at the end, 0 to 1.
        beta: weight of CROWN's margins at the end, 0 to 1.
        ramp: share of the training in which both fall from 1.

    Raises:
        InvalidValue: for a network that cannot be traced, naming the layer.

    Source: Zhang et al. 2020, arXiv:1906.06316, Eqs. 9 to 11.

    Departures: bounds see batch norm with its running statistics, and no dropout; the weights fall by epochs.
    """
    progress = step.epoch / step.epochs
    share, lines = (between(1.0, last, ramp, progress) for last in (kappa, beta))
    yield from against_bounds(network, x, y, threat, clean_share=share, line_share=lines)
