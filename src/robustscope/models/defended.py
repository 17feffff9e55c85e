"""Networks behind a transformation, or with noise of their own: what is deployed, and which gradient an attack sees.

A defended network is two things. *The deployed classifier* decides: its logits are the mean over a fixed, numbered set
of draws, the same numbers for every input, so that it is a function of its input alone and one lucky draw never makes
an example adversarial. *The gradient* belongs to the attack: it goes through an approximation where the transformation
has none of its own (BPDA), and is the mean over draws that the deployed classifier does not use (EOT). Both are put
into one module whose values are those of the first and whose derivatives are those of the second, so that every attack
and the judge can use it as they use any other network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustscope.core.draws import Draws, key
from robustscope.core.errors import InvalidType, InvalidValue, ModelError
from robustscope.core.types import Ledger
from robustscope.models.classifier import Classifier
from robustscope.models.randomness import kept_randomness

Average = Literal["logits", "probabilities"]
Function = Callable[..., Tensor]


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, approximation: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, gradients[0]


def replaced(value: Tensor, approximation: Tensor) -> Tensor:
    """Return ``value`` exactly, with the derivatives of ``approximation``.

    Args:
        value: any shape, its own graph is ignored.
        approximation: of the same shape and dtype.

    Raises:
        ModelError: if shape or dtype differ.

    Example:
        >>> x = torch.tensor([0.3], requires_grad=True)
        >>> replaced(x.round(), 2 * x).backward()
        >>> x.grad
        tensor([2.])

    Source: Athalye, Carlini, Wagner 2018, arXiv:1802.00420, Sec. 4.1 (backward pass differentiable approximation).
    """
    if value.shape != approximation.shape or value.dtype != approximation.dtype:
        raise ModelError(
            f"the transformation returned {tuple(value.shape)}, {value.dtype}, and its backward approximation "
            f"{tuple(approximation.shape)}, {approximation.dtype}",
            "an approximation of the same form is allowed",
            "Give a surrogate function as backward=, and end both with .to(x).",
        )
    return _Replaced.apply(value.detach(), approximation)


@dataclass(frozen=True)
class Transformation:
    """What stands in front of a network: any function of its inputs, with a declared derivative.

    Args:
        name: part of the scope of its random numbers.
        function: ``(x (B, *S)) -> (B, *T)``, or ``(x, draws)`` if it is stochastic; it may leave torch on its way.
            All randomness comes from ``draws``, which hold one id for each row.
        stochastic: whether it draws random numbers.
        backward: how gradients pass: "exact" (autograd through ``function``), "identity" (as if it did nothing; needs
            equal shapes), or a differentiable function that is called as ``function`` is.
        facts: text that decides what it computes; enters the fingerprint of the defended model.

    Example:
        >>> halves = Transformation("halves", lambda x: (x * 2).round() / 2)
        >>> halves.apply(torch.tensor([[0.3, 0.8]]))
        tensor([[0.5000, 1.0000]])
    """

    name: str
    function: Function
    stochastic: bool = False
    backward: Literal["exact", "identity"] | Function = "identity"
    facts: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InvalidType(
                f"function={self.function!r} was given", "a function of the inputs is allowed", "Pass the function."
            )
        if not callable(self.backward) and self.backward not in ("exact", "identity"):
            raise InvalidValue(
                f"backward={self.backward!r} was given",
                "'exact', 'identity' or a differentiable function is allowed",
                "Say 'exact' where autograd works through the function, 'identity' where its output resembles its input.",
            )

    def apply(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Return the transformed inputs (B, *T).

        Args:
            x: (B, *S).
            draws: random numbers of these rows; needed if it is stochastic.

        Raises:
            InvalidValue: for a stochastic transformation without draws.
        """
        return self._call(self.function, x, draws)

    def through(self, x: Tensor, draws: Draws, approximate: bool = True) -> Tensor:
        """Return the transformed inputs with the declared derivative, or with the function's own."""
        if self.backward == "exact" or not approximate:
            return self.apply(x, draws)
        with torch.no_grad():
            value = self.apply(x, draws)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        return replaced(value, self._call(self.backward, x, draws) if callable(self.backward) else x)

    def _call(self, function: Function, x: Tensor, draws: Draws | None) -> Tensor:
        if not self.stochastic:
            return function(x)
        if draws is None:
            raise InvalidValue(
                f"the stochastic transformation {self.name!r} was applied without draws",
                "draws with one id for each row are allowed",
                "Write draws=Draws(seed, sample_ids).",
            )
        return function(x, draws.within(self.name))


