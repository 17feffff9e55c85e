"""What every sequence must keep: form, bounds, draws that belong to samples, manners, and frames that change little.

A check is a function of a card and a benchmark, whose constants it takes, that raises :class:`ContractBroken`.
:func:`check_sequence` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

import torch
from torch import Tensor

from robustscope.contracts.broken import ContractBroken
from robustscope.contracts.corruptions import STRAY, blots
from robustscope.contracts.explained import gaps_of
from robustscope.contracts.manners import traces
from robustscope.contracts.runner import CheckResult, outcome
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.corruptions.sequences.cards import Constants, SequenceCard
from robustscope.corruptions.sequences.compose import apply

BENCHMARKS = tuple(name for name in get_args(Constants) if name != "auto")
SIDE, CROP = 24, 16
NEAR = 0.8
"""Most that neighbouring frames may be apart, as a share of frames half a sequence apart."""
EVEN = 0.25
"""Most by which the distances of noisy frames from the first may differ, as a share of their mean."""


def _pictures(card: SequenceCard, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return blots(n, 3 if card.channels is None else max(card.channels), SIDE, dtype)


def _call(
    card: SequenceCard, constants: str, x: Tensor, ids: Iterable[int] | None = None, seed: int = 0, **more: Any
) -> Tensor:
    """Call a sequence as :func:`robustscope.corruptions.sequences.perturb` does."""
    draws = Draws(seed, tuple(range(len(x)) if ids is None else ids))
    return apply(card, x, draws=draws, **_chosen(card, constants), **more)


def _bare(card: SequenceCard, constants: str, x: Tensor) -> Tensor:
    """Call the function itself, for what the door would put right."""
    found = card.function(x, draws=Draws(0, tuple(range(len(x)))), **card.resolve(_chosen(card, constants)))
    if not isinstance(found, Tensor):
        raise _broken(card, f"returned a {type(found).__name__}", "a tensor", "Stack the frames.")
    return found


def _chosen(card: SequenceCard, constants: str) -> dict[str, Any]:
    return {"constants": constants} if "constants" in card.parameters else {}


def _broken(card: SequenceCard, seen: str, allowed: str, remedy: str) -> ContractBroken:
    return ContractBroken(f"the sequence {card.name!r} {seen}", f"{allowed} is allowed", remedy)


def keeps_form(card: SequenceCard, constants: str) -> None:
    """Frames of the shape, dtype and device of the inputs, two or more, finite, no graph; for one sample, none, other strides."""
    for dtype in (torch.float32, torch.float64):
        x = _pictures(card, 2, dtype)
        strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        whole = _bare(card, constants, x)
        frames = whole.shape[1] if whole.dim() == 5 else 0
        several = (x[:1], x[:0], x[..., :CROP], x.clone().requires_grad_()) if dtype == torch.float32 else (x,)
        for given, found in [*((given, _call(card, constants, given)) for given in several), (x, whole)]:
            wrong = [
                *([f"shape {tuple(found.shape)}"] if found.shape != (len(given), frames, *given.shape[1:]) else []),
                *([f"{found.dtype}"] if found.dtype != dtype else []),
                *(["a graph"] if found.requires_grad else []),
                *(["values that are not finite"] if not bool(torch.isfinite(found).all()) else []),
                *([f"{frames} frames"] if frames < 2 else []),
            ]
            if wrong:
                seen = f"returned {', '.join(wrong)} for inputs {tuple(given.shape)} of {dtype}"
                raise _broken(card, seen, "as many frames in the form of each input", "Stack the frames along axis 1.")
        if not torch.equal(_call(card, constants, strided), _call(card, constants, x)):
            raise _broken(card, "gave another result for other strides", "the same", "Use reshape, not view.")


def stays_on_levels(card: SequenceCard, constants: str) -> None:
    """Black, white, one-coloured and other pictures come out as numbers in [0, 1], on 256 levels."""
    x = _pictures(card, 2)
    x = torch.cat([x, torch.zeros_like(x[:1]), torch.ones_like(x[:1]), torch.full_like(x[:1], 0.5)])
    found = _call(card, constants, x)
    inside = bool(((found >= 0) & (found <= 1)).all())
    if not inside or float((found * 255 - (found * 255).round()).abs().max()) > 1e-3:
        seen = f"returned values in [{float(found.min()):.4g}, {float(found.max()):.4g}], or between the levels"
        raise _broken(card, seen, "[0, 1] in steps of 1/255", "Look for a division by the contrast of the picture.")


def draws_belong_to_samples(card: SequenceCard, constants: str) -> None:
    """Each sample alone, and all in another order, come out as in the whole batch; the seed decides, if it is random."""
    x = _pictures(card, 3)
    whole = _call(card, constants, x)
    for rows in (torch.tensor([1]), torch.tensor([2, 0, 1])):
        part = _call(card, constants, x[rows], rows.tolist())
        stray, far = (part != whole[rows]).float().mean(), (part - whole[rows]).abs().max()
        if float(stray) > STRAY or float(far) > 1.5 / 255:
            seen = f"gave other values for samples {rows.tolist()}, by up to {float(far):.3g}"
            raise _broken(card, seen, "the same for each sample", "Draw from `draws`; couple no samples.")
    if not torch.equal(whole, _call(card, constants, x)):
        raise _broken(card, "gave another result the second time", "the same", "Draw from `draws` alone.")
    if torch.equal(_call(card, constants, x, seed=1), whole) == card.stochastic:
        seen = "does not change with the seed" if card.stochastic else "changes with the seed"
        raise _broken(card, f"{seen}, though stochastic={card.stochastic}", "what the card says", "Correct either.")


def leaves_no_trace(card: SequenceCard, constants: str) -> None:
    """Inputs, global generators and the terminal are as before, and what is returned shares no memory with x."""
    x = _pictures(card, 2)
    before = x.clone()
    found, changed = traces(lambda: _call(card, constants, x))
    changed += ["x"] if not torch.equal(before, x) else []
    if changed:
        raise _broken(card, f"changed {', '.join(changed[:4])}", "leaving everything as it was", "Work on copies.")
    if found.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        raise _broken(card, "returned memory of x", "new memory", "Stack the frames.")


def frames_change_as_the_card_says(card: SequenceCard, constants: str) -> None:
    """Noise begins with the picture and is anew, of one strength, in each frame; else neighbours are closer than others."""
    x = _pictures(card, 4)
    found = _call(card, constants, x, rounding="none")
    count = found.shape[1]
    far = (found[:, count // 2 :] - found[:, : count - count // 2]).abs().mean()
    near = (found[:, 1:] - found[:, :-1]).abs().mean()
    if not float(near) > 0:
        raise _broken(card, "has frames that are all the same", "frames that change", "Let the frame decide.")
    if not card.noise:
        if float(near) > NEAR * float(far):
            seen = f"has neighbours {float(near):.3g} apart, and {float(far):.3g} half a sequence apart"
            raise _broken(card, seen, f"at most {NEAR} of that", "Set noise=True for noise, or make smaller steps.")
        return
    if not torch.equal(found[:, 0], x):
        raise _broken(card, "is noise and begins with another picture", "x itself", "Use compose.clean_first.")
    away = (found[:, 1:] - x[:, None]).abs().mean((0, 2, 3, 4))
    if float((away.max() - away.min()) / away.mean()) > EVEN or float(near) < float(away.mean()):
        seen = f"is noise of mean size {float(away.min()):.3g} to {float(away.max()):.3g}, neighbours {float(near):.3g} apart"
        raise _broken(card, seen, "noise of one size, independent in each frame", "Put the frame into the purpose.")


def shows_what_lies_beyond(card: SequenceCard, constants: str) -> None:
    """With context, what lies beyond the crop moves in; without, it decides nothing."""
    x = _pictures(card, 2)
    inside = (SIDE - CROP) // 2
    other = torch.zeros_like(x)
    middle = slice(inside, inside + CROP)
    other[..., middle, middle] = x[..., middle, middle]
    shown, hidden = (_call(card, constants, given, crop=CROP) for given in (x, other))
    if torch.equal(shown, hidden) == card.context:
        seen = "never shows what lies beyond the crop" if card.context else "shows what lies beyond the crop"
        raise _broken(card, f"{seen}, though context={card.context}", "what the card says", "Correct either.")


def refuses_other_constants(card: SequenceCard, constants: str) -> None:
    """Constants that there are not are refused by an error that names them."""
    x = _pictures(card, 1)
    try:
        apply(card, x, draws=Draws(0, (0,)), constants="imagenet-c")
    except InvalidValue as error:
        if "constants" in str(error):
            return
        raise _broken(card, f"refused constants without naming them: {error}", "naming them", "") from error
    raise _broken(card, "took constants='imagenet-c'", f"one of {BENCHMARKS}", "Use cards.constant.")


def explains_itself(card: SequenceCard, constants: str) -> None:
    """The card is complete, every parameter and every error is documented."""
    gaps = gaps_of(card.function, {"source": card.source, "bibtex": card.bibtex})
    if "constants" not in card.parameters:
        gaps.append("it takes no constants")
    if gaps:
        raise _broken(card, f"does not explain itself: {'; '.join(sorted(gaps))}", "a complete card and docstring", "")


SEQUENCE_CHECKS: dict[str, Callable[[SequenceCard, str], None]] = {
    check.__name__: check
    for check in (
        keeps_form,
        stays_on_levels,
        draws_belong_to_samples,
        leaves_no_trace,
        frames_change_as_the_card_says,
        shows_what_lies_beyond,
        refuses_other_constants,
        explains_itself,
    )
}


def check_sequence(card: SequenceCard, constants: Iterable[str] = BENCHMARKS) -> list[CheckResult]:
    """Run all checks on a sequence; an exception of any kind is a failure with its reason.

    Args:
        card: of the sequence, registered or not.
        constants: benchmarks whose constants to take.
    """
    return [run_sequence_check(name, card, benchmark) for benchmark in constants for name in SEQUENCE_CHECKS]


def run_sequence_check(name: str, card: SequenceCard, constants: str) -> CheckResult:
    """Run one check, with what ``known_failures`` foretells taken into account."""
    return outcome(SEQUENCE_CHECKS[name], name, card, constants)
