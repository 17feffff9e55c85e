"""What every training objective must keep: its form, its count of rows, one sample at a time, and resuming bit for bit.

A check is a function of a card and a norm (empty for objectives that need none) that raises :class:`ContractBroken`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from robustscope.contracts.broken import ContractBroken
from robustscope.contracts.explained import gaps_of
from robustscope.contracts.manners import traces
from robustscope.contracts.runner import CheckResult, outcome
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.arrays import from_tensors
from robustscope.data.base import Dataset
from robustscope.models.layers import build
from robustscope.models.randomness import kept_randomness
from robustscope.models.zoo import small_cnn
from robustscope.training.cards import ObjectiveCard, Passes, Step, Term
from robustscope.training.loop import train
from robustscope.training.network import Network
from robustscope.training.recipe import Recipe
from robustscope.training.samples import open_samples

RADIUS = {"linf": 0.05, "l2": 0.2, "l1": 0.6, "": 0.05}
CLASSES, COUNT, SIDE = 3, 24, 8
TOLERANCE = 1e-9
EPOCHS = 12


def _threat(norm: str, factor: float = 1.0) -> ThreatModel:
    return ThreatModel(norm or "linf", factor * RADIUS[norm])  # ty: ignore[invalid-argument-type]


def _samples(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return pictures whose class is the place of a bright bar, which noise hides a little."""
    draws = Draws(0, tuple(range(COUNT)), "objectives")
    y = torch.arange(COUNT) % CLASSES
    x = draws.uniform("pictures", torch.empty(COUNT, 1, SIDE, SIDE, dtype=dtype), 0.1, 0.4)
    for row, label in enumerate(y.tolist()):
        x[row, :, :, 2 * label + 1 : 2 * label + 3] += 0.5
    return x, y


