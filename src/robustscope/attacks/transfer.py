"""Transfer: craft on other models, be judged on this one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustscope.attacks.cards import register
from robustscope.attacks.compose import attack as run_attack
from robustscope.attacks.suites import parse_attack
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.threats import Threat
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.models.cards import save_model
from robustscope.models.classifier import Classifier, normalise
from robustscope.models.loading import LoadedModel, load_model

BIBTEX = """@article{papernot2016transferability,
  title = {Transferability in Machine Learning: from Phenomena to Black-Box Attacks using Adversarial Samples},
  author = {Papernot, Nicolas and McDaniel, Patrick and Goodfellow, Ian},
  journal = {arXiv preprint arXiv:1605.07277},
  year = {2016}
}"""


class Ensemble(nn.Module):
    """The mean of the logits of several classifiers, with one class favoured.

    Args:
        members: classifiers, which normalise for themselves.
        favoured: class whose logit is raised.
        by: how far.
    """

    def __init__(self, members: Sequence[Classifier], favoured: int = 0, by: float = 0.0) -> None:
        super().__init__()
        self.parts = nn.ModuleList([member.module for member in members])
        self.scales = [(member.mean, member.std) for member in members]
        self.favoured, self.by = favoured, by

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, *S)."""
        total = sum(part(normalise(x, *scale)) for part, scale in zip(self.parts, self.scales, strict=True))
        mean = total / len(self.parts)
        lift = mean.new_zeros(mean.shape[1])
        lift[self.favoured] = self.by
        return mean + lift


def _load(surrogates: str, device: str) -> list[LoadedModel]:
    sources = [source.strip() for source in surrogates.split("+") if source.strip()]
    if not sources:
        raise InvalidValue(
            f"surrogates={surrogates!r} was given",
            "one model source or more, joined by +, is allowed",
            "Write e.g. transfer:surrogates=a.json+b.json,attack=pgd.",
        )
    return [load_model(source, device=device) for source in sources]


def _marks(models: Sequence[LoadedModel]) -> str:
    return "+".join(model.fingerprint for model in models)


def _pin(parameters: dict[str, Any]) -> dict[str, Any]:
    """Put the fingerprints of the surrogates into the plan."""
    if not parameters["surrogates"] or parameters["fingerprints"]:
        return parameters
    return {**parameters, "fingerprints": _marks(_load(parameters["surrogates"], "cpu"))}


def _equip(folder: Path, model: Classifier, x: Tensor, threat: Threat) -> dict[str, Any]:
    """Write a linear surrogate of pseudo-random weights for the contract checks."""
    values, classes = math.prod(x.shape[1:]), model.classes(x)
    weight = Draws(0, tuple(range(classes)), "transfer/check").normal("weight", torch.empty(classes, values))
    layers = [{"type": "flatten"}, {"type": "linear", "in": values, "out": classes}]
    facts = {"shape": list(x.shape[1:]), "value_range": list(model.bounds)}
    state = {"1.weight": weight, "1.bias": torch.zeros(classes)}
    return {"surrogates": str(save_model(folder / "surrogate.json", layers, state, facts))}


@register(
    "transfer",
    version=1,
    source="Papernot et al., 2016, arXiv:1605.07277; ensembles: Liu et al., 2017, arXiv:1611.02770, Sec. 4",
    bibtex=BIBTEX,
    access="none",
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"options": "steps=5"},
    pin=_pin,
    equip=_equip,
)
def transfer(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    surrogates: str = "",
    attack: str = "pgd",
    options: str = "",
    confidence: float = 10.0,
    fingerprints: str = "",
) -> AttackResult:
    """Attack other models of the same task, and hand their adversarial examples to this one.

    The surrogates count as one model, whose logits are the mean of theirs. An attack that stops as soon as the surrogate is
    fooled barely crosses a boundary that is not the victim's; so the true class (the target with the other sign) is
    favoured by ``confidence`` logits there, and a sample stops only when it wins by so much.

    Args:
        model: classifier under attack; nothing is asked of it.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        surrogates: model sources joined by "+", such as "a.json+b.json"; the bounds and classes must be the victim's.
        attack: name of the attack that is run on them, in the same threat set.
        options: its hyper-parameters, "steps=100;loss=margin"; its defaults where empty.
        confidence: logits by which the surrogate must be fooled before a sample stops, >= 0. Much further, float32
            cross-entropy has no gradient left; the margin loss has.
        fingerprints: what the surrogates must be, joined by "+"; a plan fills it in, so that a run never continues with others.

    Returns:
        One example for each sample. ``forward`` and ``backward`` are 0: no row went through the victim. The rows that the
        surrogates saw are in ``elsewhere``, a row through an ensemble counted once for each member.

    Raises:
        InvalidValue: if no surrogate was named, or one does not fit, has changed, or the confidence is out of range.

    Source: Papernot et al. 2016, arXiv:1605.07277; Liu et al. 2017, arXiv:1611.02770, Sec. 4 (ensembles); the margin as in
        Carlini & Wagner 2017, arXiv:1608.04644, Sec. VIII-D.

    Departures: logits are averaged, where Liu et al. average probabilities; several attacks and surrogates are several
        entries of a suite.
    """
    if not 0 <= confidence < float("inf"):
        raise InvalidValue(f"confidence={confidence} was given", "a finite number >= 0 is allowed", "Correct it.")
    loaded = _load(surrogates, str(x.device))
    if fingerprints and _marks(loaded) != fingerprints:
        raise InvalidValue(
            f"the surrogates {surrogates!r} are not those of the plan",
            "the models that were planned are allowed",
            "Restore them, or evaluate into a new folder.",
        )
    members = [replace(one.classifier, module=one.classifier.module.to(x.dtype)) for one in loaded]
    for one, member in zip(loaded, members, strict=True):
        known = not len(x) or member.classes(x) == model.classes(x)  # an empty batch says nothing of classes
        if member.bounds != model.bounds or not known:
            raise InvalidValue(
                f"the surrogate {one.name!r} has bounds {tuple(member.bounds)} and {member.classes(x)} classes",
                f"{tuple(model.bounds)} and {model.classes(x)} classes, as the victim, are allowed",
                "Choose a surrogate of the same task, with its normalisation in its card.",
            )
    name, parameters = parse_attack(f"{attack}:{options.replace(';', ',')}")
    favoured, by = (y, confidence) if targets is None else (targets, -confidence)
    x_adv, elsewhere = x.clone(), torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)
    groups = favoured.unique().tolist() if len(x) else [0]
    for group in groups:
        rows = (favoured == group).nonzero()[:, 0]
        stand_in = Classifier(Ensemble(members, group, by).eval(), model.bounds, batch_size=model.batch_size)
        goals = None if targets is None else targets[rows]
        part, mine = threat.select(rows), draws.select(rows)
        found = run_attack(name, stand_in, x[rows], y[rows], part, targets=goals, draws=mine, **parameters).result
        x_adv[rows] = found.x_adv
        elsewhere[rows] = torch.stack([found.forward, found.backward], 1) * len(members)
    return AttackResult(x_adv, torch.zeros_like(y), torch.zeros_like(y), elsewhere=elsewhere)
