"""What every corruption must keep: form, bounds, draws that belong to samples, manners, and an order of severities.

A check is a function of a card and a benchmark, whose constants it takes, that raises :class:`ContractBroken`.
:func:`check_corruption` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional

from robustscope.contracts.broken import ContractBroken
from robustscope.contracts.explained import gaps_of
from robustscope.contracts.manners import traces
from robustscope.contracts.runner import CheckResult, outcome
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.corruptions.cards import CorruptionCard, Family
from robustscope.corruptions.compose import apply

STRAY = 0.002
"""Share of values that may fall on the next of 256 levels in a batch of another size, where a sum is rounded otherwise."""


SIDES = {"imagenet-c": 224, "tiny-imagenet-c": 64, "cifar-10-c": 32, "mnist-c": 28}


def _pictures(
    card: CorruptionCard, constants: str, n: int, dtype: torch.dtype = torch.float32, side: int | None = None
) -> Tensor:
    """Return :func:`blots` of a benchmark's channels: (n, C, H, W), small unless a side is asked for."""
    grey = constants == "mnist-c" and (card.channels is None or 1 in card.channels)
    channels = 1 if grey else 3 if card.channels is None else max(card.channels)
    return blots(n, channels, side or min(SIDES[constants], 32), dtype)


def blots(n: int, channels: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return pictures of coloured blots with edges, on 256 levels: (n, channels, side, side)."""
    draws = Draws(0, tuple(range(n)), "pictures")
    coarse = draws.uniform("coarse", torch.empty(n, channels, 5, 5), 0.0, 1.0)
    fine = draws.uniform("fine", torch.empty(n, channels, 14, 14), -0.2, 0.2)
    smooth, details = (functional.interpolate(part, (side, side), mode="bilinear") for part in (coarse, fine))
    x = torch.where(smooth > 0.6, 0.2, 0.0) + smooth + details
    x = x + draws.uniform("grain", torch.empty(n, channels, side, side), -0.08, 0.08)
    return x.clamp(0, 1).mul(255).round().div(255).to(dtype)


def _call(
    card: CorruptionCard,
    constants: str,
    x: Tensor,
    severity: int = 1,
    ids: Iterable[int] | None = None,
    seed: int = 0,
    **more: Any,
) -> Tensor:
    """Call a corruption as :func:`robustscope.corruptions.corrupt` does, with its quick parameters."""
    draws = Draws(seed, tuple(range(len(x)) if ids is None else ids))
    found = apply(card, x, severity, draws=draws, **_chosen(card, constants), **more)
    if not isinstance(found, Tensor):
        raise _broken(card, f"returned a {type(found).__name__}", "a tensor", "Return pictures (B, C, H, W).")
    return found


def _bare(card: CorruptionCard, constants: str, x: Tensor, severity: int) -> Tensor:
    """Call the function itself, for what the door would put right."""
    chosen = card.resolve(_chosen(card, constants))
    return card.function(x, severity, draws=Draws(0, tuple(range(len(x)))), **chosen)


def _chosen(card: CorruptionCard, constants: str) -> dict[str, Any]:
    """Return the quick parameters, with the benchmark where the corruption takes one."""
    return {**({"constants": constants} if "constants" in card.parameters else {}), **card.quick}


def _broken(card: CorruptionCard, seen: str, allowed: str, remedy: str) -> ContractBroken:
    return ContractBroken(f"the corruption {card.name!r} {seen}", f"{allowed} is allowed", remedy)


def keeps_form(card: CorruptionCard, constants: str) -> None:
    """Shape, dtype and device of the inputs, finite, no graph; also for one sample, none, and other strides or sides."""
    for dtype in (torch.float32, torch.float64):
        x = _pictures(card, constants, 3, dtype)
        strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        several = (x, x[:1], x[:0], strided, x[..., :20], x.clone().requires_grad_())
        for given, call in [*((given, _call) for given in several), (x, _bare), (x[:1], _bare)]:
            for severity in (1, card.severities):
                found = call(card, constants, given, severity)
                wrong = [
                    *([f"shape {tuple(found.shape)}"] if found.shape != given.shape else []),
                    *([f"{found.dtype}"] if found.dtype != dtype else []),
                    *(["a graph"] if found.requires_grad else []),
                    *(["values that are not finite"] if not bool(torch.isfinite(found).all()) else []),
                ]
                if wrong:
                    seen = f"returned {', '.join(wrong)} for inputs {tuple(given.shape)} of {dtype}"
                    raise _broken(card, seen, "the form of the inputs", "Create tensors with x.new_* or like=.")
        if not torch.equal(_call(card, constants, strided), _call(card, constants, x)):
            raise _broken(card, "gave another result for other strides", "the same", "Use reshape, not view.")


def stays_in_bounds(card: CorruptionCard, constants: str) -> None:
    """What the function itself returns lies in [0, 1], also for black, white and one-coloured pictures."""
    x = _pictures(card, constants, 4)
    x = torch.cat([x, torch.zeros_like(x[:1]), torch.ones_like(x[:1]), torch.full_like(x[:1], 0.5)])
    for severity in range(1, card.severities + 1):
        found = _bare(card, constants, x, severity)
        if not bool(((found >= -1e-6) & (found <= 1 + 1e-6)).all()):
            seen = f"returned values in [{float(found.min()):.4g}, {float(found.max()):.4g}] at severity {severity}"
            raise _broken(card, seen, "[0, 1]", "Clip the result.")


def draws_belong_to_samples(card: CorruptionCard, constants: str) -> None:
    """Each sample alone, and all in another order, come out as in the whole batch; the seed decides, if it is random."""
    x, n = _pictures(card, constants, 6), 6
    for severity in {1, card.severities}:
        whole = _call(card, constants, x, severity)
        for rows in (*torch.arange(n).split(1), torch.tensor([4, 1, 5, 0, 3, 2])):
            part = _call(card, constants, x[rows], severity, rows.tolist())
            stray = (part != whole[rows]).float().mean()
            far = (part - whole[rows]).abs().max()
            if float(stray) > STRAY or float(far) > 1.5 / 255:
                seen = (
                    f"gave other values for samples {rows.tolist()} at severity {severity}, by up to {float(far):.3g}"
                )
                raise _broken(card, seen, "the same for each sample", "Draw from `draws`; couple no samples.")
        if not torch.equal(whole, _call(card, constants, x, severity)):
            raise _broken(card, "gave another result the second time", "the same", "Draw from `draws` alone.")
    other = _call(card, constants, x, card.severities, seed=1)
    if torch.equal(other, whole) == card.stochastic:
        seen = "does not change with the seed" if card.stochastic else "changes with the seed"
        raise _broken(card, f"{seen}, though stochastic={card.stochastic}", "what the card says", "Correct either.")


def leaves_no_trace(card: CorruptionCard, constants: str) -> None:
    """Inputs, global generators and the terminal are as before, and what is returned shares no memory with x."""
    x = _pictures(card, constants, 3)
    before = x.clone()
    found, changed = traces(lambda: _call(card, constants, x, card.severities))
    changed += ["x"] if not torch.equal(before, x) else []
    if changed:
        raise _broken(card, f"changed {', '.join(changed[:4])}", "leaving everything as it was", "Work on copies.")
    if found.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        raise _broken(card, "returned memory of x", "new memory", "Return x.clone() where nothing changes.")


def grows_with_severity(card: CorruptionCard, constants: str) -> None:
    """The mean l2 distance from clean pictures of the benchmark's size never falls by more than 1 %."""
    side = SIDES[constants]
    x = _pictures(card, constants, 6 if side > 64 else 24, side=side)
    distances = [
        float((_call(card, constants, x, severity) - x).flatten(1).norm(dim=1).mean())
        for severity in range(1, card.severities + 1)
    ]
    if distances[0] <= 0 or any(later < 0.99 * earlier for earlier, later in pairwise(distances)):
        listed = ", ".join(f"{distance:.3f}" for distance in distances)
        raise _broken(card, f"has the mean distances {listed}", "an increasing order above 0", "Check the constants.")


def refuses_other_severities(card: CorruptionCard, constants: str) -> None:
    """Severities that there are not are refused by an error that names them."""
    x = _pictures(card, constants, 1)
    for severity in (0, card.severities + 1, 1.5, True):
        try:
            _call(card, constants, x, severity)  # ty: ignore[invalid-argument-type]
        except InvalidValue as error:
            if "severity" in str(error):
                continue
            raise _broken(card, f"refused a severity without naming it: {error}", "naming it", "") from error
        raise _broken(card, f"took severity={severity!r}", "1 to the card's largest", "Use tables.check_severity.")


def explains_itself(card: CorruptionCard, constants: str) -> None:
    """The card is complete, every parameter and every error is documented."""
    gaps = gaps_of(card.function, {"source": card.source, "bibtex": card.bibtex, "constants": card.constants})
    if card.family not in get_args(Family):
        gaps.append(f"family={card.family!r}")
    card.resolve(card.quick)
    if gaps:
        raise _broken(card, f"does not explain itself: {'; '.join(sorted(gaps))}", "a complete card and docstring", "")


CORRUPTION_CHECKS: dict[str, Callable[[CorruptionCard, str], None]] = {
    check.__name__: check
    for check in (
        keeps_form,
        stays_in_bounds,
        draws_belong_to_samples,
        leaves_no_trace,
        grows_with_severity,
        refuses_other_severities,
        explains_itself,
    )
}


def check_corruption(card: CorruptionCard, constants: Iterable[str] | None = None) -> list[CheckResult]:
    """Run all checks on a corruption; an exception of any kind is a failure with its reason.

    Args:
        card: of the corruption, registered or not.
        constants: benchmarks whose constants to take, among those of the card; None takes all.
    """
    return [
        run_corruption_check(name, card, benchmark)
        for benchmark in (card.constants if constants is None else constants)
        for name in CORRUPTION_CHECKS
    ]


def run_corruption_check(name: str, card: CorruptionCard, constants: str) -> CheckResult:
    """Run one check, with what ``known_failures`` foretells taken into account."""
    return outcome(CORRUPTION_CHECKS[name], name, card, constants)