def _module(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    with kept_randomness():
        torch.manual_seed(seed)
        return build(small_cnn((1, SIDE, SIDE), CLASSES, width=4)).to(dtype)


def _data() -> Dataset:
    x, y = _samples(torch.float32)
    return from_tensors(x, y)


def _recipe(card: ObjectiveCard, norm: str, **changes: Any) -> Recipe:
    facts: dict[str, Any] = {
        "data": "memory",
        "objective": card.name,
        "parameters": dict(card.quick),
        "threat": f"{norm or 'linf'}:{RADIUS[norm]}",
        "validation": 6,
        "epochs": 4,
        "batch_size": 8,
        "optimizer": "adam",
        "learning_rate": 5e-3,
        "schedule": "flat",
        "weight_decay": 0.0,
        "validation_steps": 2,
        "best_by": "last",
        "model_parameters": {"width": 4},
    }
    return Recipe(**{**facts, **changes})


def _step(card: ObjectiveCard, norm: str, rows: Tensor, count: int) -> Step:
    recipe = _recipe(card, norm)
    made = None
    if card.prepare is not None:
        made = card.prepare(open_samples(recipe, _data(), torch.device("cpu")), card.resolve(card.quick))
    return Step(1, 4, rows, count, COUNT, given=made)


def _terms(
    card: ObjectiveCard,
    norm: str,
    network: Network,
    rows: Tensor,
    *,
    first: bool = True,
    threat: ThreatModel | None = None,
) -> list[Term]:
    """Return the first term, or all of them with each loss sent backward and the weights left as they are."""
    x, y = _samples()
    draws = Draws(0, tuple(rows.tolist()), "contract").within(card.name)
    step = _step(card, norm, torch.arange(len(rows)), len(rows))
    found = card.function(
        network, x[rows], y[rows], threat or _threat(norm), draws=draws, step=step, **card.resolve(card.quick)
    )
    terms = []
    for term in found:
        if not isinstance(term, Term):
            raise _broken(card, f"yielded a {type(term).__name__}", "a Term", "See robustscope.training.cards.")
        if not term.losses.requires_grad:
            raise _broken(card, "yielded losses without a graph", "a graph to the weights", "Detach less.")
        terms.append(term)
        if first:
            found.close()
            break
        term.losses.sum().backward()
        network.settle()
    return terms


def _broken(card: ObjectiveCard, seen: str, allowed: str, remedy: str) -> ContractBroken:
    return ContractBroken(f"the objective {card.name!r} {seen}", f"{allowed} is allowed", remedy)


def yields_losses_of_samples(card: ObjectiveCard, norm: str) -> None:
    """Each term has one finite loss for each sample, with a graph to the weights; the last one updates; notes have none."""
    for count in (COUNT, 1):
        network = Network(_module().train())
        terms = _terms(card, norm, network, torch.arange(count), first=False)
        if not terms or not terms[-1].update:
            raise _broken(
                card, "ended without an update", "a last term with update=True", "Yield the loss that updates."
            )
        for term in terms:
            if term.losses.shape != (count,) or not torch.isfinite(term.losses).all():
                raise _broken(
                    card,
                    f"yielded losses of shape {tuple(term.losses.shape)}",
                    f"({count},) finite numbers",
                    "Leave the mean over the batch to the loop.",
                )
            for name, note in term.notes.items():
                if note.shape != (count,) or note.requires_grad:
                    raise _broken(
                        card, f"noted {name!r} of shape {tuple(note.shape)}", f"({count},), no graph,", "Detach it."
                    )
        if all(weight.grad is None for weight in network.module.parameters()):
            raise _broken(
                card, "left every weight without a gradient", "losses that depend on the weights", "Detach less."
            )


def couples_no_samples(card: ObjectiveCard, norm: str) -> None:
    """The losses of some samples are those that they have among others, in any order."""
    order = torch.arange(COUNT).flip(0)
    whole = _terms(card, norm, Network(_module().train()), torch.arange(COUNT))[0].losses.detach()
    for rows in (order, order[: COUNT // 3], order[-1:]):
        part = _terms(card, norm, Network(_module().train()), rows)[0].losses.detach()
        gap = float((part - whole[rows]).abs().max())
        if gap > TOLERANCE:
            raise _broken(
                card,
                f"gave losses that differ by {gap:.3g} when the batch held other samples",
                "losses of each sample by itself",
                "Draw from draws, and take no mean over the batch.",
            )


def counts_its_rows(card: ObjectiveCard, norm: str) -> None:
    """The ledger, hooks on the network and the card agree on what one visit of a sample costs."""
    network = Network(_module().train())
    seen = {"forward": 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["forward"] += len(inputs[0])

    module = network.module
    handle = module.register_forward_pre_hook(count)
    try:
        _terms(card, norm, network, torch.arange(COUNT), first=False)
    finally:
        handle.remove()
    stated = card.passes({**card.resolve(card.quick), "classes": CLASSES})
    each = Passes(*(n / COUNT for n in vars(network.passes).values()))
    if each != stated:
        raise _broken(
            card, f"counted {each} for each sample", f"{stated}, as its card says,", "Correct one of the two."
        )
    through = seen["forward"] + network.elsewhere_rows
    if not stated.partial and through != COUNT * stated.forward:
        raise _broken(
            card,
            f"sent {through / COUNT:g} rows forward for each sample and counted {stated.forward}",
            "an honest count",
            "Send inputs through Network.logits or Network.input_gradient, or say Network.count.",
        )


def leaves_no_trace(card: ObjectiveCard, norm: str) -> None:
    """Inputs, mode, flags, hooks and weights stay as they were, global generators and the terminal too."""
    x, y = _samples()
    kept = x.clone(), y.clone()
    network = Network(_module().train())
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    draws = Draws(0, tuple(range(COUNT)), "contract")

    step = _step(card, norm, torch.arange(COUNT), COUNT)

    def run() -> None:
        for term in card.function(network, x, y, _threat(norm), draws=draws, step=step, **card.resolve(card.quick)):
            torch.autograd.grad(term.losses.sum(), list(network.module.parameters()), allow_unused=True)

    _, changed = traces(run)
    module = network.module
    found = [
        *changed,
        *(["x"] if not torch.equal(x, kept[0]) else []),
        *(["y"] if not torch.equal(y, kept[1]) else []),
        *(["the mode"] if not all(part.training for part in module.modules()) else []),
        *(["requires_grad"] if not all(weight.requires_grad for weight in module.parameters()) else []),
        *(["hooks"] if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()) else []),
        *(n for n, tensor in module.state_dict().items() if not torch.equal(tensor, before[n])),
    ]
    if found:
        raise _broken(card, f"changed {', '.join(found)}", "leaving everything but the memory as found", "Put it back.")


def fits_a_small_set(card: ObjectiveCard, norm: str) -> None:
    """Trained on two dozen easy pictures it gets most of them right, and its loss falls."""
    trained = train(_recipe(card, norm, epochs=EPOCHS, learning_rate=1e-2), data=_data(), module=_module(torch.float32))
    first, last = trained.history[0]["loss"], trained.history[-1]["loss"]
    x, y = _samples(torch.float32)
    with torch.no_grad():
        right = (trained.module(x).argmax(1) == y).double().mean().item()
    if right < 0.75 or not last < first:
        raise _broken(
            card,
            f"classifies {100 * right:.0f} % of its training set after {EPOCHS} epochs, loss {first:.3g} then {last:.3g}",
            "three quarters and a falling loss",
            "Look at the sign of the loss, and at what the weights get as gradient.",
        )


class _Killed(Exception):
    pass


def resumes_bit_for_bit(card: ObjectiveCard, norm: str) -> None:
    """Two epochs, a kill in the third and resuming give the weights of four epochs undisturbed."""
    recipe, data = _recipe(card, norm), _data()
    whole = train(recipe, data=data, module=_module(torch.float32)).module.state_dict()

    def kill(done: int, total: int) -> None:
        if done == total // 2 + 1:
            raise _Killed

    with tempfile.TemporaryDirectory() as folder:
        with suppress(_Killed):
            train(recipe, folder, data=data, module=_module(torch.float32), progress=kill)
        resumed = train(recipe, folder, data=data, module=_module(torch.float32, seed=1)).module.state_dict()
    worst = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    if worst:
        raise _broken(
            card,
            f"gave other weights ({worst[0]} first) after a kill",
            "the same, bit for bit,",
            "Keep what outlives a batch in step.remember, and draw from draws.",
        )


def is_standard_without_a_threat(card: ObjectiveCard, norm: str) -> None:
    """With epsilon 0 and its neutral parameters it trains as ``standard`` does, bit for bit."""
    if card.neutral is None:
        return
    ends = []
    for name, parameters in ((card.name, {**card.quick, **card.neutral}), ("standard", {})):
        recipe = _recipe(card, norm, objective=name, parameters=parameters, threat=f"{norm or 'linf'}:0", epochs=2)
        ends.append(train(recipe, data=_data(), module=_module(torch.float32)).module.state_dict())
    if any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[1]):
        raise _broken(card, "differs from standard training at epsilon 0", "the same weights", "Or set neutral=None.")


def heeds_the_radius(card: ObjectiveCard, norm: str) -> None:
    """An adversarial objective has higher losses at a larger radius, for some samples at least."""
    if card.kind not in ("adversarial", "certified") or not norm:
        return
    rows = torch.arange(COUNT)
    module = train(
        _recipe(card, norm, objective="standard", parameters={}), data=_data(), module=_module(torch.float32)
    )
    network = Network(module.module.double().train())
    small, large = (
        _terms(card, norm, network, rows, threat=_threat(norm, factor))[0].losses.detach().mean()
        for factor in (0.0, 2.0)
    )
    if not large > small:
        raise _broken(
            card, f"has loss {small:.4g} at radius 0 and {large:.4g} at {2 * RADIUS[norm]:g}", "a higher one", ""
        )


def explains_itself(card: ObjectiveCard, norm: str) -> None:
    """The card is complete, every parameter and error is documented."""
    gaps = [
        gap
        for gap in gaps_of(card.function, {"source": card.source})
        if "'Returns'" not in gap and "'Raises'" not in gap
    ]
    gaps = [gap for gap in gaps if card.kind != "standard" or "'Source'" not in gap]
    card.resolve(card.quick)
    if card.neutral is not None:
        card.resolve(card.neutral)
    if any(not math.isfinite(n) or n < 0 for n in vars(card.passes(card.resolve({}))).values()):
        gaps.append("passes are no counts")
    if gaps:
        raise _broken(card, f"does not explain itself: {'; '.join(sorted(gaps))}", "a complete card and docstring", "")


OBJECTIVE_CHECKS: dict[str, Callable[[ObjectiveCard, str], None]] = {
    check.__name__: check
    for check in (
        yields_losses_of_samples,
        couples_no_samples,
        counts_its_rows,
        leaves_no_trace,
        fits_a_small_set,
        resumes_bit_for_bit,
        is_standard_without_a_threat,
        heeds_the_radius,
        explains_itself,
    )
}


def run_objective_check(name: str, card: ObjectiveCard, norm: str) -> CheckResult:
    """Run one check, with what ``known_failures`` foretells taken into account."""
    return outcome(OBJECTIVE_CHECKS[name], name, card, norm)


def check_objective(card: ObjectiveCard) -> list[CheckResult]:
    """Run all checks on a registered objective, for each norm of its card."""
    return [run_objective_check(name, card, norm) for norm in card.norms or ("",) for name in OBJECTIVE_CHECKS]


__all__ = ["OBJECTIVE_CHECKS", "check_objective", "run_objective_check"]
