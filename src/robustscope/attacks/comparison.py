"""Oblivious against adaptive: what is left of a defence once the attack knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from robustscope.attacks.compose import Outcome, attack
from robustscope.attacks.verify import verify
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.models.defended import Average, Transformation, defend

View = Literal["oblivious", "gradient", "bpda", "eot", "bpda+eot"]
VIEWS: tuple[View, ...] = get_args(View)


@dataclass(frozen=True)
class Defence:
    """A network with a transformation in front, as a subject of :func:`compare`.

    Args:
        model: the bare network.
        transformation: what stands in front of it; None for the bare network itself.
        verdict_draws: draws whose mean decides.
        average: what is averaged, "logits" or "probabilities".
        seed: of the draws.
    """

    model: Classifier
    transformation: Transformation | None = None
    verdict_draws: int = 32
    average: Average = "logits"
    seed: int = 0

    def seen(self, *, approximate: bool = True, gradient_draws: int = 1) -> Classifier:
        """Return the defended classifier as an attack sees it; all of them decide alike."""
        if self.transformation is None:
            return self.model
        return defend(
            self.model,
            self.transformation,
            verdict_draws=self.verdict_draws,
            gradient_draws=gradient_draws,
            approximate=approximate,
            average=self.average,
            seed=self.seed,
        )

    def views(self) -> tuple[View, ...]:
        """Return the views that say something about this defence.

        "gradient" and "eot" need a derivative of its own; "bpda" and "bpda+eot" an approximation; "eot" and "bpda+eot"
        randomness.
        """
        if self.transformation is None:
            return ("gradient",)
        own, random = self.transformation.backward == "exact", self.transformation.stochastic
        found: tuple[View, ...] = ("oblivious", "gradient" if own else "bpda")
        return (*found, "eot" if own else "bpda+eot") if random else found


@dataclass(frozen=True)
class Line:
    """One line of the comparison.

    Args:
        defence: name of the defence.
        view: how the attack saw it.
        attack: name of the attack.
        clean: bool (B,), classified correctly by the defended network.
        robust: bool (B,), and not broken.
        forward: rows that the attack sent forward, over all samples; one row is one question to the whole defence.
    """

    defence: str
    view: View
    attack: str
    clean: Tensor
    robust: Tensor
    forward: int

    @property
    def robust_accuracy(self) -> float:
        """Share of samples that are classified correctly and not broken."""
        return float(self.robust.double().mean())

    @property
    def clean_accuracy(self) -> float:
        """Share of samples that are classified correctly."""
        return float(self.clean.double().mean())


def compare(
    defences: Mapping[str, Defence],
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    attacks: Sequence[tuple[str, Mapping[str, Any]]] = (("pgd", {"steps": 40, "loss": "margin"}),),
    gradient_draws: int = 16,
    seed: int = 0,
) -> list[Line]:
    """Attack each defence without and with knowledge of it, and judge every example on what is deployed.

    Views: "oblivious" attacks the bare network; "gradient" differentiates the defence with one draw; "bpda" passes
    the declared approximation with one draw; "eot" and "bpda+eot" do so with the mean over ``gradient_draws`` draws.
    Views that a defence has no use for are left out.

    Args:
        defences: name -> network and transformation.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: threat model, or a text such as "linf:0.1".
        attacks: names with hyper-parameters, each a line of its own.
        gradient_draws: of the EOT views, >= 2.
        seed: of the attacks.

    Returns:
        One line for each defence, view and attack. An oblivious attack stops at the first example that fools the bare
        network, as an attacker would who has nothing else to ask.

    Raises:
        InvalidValue: for no samples, or fewer than two draws; else as :func:`robustscope.attack`.
    """
    if not len(x) or gradient_draws < 2:
        raise InvalidValue(
            f"{len(x)} samples and gradient_draws={gradient_draws} were given",
            "one sample or more, and two draws or more, are allowed",
            "One draw is what the views 'gradient' and 'bpda' use.",
        )
    lines = []
    for title, defence in defences.items():
        deployed = defence.seen()
        limits = ThreatModel.parse(threat, deployed.bounds) if isinstance(threat, str) else threat
        deployed.check_inputs(x, y)
        clean = deployed.logits(x).argmax(1) == y
        rows = clean.nonzero()[:, 0]
        draws = Draws(seed, tuple(range(len(x)))).select(rows)
        for view in defence.views():
            subject = _subject(defence, view, gradient_draws)
            for name, parameters in attacks:
                found = attack(name, subject, x[rows], y[rows], limits.select(rows), draws=draws, **dict(parameters))
                judged = _judged(deployed, view, found, x[rows], y[rows], limits.select(rows))
                robust = clean.clone()
                robust[rows[judged]] = False
                lines.append(Line(title, view, name, clean, robust, int(found.result.forward.sum())))
    return lines


def _subject(defence: Defence, view: View, gradient_draws: int) -> Classifier:
    if view == "oblivious":
        return replace(defence.model)
    return defence.seen(
        approximate=view.startswith("bpda"), gradient_draws=gradient_draws if view.endswith("eot") else 1
    )


def _judged(deployed: Classifier, view: View, found: Outcome, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Tell which examples fool what is deployed: bool (B,)."""
    if view != "oblivious":
        return found.verdict.success
    return verify(deployed, x, y, threat, found.result).success


def table(lines: Sequence[Line]) -> str:
    """Return the comparison as a Markdown table: robust accuracy in percent for each defence, view and attack.

    The last column is the worst case over all lines of the defence, per sample.

    Raises:
        InvalidValue: for no lines.
    """
    if not lines:
        raise InvalidValue("no lines were given", "one or more are allowed", "Pass what compare returned.")
    several = len({line.attack for line in lines}) > 1
    heads = [view for view in VIEWS if any(line.view == view for line in lines)]
    named = list(dict.fromkeys(line.attack for line in lines))
    columns = [(view, name) for view in heads for name in named]
    titles = [f"{view}, {name}" if several else view for view, name in columns]
    out = [f"| defence | clean | {' | '.join(titles)} | worst case |", f"| --- |{' ---: |' * (len(columns) + 2)}"]
    for title in dict.fromkeys(line.defence for line in lines):
        own = [line for line in lines if line.defence == title]
        cells = [next((_percent(one.robust) for one in own if (one.view, one.attack) == c), "–") for c in columns]
        worst = torch.stack([line.robust for line in own]).all(0)
        out.append(f"| {title} | {_percent(own[0].clean)} | {' | '.join(cells)} | {_percent(worst)} |")
    return "\n".join(out)


def _percent(values: Tensor) -> str:
    return f"{100 * float(values.double().mean()):.1f}"
