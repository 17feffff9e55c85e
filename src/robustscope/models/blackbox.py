"""Models of which only the answers are seen: any Python callable, with a limit of queries that is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscope.core.errors import InvalidType, InvalidValue, ModelError, QueryLimitReached
from robustscope.models.fingerprints import fingerprint, source_text

Answers = Literal["scores", "probabilities", "labels"]
Access = Literal["gradients", "scores", "decisions"]


class BlackBox(nn.Module):
    """A callable as a model: it is asked, and nothing else is known of it.

    Give it to :class:`Classifier`, to ``evaluate``, or return it from a function in a Python file. It always is in
    evaluation mode, has no weights and no gradients.

    Args:
        function: takes (B, *S), B >= 1, and returns what ``answers`` says, as a tensor or as a NumPy array. It gets a
            copy that it may not edit.
        num_classes: K, >= 2.
        answers: "scores" (B, K), larger for likelier classes; "probabilities" (B, K), whose logarithms become the
            logits; or "labels", integers (B,) in [0, K), which become one-hot logits.
        numpy: whether ``function`` takes a NumPy array instead of a tensor.
        query_limit: most rows that may ever be sent, by whomever, in this process; None for no limit. A batch that
            would exceed it is not sent at all.
        description: which model answers, such as its name and version. It is part of the fingerprint; what stands
            behind ``function`` on another machine cannot be.

    Raises:
        InvalidType: if ``function`` cannot be called.
        InvalidValue: for any other argument that is not allowed.

    Example:
        >>> def brightness(x):
        ...     return (x.flatten(1).mean(1) > 0.5).long()
        >>> box = BlackBox(brightness, num_classes=2, answers="labels")
        >>> box(torch.ones(1, 3))
        tensor([[0., 1.]])
        >>> box.asked
        1
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        num_classes: int,
        answers: Answers = "scores",
        numpy: bool = False,
        query_limit: int | None = None,
        description: str = "",
    ) -> None:
        super().__init__()
        if not callable(function):
            raise InvalidType(
                f"a {type(function).__name__} was given as the black box",
                "a callable is allowed",
                "Pass a function that takes a batch of inputs and returns one answer for each.",
            )
        if isinstance(function, nn.Module) and any(module.training for module in function.modules()):
            raise InvalidValue(
                "the network behind the black box is in training mode",
                "evaluation mode is allowed",
                "Call model.eval() first.",
            )
        _whole("num_classes", num_classes, 2)
        if query_limit is not None:
            _whole("query_limit", query_limit, 1)
        if answers not in get_args(Answers):
            raise InvalidValue(
                f"answers={answers!r} was given", f"one of {get_args(Answers)} is allowed", "Say what is returned."
            )
        self.num_classes, self.answers, self.numpy, self.description = num_classes, answers, numpy, str(description)
        self.text = _text(function)
        # In a tuple, for torch would take a network for a part of this one; the limit is no part of the fingerprint.
        self._function, self._query_limit, self._asked = (function,), query_limit, 0
        self.eval()

    @property
    def query_limit(self) -> int | None:
        """Most rows that may ever be sent; None for no limit."""
        return self._query_limit

    @property
    def asked(self) -> int:
        """Rows sent so far, by whomever."""
        return self._asked

    def train(self, mode: bool = True) -> BlackBox:
        """Stay in evaluation mode: the mode of what stands behind the callable is its own."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers for ``x`` (B, *S) as logits (B, K), without a graph.

        Raises:
            QueryLimitReached: if these rows would exceed the limit; then none is sent.
            ModelError: if the callable raises, edits its input, or returns something else than it was declared to.
        """
        if not len(x):
            return x.new_empty(0, self.num_classes)
        if self._query_limit is not None and self._asked + len(x) > self._query_limit:
            raise QueryLimitReached(
                f"{len(x)} rows were to be sent to a black box that has answered {self._asked}",
                f"query_limit={self._query_limit} rows are allowed",
                "Raise query_limit, or attack fewer samples with smaller budgets (queries=).",
            )
        self._asked += len(x)
        with torch.no_grad():
            answer = self._tensor(self._ask(x.detach()), x)
            return {"scores": self._scores, "probabilities": self._log, "labels": self._one_hot}[self.answers](
                answer, x
            )

    def _ask(self, x: Tensor) -> Any:
        given: Any = x.cpu().numpy().copy() if self.numpy else x.clone()
        try:
            answer = self._function[0](given)
        except Exception as error:
            raise ModelError(
                f"the black box raised {type(error).__name__} on {self._kind()} of shape {tuple(x.shape)} and {x.dtype}: "
                f"{error}",
                "a callable that answers every batch is allowed",
                "Call it yourself on such a batch; numpy=True hands over a NumPy array instead of a tensor.",
            ) from error
        same = np.array_equal(given, x.cpu().numpy()) if self.numpy else torch.equal(given, x)
        if not same:
            raise ModelError(
                "the black box edited its input in place",
                "reading it is allowed",
                "Work on a copy: x = x.copy() for arrays, x = x.clone() for tensors.",
            )
        return answer

    def _kind(self) -> str:
        return "a NumPy array" if self.numpy else "a tensor"

    def _tensor(self, answer: Any, x: Tensor) -> Tensor:
        """Return an answer of the declared shape as a tensor where ``x`` is."""
        if not isinstance(answer, (Tensor, np.ndarray)):
            raise ModelError(
                f"the black box returned a {type(answer).__name__}",
                "a tensor or a NumPy array is allowed",
                "Stack the answers: one row of scores, or one label, for each input.",
            )
        if isinstance(answer, np.ndarray) and answer.dtype.kind not in "fiub":
            raise ModelError(
                f"the black box returned an array of {answer.dtype}",
                "numbers are allowed",
                "Turn names of classes into their positions first.",
            )
        labels = self.answers == "labels"
        due = (len(x),) if labels else (len(x), self.num_classes)
        if tuple(answer.shape) != due:
            other = (len(x), self.num_classes) if labels else (len(x),)
            hint = f"Say answers={'scores' if labels else 'labels'!r}." if tuple(answer.shape) == other else ""
            raise ModelError(
                f"the black box returned shape {tuple(answer.shape)} for {len(x)} inputs",
                f"shape {due} is allowed for answers={self.answers!r} and num_classes={self.num_classes}",
                hint or "Return one answer for each input, in their order.",
            )
        # A copy, for the callable may go on using its own memory.
        return torch.as_tensor(answer).detach().to(x.device, copy=True)

    def _scores(self, answer: Tensor, x: Tensor) -> Tensor:
        scores = answer if answer.is_floating_point() else answer.to(x.dtype)
        if not torch.isfinite(scores).all():
            rows = int((~torch.isfinite(scores)).any(1).sum())
            raise ModelError(
                f"the black box returned NaN or infinite values for {rows} of {len(x)} inputs",
                "finite scores are allowed",
                "Look at what it returns for extreme inputs; an attack cannot judge such answers.",
            )
        return scores

    def _log(self, answer: Tensor, x: Tensor) -> Tensor:
        chances = self._scores(answer, x)
        gap = (chances.sum(1) - 1).abs().max().item()
        if bool((chances < 0).any()) or gap > 1e-3:
            raise ModelError(
                f"the black box returned values from {chances.min().item():.4g} whose rows miss the sum of 1 by up to "
                f"{gap:.4g}",
                "probabilities are allowed for answers='probabilities'",
                "Say answers='scores' if they are none.",
            )
        return chances.clamp(min=torch.finfo(chances.dtype).tiny).log()

    def _one_hot(self, answer: Tensor, x: Tensor) -> Tensor:
        if answer.is_floating_point() or answer.dtype == torch.bool:
            raise ModelError(
                f"the black box returned labels of {answer.dtype}",
                "integers are allowed for answers='labels'",
                "Return the position of the predicted class, e.g. scores.argmax(1).",
            )
        low, high = int(answer.min()), int(answer.max())
        if low < 0 or high >= self.num_classes:
            raise ModelError(
                f"the black box returned labels from {low} to {high}",
                f"0 to {self.num_classes - 1} are allowed for num_classes={self.num_classes}",
                "Number the classes from 0.",
            )
        return F.one_hot(answer.long(), self.num_classes).to(x.dtype)


