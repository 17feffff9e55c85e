"""The card of a training objective, what an objective yields, and the registry of objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from robustscope.core.registry import Card, Registry

if TYPE_CHECKING:
    from robustscope.training.samples import Samples


@dataclass(frozen=True)
class Passes:
    """Rows that went through a network, for one sample or in total.

    Args:
        forward: rows forward, recording for a gradient or not.
        backward: rows backward; a gradient that is differentiated again counts two rows more.
        partial: rows through the first layer alone, forward and backward, as YOPO has them.
    """

    forward: int = 0
    backward: int = 0
    partial: int = 0


@dataclass(frozen=True)
class ObjectiveCard(Card):
    """What a training objective says about itself.

    Its function is a generator ``(network: Network, x, y, threat, *, draws, step: Step, <parameters>)``. It yields
    :class:`Term`; for each the loop takes the mean of its losses over the batch, sends it backward, and updates the
    weights unless the term says ``update=False``. What stands after a ``yield`` therefore sees new weights.

    Args:
        norms: norms of the threat models it trains against; empty: it needs none.
        passes: (parameters) -> what one visit of one sample costs, exactly. Where that depends on the number of classes,
            it is read from the key "classes", and is 10 without it; where it falls during training, this is the most.
        kind: "standard", "adversarial", "regulariser" or "certified": which kind of robustness it is meant to give.
        neutral: parameters under which it is standard training once epsilon is 0, bit for bit; None if there are none.
        quick: parameters for the contract checks.
        prepare: (training samples, parameters) -> what the objective needs besides, such as a generator of each class or
            masks; made once before training, the same at every resume, and handed over as ``Step.given``.
    """

    norms: tuple[str, ...] = ()
    passes: Callable[[Mapping[str, Any]], Passes] = lambda parameters: Passes(1, 1)
    kind: Literal["standard", "adversarial", "regulariser", "certified"] = "adversarial"
    neutral: Mapping[str, Any] | None = None
    quick: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Samples, Mapping[str, Any]], Any] | None = None


@dataclass(frozen=True)
class Term:
    """A loss to be sent backward.

    Args:
        losses: (B,), one for each sample, with a graph.
        update: whether the weights are updated after it; otherwise its gradients are kept and added to those of the next.
        notes: name -> (B,) figures for the history, such as the losses of its parts; without a graph.
    """

    losses: Tensor
    update: bool = True
    notes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Step:
    """Where training stands when an objective is called, and what the objective has asked to remember.

    Args:
        epoch: number of the epoch, from 0.
        epochs: of the whole training.
        rows: int64 (B,), positions of these samples in the whole batch; all of it, unless several processes share it.
        batch: rows of a whole batch.
        samples: samples of the training set; ids run from 0.
        memory: tensors that outlive the call, stored in checkpoints; the same on every process.
        given: what the card's ``prepare`` made, or what was handed to :func:`~robustscope.training.train` in its place.
    """

    epoch: int
    epochs: int
    rows: Tensor
    batch: int
    samples: int
    memory: dict[str, Tensor] = field(default_factory=dict)
    given: Any = None

    def remember(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return the tensor remembered under a name, zeros of this shape the first time. Change it in place.

        With several processes each may only change its own part (``rows`` of a batch, or its own sample ids): at the end
        of an epoch the changes of all are added up.
        """
        if name not in self.memory:
            self.memory[name] = like.new_zeros(shape)
        return self.memory[name]


OBJECTIVES: Registry[ObjectiveCard] = Registry("objective", ObjectiveCard)
register = OBJECTIVES.register
