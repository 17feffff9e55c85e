"""More of everything must not change the result, and a larger ball must break more: is the attack at its end?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from robustscope.geometry.losses import LOSSES
from robustscope.probes.bench import Bench, Reading, share
from robustscope.probes.cards import register, runs_of

LADDER = (0.25, 0.5, 1.0, 2.0, 4.0)
RESTARTS = 5
STEP_SIZES = (0.25, 4.0)
TARGETS = 3


@register(
    "larger_ball_breaks_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.10 (a larger budget means more success)",
    measures="samples left at a quarter of epsilon, half, once, twice and four times epsilon",
    means="a larger ball holds the smaller one: the steps are too long, or the gradients lead astray",
    remedy="Scale the steps with epsilon, start from the example of the smaller ball, or look for masked gradients.",
    cost=lambda white, facts: runs_of(white, 4, 4),
)
def larger_ball_breaks_more(bench: Bench) -> Reading:
    """Attack at five radii, and compare how many samples are left."""
    runs = [bench.run(bench.white, None if f == 1 else bench.threat.scaled(f)).success for f in LADDER]
    left = [int((~success).sum()) for success in runs]
    lost = torch.zeros_like(runs[0])
    for smaller, larger in pairwise(runs):
        lost |= smaller & ~larger
    rise = max(later - earlier for earlier, later in pairwise(left))
    text = f"left of {len(bench.x)}: " + ", ".join(f"{n} at {f:g} epsilon" for n, f in zip(left, LADDER, strict=True))
    figure = rise / len(bench.x)
    return Reading(rise <= bench.allowed, text, figure, bench.allowed / len(bench.x), lost)


@register(
    "curve_keeps_falling",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.10-4.11 (strictly more success, until all is broken)",
    measures="samples left at epsilon that four times epsilon breaks",
    means="a curve that is flat above zero is the attack's limit, not the model's",
    remedy="Plot robust accuracy against epsilon until it is zero, and find out why it stops falling.",
    weight=1,
    cost=lambda white, facts: runs_of(white, 2, 2),
)
def curve_keeps_falling(bench: Bench) -> Reading:
    """Compare epsilon with four times epsilon; a model of which next to nothing is left has nothing to show."""
    once, four = (int((~bench.run(bench.white, t).success).sum()) for t in (None, bench.threat.scaled(LADDER[-1])))
    if once <= 2 * bench.allowed:
        return Reading(None, f"only {share(once, len(bench.x))} samples are left at epsilon")
    text = f"{share(once, len(bench.x))} samples are left at epsilon, {four} at {LADDER[-1]:g} epsilon"
    figure = (once - four) / once
    return Reading(figure > 0.05, text, figure, 0.05)


@register(
    "doubling_steps_changes_nothing",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.4 (enough iterations)",
    measures="samples that twice the steps break and once does not",
    means="the attack has not converged",
    remedy="Double the steps until nothing changes.",
    cost=lambda white, facts: runs_of(white, 2, 1),
)
def doubling_steps_changes_nothing(bench: Bench) -> Reading:
    """Attack what is left with twice the steps."""
    steps = bench.settings.get("steps")
    if not isinstance(steps, int):
        return Reading(None, f"{bench.white[0]} has no number of steps")
    more = bench.beyond(bench.white, {"steps": 2 * steps})
    return bench.excess(
        more, f"{2 * steps} steps break {share(int(more.sum()), len(more))} samples that {steps} steps left"
    )


@register(
    "restarts_change_nothing",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.5 (enough random restarts)",
    measures="samples that five times the restarts break and those of the attack do not",
    means="the result depends on where the attack starts",
    remedy="Raise the restarts until nothing changes.",
    cost=lambda white, facts: runs_of(white, RESTARTS, 1),
)
def restarts_change_nothing(bench: Bench) -> Reading:
    """Attack what is left with five times the restarts."""
    restarts = bench.settings.get("restarts")
    if not isinstance(restarts, int) or bench.settings.get("random_start") is False:
        return Reading(None, f"{bench.white[0]} starts at no random point")
    more = bench.beyond(bench.white, {"restarts": RESTARTS * restarts})
    text = f"{RESTARTS * restarts} restarts break {share(int(more.sum()), len(more))} samples that {restarts} left"
    return bench.excess(more, text)


@register(
    "step_size_changes_nothing",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.4 and 5.5 (sweep the step size)",
    measures="samples that steps of a quarter or of four times the length break",
    means="the step size was not the right one for this model",
    remedy="Sweep the step size, or use an attack that finds its own (apgd).",
    cost=lambda white, facts: runs_of(white, 2, 2),
)
def step_size_changes_nothing(bench: Bench) -> Reading:
    """Attack what is left with shorter and with longer steps."""
    size = bench.settings.get("relative_step_size")
    if not isinstance(size, float):
        return Reading(None, f"{bench.white[0]} chooses its step size")
    found = [bench.beyond(bench.white, {"relative_step_size": factor * size}) for factor in STEP_SIZES]
    counts = " and ".join(f"{int(one.sum())} at {f:g} times" for one, f in zip(found, STEP_SIZES, strict=True))
    return bench.excess(
        found[0] | found[1], f"of {len(bench.x)} samples, other step sizes break {counts} {size:g} epsilon"
    )


@register(
    "many_steps_beat_one",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.8 (iterative attacks beat single-step ones)",
    measures="samples that one full step along the gradient breaks and the whole attack does not",
    means="the loss is rough, or the steps of the attack are too long or too short",
    remedy="Shorten the steps, average gradients (EOT), and look for masked gradients.",
    cost=lambda white, facts: runs_of((1, 1), 1, 1),
)
def many_steps_beat_one(bench: Bench) -> Reading:
    """Attack what is left with one step."""
    loss = bench.settings.get("loss", "margin")
    more = bench.beyond(("fgsm", {"loss": loss if loss in LOSSES else "margin"}))
    return bench.excess(more, f"one step breaks {share(int(more.sum()), len(more))} samples that {bench.white[0]} left")


@register(
    "other_losses_find_no_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.6 and 5.5; Croce & Hein, 2020, arXiv:2003.01690, Sec. 4",
    measures="samples that the same attack breaks with another loss",
    means="the loss of the attack misleads on this model",
    remedy="Use the loss that breaks more, and take the worst case over losses.",
    cost=lambda white, facts: runs_of(white, 2, 2),
)
def other_losses_find_no_more(bench: Bench) -> Reading:
    """Attack what is left with the margin, cross-entropy and the ratio of logit differences."""
    own = bench.settings.get("loss")
    if not isinstance(own, str):
        return Reading(None, f"{bench.white[0]} has no loss to choose by name")
    classes = bench.model.classes(bench.x)
    others = [n for n in ("margin", "cross_entropy", "dlr") if n != own and classes >= LOSSES[n].classes]
    found = {name: bench.beyond(bench.white, {"loss": name}) for name in others}
    counts = ", ".join(f"{name} {int(one.sum())}" for name, one in found.items())
    return bench.excess(_any(found.values(), bench), f"of {len(bench.x)} samples, beyond {own}: {counts}")


@register(
    "targets_find_no_more",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.1 and 5.9; Gowal et al., 2019, arXiv:1910.09338",
    measures="samples that the attack breaks when it aims at each of the three likeliest wrong classes",
    means="the untargeted loss misleads: it changes its mind about the class, or stays at the wrong one",
    remedy="Use targeted attacks, over all classes (apgd_targeted).",
    cost=lambda white, facts: runs_of(white, TARGETS, TARGETS, 1),
)
def targets_find_no_more(bench: Bench) -> Reading:
    """Attack what is left towards the likeliest wrong classes in turn."""
    rows, found = bench.left, torch.zeros_like(bench.beaten)
    if not len(rows):
        return Reading(None, "no sample is left")
    logits = bench.model.logits(bench.x[rows]).scatter(1, bench.y[rows, None], float("-inf"))
    order = logits.argsort(dim=1, descending=True, stable=True)[:, : min(TARGETS, logits.shape[1] - 1)]
    loss = (
        "margin" if bench.settings.get("loss") == "dlr" and logits.shape[1] < LOSSES["dlr"].classes_targeted else None
    )
    changes = {} if loss is None else {"loss": loss}
    for rank in range(order.shape[1]):
        run = bench.run(bench.white, rows=rows, targets=order[:, rank], changes=changes)
        found[rows] |= run.success
    text = f"aimed at {order.shape[1]} classes, it breaks {share(int(found.sum()), len(found))} samples that it left untargeted"
    return bench.excess(found, text)


def _any(found: Iterable[Tensor], bench: Bench) -> Tensor:
    total = torch.zeros_like(bench.beaten)
    for one in found:
        total = total | one
    return total