def parts_of(module: nn.Module) -> list[nn.Module]:
    """Return a network and all modules inside it, a shared one as often as it is held.

    ``module.modules()`` also makes up names and weeds out repeats, which takes five times as long: too long for
    something that is asked at every step of an attack.
    """
    found = [module]
    for part in found:  # grows while it is walked
        found.extend(inner for inner in part._modules.values() if inner is not None)
    return found


def access_of(module: nn.Module) -> Access:
    """Return the most that may be asked of a network; black boxes anywhere inside it limit what it can give."""
    boxes = [part for part in parts_of(module) if isinstance(part, BlackBox)]
    if any(box.answers == "labels" for box in boxes):
        return "decisions"
    return "scores" if boxes else "gradients"


def limit_of(module: nn.Module) -> int | None:
    """Return the smallest query limit of the black boxes inside a network, or None."""
    limits = [part.query_limit for part in module.modules() if isinstance(part, BlackBox)]
    return min((limit for limit in limits if limit is not None), default=None)


def require_gradients(module: nn.Module) -> None:
    """Refuse to differentiate a black box.

    Raises:
        InvalidValue: saying what may be asked instead.
    """
    access = access_of(module)
    if access != "gradients":
        raise InvalidValue(
            "a gradient was asked of a black-box model",
            f"its {'labels' if access == 'decisions' else 'scores and decisions'} are allowed",
            "Use an attack that needs no gradients; `robustscope list` shows the access of each.",
        )


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidValue(f"{name}={value!r} was given", f"an integer >= {least} is allowed", f"Correct {name}.")


def _text(function: Any) -> str:
    """Return what can be known of a callable, for the fingerprint: its source text, or the weights of a network."""
    if isinstance(function, nn.Module):
        return fingerprint(function)
    if isinstance(function, functools.partial):
        return f"{_text(function.func)}|{function.args!r}|{sorted(function.keywords.items())!r}"
    if isinstance(function, MethodType):
        return f"{type(function.__self__).__qualname__}|{_text(function.__func__)}"
    if isinstance(function, FunctionType):
        return source_text(function)
    call = vars(type(function)).get("__call__")
    own = source_text(call) if isinstance(call, FunctionType) else ""
    return f"{getattr(function, '__qualname__', type(function).__qualname__)}|{own}"
