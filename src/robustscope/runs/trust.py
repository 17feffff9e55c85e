"""Can this robust accuracy be believed? All probes on one model, with the attack behind the claim, in one call.

Probes and attacks stand on one floor and do not know each other; here, above both, attacks are handed to the probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustscope.attacks.cards import ATTACKS, AttackCard
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, RobustscopeError
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.models.randomness import kept_randomness
from robustscope.probes import PROBES
from robustscope.probes.bench import AttackText, Bench, Check, look
from robustscope.probes.trust import Trust, judge

VERSION = 1
SOURCE = "Carlini et al., 2019, arXiv:1902.06705; Pintor et al., 2022, arXiv:2106.09947; Zimmermann et al., 2022, arXiv:2206.13991"
FEWEST = 8
"""Samples below which nothing is trusted."""
WHITE: AttackText = ("pgd", {"steps": 40, "loss": "margin"})
ALSO: tuple[AttackText, ...] = (("ladder", {"search": False}),)
REFERENCE: AttackText = ("apgd", {"steps": 100, "loss": "margin"})
SCORES: AttackText = ("square", {"queries": 500})
DECISIONS: AttackText = ("hopskipjump", {"queries": 1000, "stop_at_epsilon": True})


def trust(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    white: tuple[str | AttackCard, Mapping[str, Any]] = WHITE,
    also: Sequence[AttackText] = ALSO,
    reference: AttackText | None = REFERENCE,
    scores: AttackText | None = SCORES,
    decisions: AttackText | None = DECISIONS,
    surrogates: Sequence[Classifier] = (),
    search: Classifier | None = None,
    broken: Tensor | None = None,
    noise: int = 100,
    tolerance: float = 0.02,
    probes: Sequence[str] | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    watcher: Callable[[Check], None] | None = None,
) -> Trust:
    """Run every probe on a model and say whether the robust accuracy of an attack on it can be trusted.

    Args:
        model: the classifier.
        x: (B, *S), clean inputs inside the bounds; misclassified ones count for the clean accuracy and are left out.
        y: int64 (B,), true classes.
        threat: threat model, or a text such as "linf:8/255"; linf, l2 or l1, radii above 0 and finite.
        white: the gradient attack behind the claim, by name or card, with its parameters.
        also: further attacks behind the claim, run on what ``white`` left; () if there are none.
        reference: a gradient attack that is known to be good; None leaves it out.
        scores: an attack that needs scores only; None leaves it out, which leaves a doubt.
        decisions: an attack that needs decisions only; left out where it has no form for the norm.
        surrogates: other networks for the same task.
        search: the network that ``white`` searches on, if it is not the model.
        broken: bool (B,), what the whole evaluation broke; None to run ``white`` and ``also`` for it.
        noise: random points tried for each sample.
        tolerance: share of samples that may contradict a line; one sample always may.
        probes: names of the probes to run; None runs all.
        seed: of all draws.
        ids: ids of the samples, which their random numbers belong to; None numbers them from 0.
        watcher: called with each result.

    Returns:
        Verdict, reasons and all results. ``affected`` in a result are positions in ``x``.

    Raises:
        InvalidType, InvalidValue: for arguments that are not allowed, or if no sample is classified correctly.
        UnknownName: for an attack or a probe that is not known.

    Example:
        >>> model = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval())
        >>> x = torch.rand(8, 1, 4, 4)
        >>> trust(model, x, model.logits(x).argmax(1), "linf:0.1", probes=["available_gradients"]).verdict
        'trust'

    Source: Carlini et al. 2019, arXiv:1902.06705; Croce & Hein 2020, arXiv:2003.01690; Pintor et al. 2022,
        arXiv:2106.09947; Zimmermann et al. 2022, arXiv:2206.13991. Each probe names its own.
    """
    threat = ThreatModel.parse(threat, model.bounds) if isinstance(threat, str) else threat
    cards = [PROBES[name] for name in probes] if probes is not None else list(PROBES)
    with kept_randomness():
        draws = Draws(seed, tuple(range(len(x)) if ids is None else ids))
        rows, bench = _bench(model, x, y, threat, white, draws, broken)
        bench.also = tuple((name, dict(parameters)) for name, parameters in also)
        for which in (reference, scores, decisions, *also):
            if which is not None:
                _card(which[0])
        if not 0 <= tolerance < 1 or noise < 1:
            raise InvalidValue(
                f"tolerance={tolerance} and noise={noise} were given",
                "[0, 1) and 1 or more are allowed",
                "Correct them.",
            )
        bench.scores, bench.decisions = _fitting(scores, threat), _fitting(decisions, threat)
        bench.reference = _fitting(reference, threat)
        bench.surrogates, bench.search = tuple(surrogates), search
        bench.noise, bench.tolerance = noise, tolerance
        try:
            left = len(bench.left)  # first, so that each probe's rows are its own
        except RobustscopeError:
            left = None
        checks = []
        for card in sorted(cards, key=lambda one: one.last):
            found = look(card, bench)
            found = replace(found, affected=tuple(rows[list(found.affected)].tolist()))
            checks.append(found)
            if watcher is not None:
                watcher(found)
    found = replace(judge(checks), n=len(x), correct=len(rows), left=left)
    if found.verdict == "trust" and len(rows) < FEWEST:
        few = f"only {len(rows)} samples were looked at, too few to show that an attack is too weak."
        found = replace(found, verdict="doubt", why=(few,))
    return found


def expected_rows(
    white: AttackText = WHITE,
    also: Sequence[AttackText] = ALSO,
    reference: AttackText | None = REFERENCE,
    scores: AttackText | None = SCORES,
    decisions: AttackText | None = DECISIONS,
    surrogates: int = 0,
    noise: int = 100,
) -> dict[str, tuple[int, int]]:
    """Return the most rows (forward, backward) that one sample costs: of each probe, and of the "evaluation" itself.

    Example:
        >>> expected_rows()["noise_finds_no_more"]
        (100, 0)
    """
    runs = [ATTACKS[name].cost(ATTACKS[name].resolve(parameters)) for name, parameters in (white, *also)]
    total = sum(forward for forward, _ in runs), sum(backward for _, backward in runs)
    rivals = [
        (0, 0) if w is None else ATTACKS[w[0]].cost(ATTACKS[w[0]].resolve(w[1])) for w in (reference, scores, decisions)
    ]
    facts = {"reference": rivals[0], "scores": rivals[1][0], "decisions": rivals[2][0]}
    facts |= {"noise": noise, "surrogates": surrogates, "all": total}
    evaluation = total[0] + 3 * len(runs), total[1]
    return {"evaluation": evaluation, **{card.name: card.cost(runs[0], facts) for card in PROBES}}


def _bench(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    white: tuple[str | AttackCard, Mapping[str, Any]],
    draws: Draws,
    broken: Tensor | None,
) -> tuple[Tensor, Bench]:
    """Return the positions of the samples classified correctly, and a bench of them."""
    if not isinstance(threat, ThreatModel) or threat.norm == "l0":
        raise InvalidType(
            f"the threat set {threat!r} was given",
            "an lp ball of norm linf, l2 or l1 is allowed",
            "Write e.g. 'linf:8/255'.",
        )
    model.check_inputs(x, y)
    radius = threat.radius(x)
    if not ((radius > 0) & radius.isfinite()).all():
        raise InvalidValue(
            f"epsilon={threat.epsilon} was given",
            "radii above 0 and finite are allowed",
            "Give the radius of the claim.",
        )
    rows = (model.logits(x).argmax(1) == y).nonzero()[:, 0] if len(x) else torch.zeros(0, dtype=torch.int64)
    if not len(rows):
        raise InvalidValue(
            f"none of {len(x)} samples is classified correctly", "one or more is allowed", "Look at the labels first."
        )
    card = _card(white[0])
    return rows, Bench(
        model,
        x[rows],
        y[rows],
        threat.select(rows),
        draws.select(rows),
        _Attacker(card),
        lambda name: (card if name == card.name else ATTACKS[name]).resolve(),
        (card.name, dict(white[1])),
        broken=None if broken is None else broken[rows],
        correct=len(rows),
        n=len(x),
    )


def _card(which: str | AttackCard) -> AttackCard:
    return which if isinstance(which, AttackCard) else ATTACKS[which]


def _fitting(which: AttackText | None, threat: ThreatModel) -> AttackText | None:
    return which if which is not None and threat.norm in _card(which[0]).norms else None


class _Attacker:
    """Runs registered attacks, and one that may be registered nowhere."""

    def __init__(self, own: AttackCard) -> None:
        self.own = own

    def __call__(
        self,
        name: str,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        draws: Draws,
        targets: Tensor | None = None,
        **parameters: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the examples and the losses along the way."""
        which = self.own if name == self.own.name else name
        result = attack(which, model, x, y, threat, targets=targets, draws=draws, **parameters).result
        return result.x_adv, result.trace
