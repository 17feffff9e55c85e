"""The card of a probe that asks why a network is robust, what it returns, and the registry of such probes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.core.types import Norm, ThreatModel

Change = Literal["scale", "shift"]


@dataclass(frozen=True)
class WhyCard(Card):
    """What a probe of causes says about itself.

    Its function has the form ``(model: Classifier, x, y, threat, *, draws, <parameters>) -> Findings``, with x (B, *S),
    y (B,), and couples no samples: its columns for a batch are the columns for its parts, one below the other.

    Args:
        columns: per-sample columns it returns -> what they are, with unit.
        figures: numbers of the model as a whole that it returns -> what they are; they do not depend on the samples.
        robust: column or figure -> whether robust models are expected to have it "higher" or "lower" by the source;
            names that are left out are not expected to go either way.
        gaps: column -> which samples have no such number; it is NaN there, and nowhere else.
        invariant: column or figure -> what leaves it alone: to "scale" all logits by one positive factor, to "shift" them
            by one number.
        access: what it needs of the model: "weights", "gradients", "scores" or "decisions".
        inputs: which inputs it needs: "any", "images" (B, C, H, W), or "cue conflict" stimuli.
        norms: of the threat models that it takes; those that look at no perturbation take all.
        quick: parameters for the contract checks.
        brief: parameters for a study of many models, where the mean over samples counts and not each of them.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    robust: Mapping[str, Literal["higher", "lower"]] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)
    invariant: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    access: Literal["weights", "gradients", "scores", "decisions"] = "gradients"
    inputs: Literal["any", "images", "cue conflict"] = "any"
    norms: tuple[Norm, ...] = ("linf", "l2", "l1")
    quick: Mapping[str, Any] = field(default_factory=dict)
    brief: Mapping[str, Any] = field(default_factory=dict)

    def check(self, threat: ThreatModel) -> None:
        """Refuse a threat model that the probe does not look at.

        Raises:
            InvalidValue: naming what it allows.
        """
        if threat.norm not in self.norms:
            raise InvalidValue(
                f"the probe {self.name!r} was asked for norm={threat.norm!r}",
                f"it is defined for {self.norms}",
                "Choose another norm, or another probe.",
            )
        radii = threat.epsilon if isinstance(threat.epsilon, tuple) else (threat.epsilon,)
        if math.inf in radii:
            raise InvalidValue(
                f"the probe {self.name!r} was asked to look within an infinite radius",
                "a finite epsilon is allowed",
                "Give the radius at which robustness is judged, e.g. 'linf:8/255'.",
            )


@dataclass(frozen=True)
class Findings:
    """What a probe of causes found.

    Args:
        columns: name -> one number for each sample, (B,).
        figures: name -> one number for the model.
        pictures: name -> what is to be drawn, (B, ...): saliency maps, grids of a landscape, curves over a parameter.
        axes: picture -> the values along its last axes, such as radii, for the drawing.
    """

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    axes: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)


WHY: Registry[WhyCard] = Registry("probe of causes", WhyCard)
register = WHY.register