class Expected(nn.Module):
    """The mean over numbered draws of something that draws; base of the modules below.

    Args:
        door: the classifier inside, whose normalisation and checks are kept.
        stochastic: whether there is anything to average.
        scope: of the random numbers.
        verdict_draws: draws whose mean is the deployed classifier; numbered, the same for every input.
        gradient_draws: draws whose mean the gradient is; none of them is among the first.
        average: "logits", or "probabilities" (logits are then logarithms of mean probabilities).
        seed: of both sets of draws.
    """

    def __init__(
        self,
        door: Classifier,
        stochastic: bool,
        scope: str,
        *,
        verdict_draws: int,
        gradient_draws: int,
        average: Average,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value in (("verdict_draws", verdict_draws), ("gradient_draws", gradient_draws)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidValue(f"{name}={value!r} was given", "an integer >= 1 is allowed", f"Correct {name}.")
        if average not in ("logits", "probabilities"):
            raise InvalidValue(
                f"average={average!r} was given", "'logits' or 'probabilities' is allowed", "Choose one of them."
            )
        self._door, self.network = door, door.module
        # Plain attributes enter the fingerprint of the model.
        self.mean, self.std, self.bounds = door.mean, door.std, tuple(door.bounds)
        self.stochastic, self.scope, self.seed, self.average = stochastic, scope, seed, average
        self.verdict_draws, self.gradient_draws = verdict_draws, gradient_draws
        self.eval()

    def once(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the logits (B, K) of one draw for each row."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the deployed classifier; their derivatives are those of the attack's draws."""
        if not self.stochastic:
            return self.once(x, self._draws(x, "verdict", 0))
        with torch.no_grad():
            value = self._mean(x, "verdict", self.verdict_draws)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        return replaced(value, self._mean(x, "gradient", self.gradient_draws))

    def _draws(self, x: Tensor, purpose: str, number: int) -> Draws:
        """Random numbers of one draw: the number of the draw stands where the sample id would stand."""
        return Draws(self.seed, (number,) * len(x), f"{self.scope}/{purpose}")

    def _mean(self, x: Tensor, purpose: str, count: int) -> Tensor:
        seen = [self.once(x, self._draws(x, purpose, number)) for number in range(count)]
        if self.average == "logits":
            return torch.stack(seen).mean(0)
        return torch.logsumexp(torch.stack([logits.log_softmax(1) for logits in seen]), 0) - math.log(count)


class Defended(Expected):
    """A network behind a transformation; see :func:`defend`."""

    def __init__(self, door: Classifier, transformation: Transformation, approximate: bool, **options: Any) -> None:
        super().__init__(door, transformation.stochastic, f"defended/{transformation.name}", **options)
        self._transformation = transformation
        self.function, self.backward, self.facts = (
            transformation.function,
            transformation.backward,
            transformation.facts,
        )
        self.approximate = approximate

    def once(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the logits of the transformed inputs."""
        return self._door._outputs(self._transformation.through(x, draws, self.approximate))


class Randomised(Expected):
    """A network that calls the global random generators in its forward; see :func:`randomised`."""

    def __init__(self, door: Classifier, **options: Any) -> None:
        super().__init__(door, True, "randomised", **options)

    def once(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the logits of one draw, row by row: a whole batch would give each row numbers by its position."""
        seen = []
        with kept_randomness():
            for i, number in enumerate(draws.ids):
                _start_generators(key(draws.seed, draws.scope, "network", number))
                seen.append(self._door._outputs(x[i : i + 1]))
            return torch.cat(seen) if seen else self._door._outputs(x)


def _start_generators(number: int) -> None:
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002
    torch.manual_seed(number)


def defend(
    model: Classifier,
    transformation: Transformation,
    *,
    verdict_draws: int = 32,
    gradient_draws: int = 1,
    approximate: bool = True,
    average: Average = "logits",
    seed: int = 0,
) -> Classifier:
    """Return the classifier that consists of a transformation and a network, with the gradient that an attack is to see.

    Classifiers that differ in ``gradient_draws`` and ``approximate`` alone decide alike: these two say how an attack
    looks at the defence, not what it is.

    Args:
        model: the network; its normalisation comes after the transformation.
        transformation: what stands in front, in the space and the bounds of the inputs.
        verdict_draws: draws of a stochastic transformation whose mean decides, >= 1.
        gradient_draws: draws whose mean the gradient is, >= 1; more than one is EOT.
        approximate: pass gradients through the declared approximation (BPDA); False asks autograd for the function's
            own, which may not exist.
        average: what is averaged, "logits" or "probabilities".
        seed: of the draws.

    Returns:
        A classifier with a ledger of its own, in which one row is one question to the whole defence: for a stochastic
        one ``verdict_draws`` passes through the network, and ``gradient_draws`` more with a gradient.

    Raises:
        InvalidValue: for counts below one.

    Example:
        >>> model = Classifier(nn.Linear(4, 3).eval())
        >>> guarded = defend(model, Transformation("round", lambda x: (x * 3).round() / 3))
        >>> x = torch.rand(2, 4)
        >>> bool((guarded.logits(x) == model.logits((x * 3).round() / 3)).all())
        True

    Source: Athalye, Carlini, Wagner 2018, arXiv:1802.00420, Sec. 4; EOT: Athalye, Engstrom, Ilyas, Kwok 2018,
        arXiv:1707.07397, Sec. 2.
    """
    options = {"gradient_draws": gradient_draws, "average": average, "seed": seed}
    module = Defended(model, transformation, approximate, verdict_draws=verdict_draws, **options)
    return replace(model, module=module, mean=None, std=None, ledger=Ledger())


def randomised(
    model: Classifier,
    *,
    verdict_draws: int = 32,
    gradient_draws: int = 1,
    average: Average = "logits",
    seed: int = 0,
) -> Classifier:
    """Return a network that draws its own random numbers as a classifier that is a function of its input.

    For modules that call ``torch.randn``, dropout or NumPy's generator in their forward. Each draw starts the global
    generators from a number of its own and puts them back afterwards; rows go through one by one, since in a batch
    the numbers of a row would depend on its position. A network that takes its noise from outside is better written
    as a :class:`Transformation` or with :class:`robustscope.core.draws.Draws`, and then runs in batches.

    Args:
        model: the network.
        verdict_draws: draws whose mean decides, >= 1.
        gradient_draws: draws whose mean the gradient is, >= 1.
        average: what is averaged, "logits" or "probabilities".
        seed: of the draws.

    Raises:
        InvalidValue: for counts below one.
    """
    module = Randomised(model, verdict_draws=verdict_draws, gradient_draws=gradient_draws, average=average, seed=seed)
    return replace(model, module=module, mean=None, std=None, ledger=Ledger())
