"""What knows less must find less: noise, scores, decisions and other networks' examples against the gradient attack."""

from __future__ import annotations

from dataclasses import replace

import torch

from robustscope.geometry import balls
from robustscope.geometry.rules import is_adversarial
from robustscope.probes.bench import AttackText, Bench, Reading, share
from robustscope.probes.cards import register, runs_of

GROWING = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Standard deviations of growing noise, as shares of the width of the bounds."""

GIVERS = 20
"""Broken samples whose perturbations are tried on others."""


@register(
    "noise_finds_no_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 5.6 (random noise within the threat set)",
    measures="samples that random points of the threat set break and the evaluation does not",
    means="an attack that noise beats follows no gradient",
    remedy="Look for a defect of the attack, or for masked gradients.",
    access="decisions",
    cost=lambda white, facts: (facts["noise"], 0),
)
def noise_finds_no_more(bench: Bench) -> Reading:
    """Try random points of the threat set, and its random corners in linf, on what is left."""
    rows, found = bench.left, torch.zeros_like(bench.beaten)
    if not len(rows):
        return Reading(None, "no sample is left")
    x, threat, draws = bench.x[rows], bench.threat.select(rows), bench.draws.select(rows).within("noise_finds_no_more")
    for number in range(bench.noise):
        point = balls.sample(threat, x, draws, f"point/{number}")
        if threat.norm == "linf" and number % 2:
            away = (point - x).sign() * threat.radius(x).reshape(-1, *([1] * (x.dim() - 1)))
            point = balls.project(threat, x, x + away)
        found[rows] |= is_adversarial(bench.model.logits(point), bench.y[rows])
    return bench.excess(
        found, f"{bench.noise} random points break {share(int(found.sum()), len(found))} samples that were left"
    )


@register(
    "reference_finds_no_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.3 (attacks known to be good, and diverse); Croce & Hein, 2020, "
    "arXiv:2003.01690",
    measures="samples that a gradient attack known to be good breaks and the evaluation does not",
    means="the evaluation falls behind what is easily had",
    remedy="Report the worst case with the reference, and make the attack at least as strong.",
    cost=lambda white, facts: runs_of(facts["reference"], 1, 1),
)
def reference_finds_no_more(bench: Bench) -> Reading:
    """Attack what is left with the reference."""
    return _beyond(bench, bench.reference, "no reference was given")


@register(
    "scores_find_no_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 5.2 (gradient-free attacks must succeed less often); AutoAttack's flag "
    "of Square",
    measures="samples that an attack by scores alone breaks and the evaluation does not",
    means="gradients are masked: who sees less finds more",
    remedy="Attack through the defence with BPDA or EOT, or with another loss; search longer without gradients.",
    access="scores",
    vital=True,
    cost=lambda white, facts: runs_of((facts["scores"], 0), 1, 1),
)
def scores_find_no_more(bench: Bench) -> Reading:
    """Attack what is left by scores alone."""
    return _beyond(bench, bench.scores, "no attack by scores was given")


@register(
    "decisions_find_no_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 5.2; Brendel et al., 2018, arXiv:1712.04248",
    measures="samples that an attack by decisions alone breaks and the evaluation does not",
    means="scores and gradients are masked: who sees nothing but the class finds more",
    remedy="Attack the scores before whatever flattens them; search longer along the boundary.",
    access="decisions",
    cost=lambda white, facts: runs_of((facts["decisions"], 0), 1, 1),
)
def decisions_find_no_more(bench: Bench) -> Reading:
    """Attack what is left by decisions alone."""
    return _beyond(
        bench, bench.decisions, f"no attack by decisions was given, or none is defined in {bench.threat.norm}"
    )


@register(
    "surrogates_find_no_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 5.3 (transfer must succeed less often than white-box attacks); Papernot et "
    "al., 2016, arXiv:1605.07277",
    measures="samples that examples made for other networks break and the evaluation does not",
    means="gradients of another network lead better than the model's own",
    remedy="The model hides its gradients: attack through what hides them, or through the surrogate and on from there.",
    access="decisions",
    cost=lambda white, facts: runs_of(white, facts["surrogates"], 2 * facts["surrogates"]),
)
def surrogates_find_no_more(bench: Bench) -> Reading:
    """Run the gradient attack on each surrogate, and try its examples on the model."""
    if not bench.surrogates:
        return Reading(None, "no surrogate was given")
    found = torch.zeros_like(bench.beaten)
    for surrogate in bench.surrogates:
        found |= bench.beyond(bench.white, on=surrogate)
    text = f"examples for {len(bench.surrogates)} surrogate(s) break {share(int(found.sum()), len(found))} samples that were left"
    return bench.excess(found, text)


@register(
    "other_samples_tell_nothing",
    version=1,
    source="this project; universal perturbations: Moosavi-Dezfooli et al., 2017, arXiv:1610.08401",
    measures="samples that the perturbations found for other samples break and the evaluation does not",
    means="an example lies where another sample's attack went, and the sample's own attack did not go there",
    remedy="Start attacks from other samples' perturbations, and look for masked gradients.",
    access="decisions",
    weight=1,
    cost=lambda white, facts: (GIVERS, 0),
)
def other_samples_tell_nothing(bench: Bench) -> Reading:
    """Try each perturbation of a broken sample on what is left, up to twenty of them."""
    run, rows = bench.run(bench.white), bench.left
    givers = run.success.nonzero()[:GIVERS, 0]
    if not len(rows) or not len(givers):
        return Reading(None, "no sample is left" if not len(rows) else "no perturbation was found")
    found = torch.zeros_like(run.success)
    x, threat = bench.x[rows], bench.threat.select(rows)
    for giver in givers.tolist():
        point = balls.project(threat, x, x + (run.x_adv[giver] - bench.x[giver]))
        found[rows] |= is_adversarial(bench.model.logits(point), bench.y[rows])
    text = f"{len(givers)} perturbations of others break {share(int(found.sum()), len(found))} samples that were left"
    return bench.excess(found, text)


@register(
    "more_noise_is_worse",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 5.7 (growing Gaussian noise)",
    measures="samples classified correctly under Gaussian noise that grows to 0.4 of the bounds",
    means="a model that gets better as noise grows is fitted to something else than its inputs",
    remedy="Look at the normalisation, at clipping, and at what the training data had in it.",
    access="decisions",
    weight=1,
    cost=lambda white, facts: (len(GROWING), 0),
)
def more_noise_is_worse(bench: Bench) -> Reading:
    """Count correct samples at five levels of noise, the same directions at each."""
    lower, upper = bench.threat.bounds
    noise = bench.draws.within("more_noise_is_worse").normal("noise", bench.x)
    right = []
    for level in GROWING:
        point = balls.clip_to_bounds(bench.x + level * (upper - lower) * noise, bench.threat.bounds)
        right.append(int((~is_adversarial(bench.model.logits(point), bench.y)).sum()))
    rise = max(later - min(right[: i + 1]) for i, later in enumerate(right[1:]))
    limit = max(bench.allowed, round(0.05 * len(bench.x)))
    text = f"correct of {len(bench.x)}: " + ", ".join(f"{k} at {s:g}" for k, s in zip(right, GROWING, strict=True))
    return Reading(rise <= limit, text, rise / len(bench.x), limit / len(bench.x))


@register(
    "one_attack_is_the_worst_case",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.7 (report the mean over samples of the worst attack, not the reverse)",
    measures="samples that any attack of all these probes breaks and the evaluation does not",
    means="no single attack tells the robust accuracy: others break other samples",
    remedy="Report the worst case for each sample over all attacks that were run.",
    weight=1,
    last=True,
)
def one_attack_is_the_worst_case(bench: Bench) -> Reading:
    """Take the worst case over every run inside the threat set that was made so far."""
    more = bench.union & ~bench.beaten
    limit = replace(bench, tolerance=2 * bench.tolerance).allowed
    text = f"all runs together break {share(int(more.sum()), len(more))} samples that the evaluation left"
    found = more.double().mean().item()
    return Reading(int(more.sum()) <= limit, text, found, limit / len(more), more)


def _beyond(bench: Bench, rival: AttackText | None, absent: str) -> Reading:
    """Attack what is left with a rival on the model itself; ``absent`` says why there is none."""
    if rival is None:
        return Reading(None, absent)
    more = bench.beyond(rival, on=bench.model)
    return bench.excess(more, f"{rival[0]} breaks {share(int(more.sum()), len(more))} samples that were left")
