"""The one door to a network: normalises inside, counts rows, checks what comes out, edits nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustscope.core.errors import InvalidType, InvalidValue, ModelError, QueryLimitReached, RobustscopeError
from robustscope.core.types import Bounds, Ledger
from robustscope.models.batches import Batches, out_of_memory
from robustscope.models.blackbox import Access, BlackBox, access_of, parts_of, require_gradients
from robustscope.models.outputs import all_finite, looks_like_probabilities

Scores = Callable[[Tensor, Tensor], Tensor]


def normalise(x: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Tensor:
    """Return (x - mean) / std for each channel of ``x`` (B, C, ...); ``x`` itself where both are None."""
    if mean is None or std is None:
        return x
    shape = (1, -1, *([1] * (x.dim() - 2)))
    return (x - x.new_tensor(mean).view(shape)).div_(x.new_tensor(std).view(shape))


@dataclass(frozen=True)
class Classifier:
    """A network that returns logits, with everything an attack must know about its inputs.

    Args:
        module: maps (B, *S) to logits (B, K); in evaluation mode. Its weights, mode, gradients and hooks are never
            changed, and it is never moved.
        bounds: valid range of the inputs, before normalisation.
        mean, std: per-channel normalisation done here, ``(x - mean) / std``; None when the module does its own.
        class_names: one name for each class, or None.
        batch_size: most rows sent at once, fewer once memory has run out; larger inputs are cut here and packed again.
        allow_probabilities: accept outputs that look like softmax probabilities.
        ledger: counts rows forward and backward.

    Raises:
        InvalidType: if ``module`` is not a torch module or its inputs are not floating point.
        InvalidValue: for training mode, NaN weights, or mean and std that do not fit.

    Example:
        >>> model = Classifier(nn.Linear(4, 3).eval())
        >>> model.logits(torch.rand(2, 4)).shape
        torch.Size([2, 3])
    """

    module: nn.Module
    bounds: Bounds = Bounds(0.0, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None
    batch_size: int = 256
    allow_probabilities: bool = False
    ledger: Ledger = field(default_factory=Ledger, compare=False)
    _classes: list[int] = field(default_factory=list, init=False, compare=False, repr=False)
    _batches: Batches = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise InvalidType(
                f"a {type(self.module).__name__} was given as the model",
                "a torch.nn.Module is allowed",
                "Pass the network itself; a plain function can be wrapped in a module whose forward calls it.",
            )
        object.__setattr__(self, "bounds", Bounds.of(self.bounds))
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InvalidValue(
                f"batch_size={self.batch_size} was given", "an integer >= 1 is allowed", "Write e.g. batch_size=256."
            )
        self._check_normalisation()
        self._check_mode()
        object.__setattr__(self, "_batches", Batches.of(self.module, self.batch_size))
        for name, tensor in self.module.state_dict().items():
            if tensor.is_meta:
                raise InvalidValue(
                    f"the weight {name!r} is on the meta device and holds no numbers",
                    "weights that are loaded are allowed",
                    "Build the model on a real device and load its weights.",
                )
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise InvalidValue(
                    f"the weight {name!r} holds NaN or infinite values",
                    "finite weights are allowed",
                    "Load a sound checkpoint; training has probably diverged.",
                )

    def _check_normalisation(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise InvalidValue(
                f"mean={self.mean} and std={self.std} were given",
                "both or neither is allowed",
                "Give both; the normalisation is (x - mean) / std.",
            )
        if self.mean is None or self.std is None:
            return
        given = f"mean={self.mean!r} and std={self.std!r} were given"
        try:
            object.__setattr__(self, "mean", tuple(map(float, self.mean)))
            object.__setattr__(self, "std", tuple(map(float, self.std)))
        except (TypeError, ValueError):
            raise InvalidType(
                given, "two lists of numbers are allowed", "Write e.g. mean=(0.5,) and std=(0.25,)."
            ) from None
        if (
            not self.std
            or len(self.mean) != len(self.std)
            or not all(map(math.isfinite, (*self.mean, *self.std)))
            or min(self.std) <= 0
        ):
            raise InvalidValue(
                given,
                "equally many finite numbers, std > 0, are allowed",
                "Give one mean and one std for each channel, in the units of the bounds.",
            )

    def _check_mode(self) -> None:
        if any(part.training for part in parts_of(self.module)):
            name = next(name or "the model" for name, module in self.module.named_modules() if module.training)
            raise InvalidValue(
                f"the model is in training mode ({name})",
                "evaluation mode is allowed",
                "Call model.eval() first. Attacking in training mode changes batch-norm statistics.",
            )

    def _normalise(self, x: Tensor) -> Tensor:
        return normalise(x, self.mean, self.std)

    def _forward(self, x: Tensor) -> Tensor:
        self.ledger.forward += len(x)
        try:
            return self._outputs(x)
        except QueryLimitReached:  # these rows were not sent
            self.ledger.forward -= len(x)
            raise

    def _outputs(self, x: Tensor) -> Tensor:
        filled = self._batches.filled(x)
        try:
            logits = self.module(self._normalise(filled))
        except RobustscopeError:  # it says itself what is wrong
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            raise ModelError(
                f"the model raised {type(error).__name__} on inputs of shape {tuple(x.shape)} and {x.dtype}: {error}",
                "a model that accepts these inputs is allowed",
                "Compare the shape, channels and dtype with what the model was trained on.",
            ) from error
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(filled):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"the model returned {got} for inputs of shape {tuple(x.shape)}",
                f"logits of shape ({len(x)}, K) are allowed",
                "Wrap the model so that forward returns one row of logits for each input.",
            )
        logits = logits if filled is x else logits[: len(x)]
        if not logits.is_floating_point() or logits.layout != torch.strided or logits.device != x.device:
            raise ModelError(
                f"the model returned {logits.dtype}, {logits.layout} logits on {logits.device} for inputs on {x.device}",
                "dense floating-point logits on the device of the inputs are allowed",
                "Return the scores before any rounding or comparison, where the inputs are.",
            )
        if not all_finite(logits):
            rows = (~torch.isfinite(logits)).any(1).sum().item()
            raise ModelError(
                f"the model returned NaN or infinite logits for {rows} of {len(x)} inputs",
                "finite logits are allowed",
                "Look for overflow, log(0) or division by zero in the model; an attack cannot judge such outputs.",
            )
        return logits

    @property
    def access(self) -> Access:
        """The most that may be asked of the model: "gradients"; of a black box "scores" or only "decisions"."""
        return access_of(self.module)

    def decisions(self, x: Tensor) -> Tensor:
        """Return the predicted classes of ``x`` and nothing else, counted as :meth:`logits`: int64 (B,)."""
        return self.logits(x).argmax(1)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``: (B, *S) -> (B, K), without a graph.

        Raises:
            InvalidValue: in training mode.
            ModelError: if the outputs have another shape or are not finite.
        """
        self._check_mode()
        with torch.no_grad():
            # An empty batch passes through the module too: its output tells the number of classes.
            (logits,) = self._batches.cut(len(x) or 1, lambda part: (self._forward(x[part]).detach(),), self.ledger)
        return logits

    def gradient(self, score: Scores, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return per-sample scores, their input gradients and the logits, from one forward and one backward pass.

        Args:
            score: ``(logits (b, K), rows (b,)) -> (b,)``; ``rows`` are the positions in ``x`` of this part.
            x: (B, *S).

        Returns:
            scores (B,), gradients (B, *S), logits (B, K); none of them carries a graph.

        Raises:
            InvalidValue: in training mode, and of a black box.
            ModelError: if the gradient does not exist or is not finite.
        """
        return self._differentiate(score, x, self._backward)

    def jacobian(self, score: Scores, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return several scores for each sample with all their input gradients: one forward pass, C backward passes.

        Args:
            score: ``(logits (b, K), rows (b,)) -> (b, C)``; ``rows`` are the positions in ``x`` of this part.
            x: (B, *S), B >= 1.

        Returns:
            scores (B, C), gradients (B, C, *S), logits (B, K); none of them carries a graph.

        Raises:
            InvalidValue: in training mode, and of a black box.
            ModelError: if a gradient does not exist or is not finite.
        """

        def each(columns: Tensor, leaf: Tensor) -> Tensor:
            last = columns.shape[1] - 1
            found = leaf.new_empty(len(leaf), last + 1, *leaf.shape[1:])
            for i, column in enumerate(columns.unbind(1)):
                found[:, i] = self._backward(column, leaf, again=i < last)
            return found

        return self._differentiate(score, x, each)

    def _differentiate(
        self, score: Scores, x: Tensor, backward: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, what ``backward(scores, leaf)`` makes of them, and logits, for all parts of ``x``."""
        self._check_mode()
        require_gradients(self.module)

        def look(part: slice) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaf = x[part].detach().requires_grad_(True)
                out = self._forward(leaf)
                value = score(out, torch.arange(part.start, part.stop, device=x.device))
                gradients = backward(value, leaf)
            return value.detach(), gradients, out.detach()

        found = self._batches.cut(len(x), look, self.ledger)
        scores, gradients, logits = found or (x.new_empty(0), torch.empty_like(x), self._empty(x))
        return scores, gradients, logits

    def _backward(self, value: Tensor, leaf: Tensor, again: bool = False) -> Tensor:
        self.ledger.backward += len(leaf)
        if torch.is_inference_mode_enabled():
            raise InvalidValue(
                "a gradient was asked for inside torch.inference_mode()",
                "torch.no_grad() or no such block is allowed around an attack",
                "Leave the block; attacks switch gradients on themselves, which inference mode forbids.",
            )
        if not value.requires_grad:
            raise ModelError(
                "the model's outputs do not depend on its inputs through autograd",
                "a differentiable model is allowed here",
                "Remove torch.no_grad, detach() or rounding from forward, or use an attack that needs scores only.",
            )
        try:
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, retain_graph=again)
        except Exception as error:
            if out_of_memory(error):
                raise
            raise ModelError(
                f"the backward pass through the model failed ({type(error).__name__}: {error})",
                "a differentiable model is allowed here",
                "Exported and quantised models often have no backward pass; use an attack that needs scores only.",
            ) from error
        if gradient is None:
            return torch.zeros_like(leaf)
        if gradient.stride() != leaf.stride():  # steps on two layouts at once would be slow
            gradient = torch.empty_like(leaf).copy_(gradient)
        if not all_finite(gradient):
            raise ModelError(
                "the model's input gradient holds NaN or infinite values",
                "finite gradients are allowed",
                "Look for sqrt or norm at zero and for log of a probability inside the model.",
            )
        return gradient

    def _empty(self, x: Tensor) -> Tensor:
        return x.new_empty(0, self.num_classes or 0)

    def classes(self, x: Tensor) -> int:
        """Return the number of classes K, asking the model with one uncounted row of ``x`` the first time.

        Args:
            x: (B, *S); an empty batch is answered from ``class_names``, or with 2.
        """
        if not self._classes and len(x) and not isinstance(self.module, BlackBox):
            with torch.no_grad():
                self._classes.append(self._outputs(x[:1]).shape[1])
        return self.num_classes or 2

    @property
    def num_classes(self) -> int | None:
        """Number of classes if it is known without running the model: it says so, was asked before, or has class names."""
        if isinstance(self.module, BlackBox):
            return self.module.num_classes
        return self._classes[0] if self._classes else len(self.class_names) if self.class_names else None

    def check_inputs(self, x: Tensor, y: Tensor | None = None) -> None:
        """Refuse inputs that the model was not declared for.

        Raises:
            InvalidType: for integer inputs or labels that are not int64.
            InvalidValue: for empty, non-finite or out-of-range inputs, and labels of another length.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = f"{x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise InvalidType(
                f"inputs of type {given} were given",
                "a floating-point tensor is allowed",
                "Divide 8-bit images by 255: x = x.float() / 255.",
            )
        if x.is_meta or x.layout != torch.strided:
            raise InvalidType(
                f"inputs of layout {x.layout} on {x.device} were given",
                "a dense tensor that holds numbers is allowed",
                "Write x = x.to_dense(), or load the data onto a real device.",
            )
        if x.dim() < 2:
            raise InvalidValue(
                f"inputs of shape {tuple(x.shape)} were given", "(B, *S) is allowed", "Add a batch dimension: x[None]."
            )
        if x.requires_grad:
            raise InvalidValue(
                "inputs that require gradients were given", "plain inputs are allowed", "Pass x.detach()."
            )
        if y is not None:
            self._check_labels(x, y)
        if not x.numel():
            return
        if not all_finite(x):
            raise InvalidValue(
                "the inputs hold NaN or infinite values", "finite inputs are allowed", "Clean the data first."
            )
        low, high = x.min().item(), x.max().item()
        lower, upper = self.bounds
        if low < lower or high > upper:
            raise InvalidValue(
                f"inputs in [{low:.6g}, {high:.6g}] were given",
                f"bounds=({lower:g}, {upper:g}) were declared",
                "Pass inputs before normalisation and give mean= and std= to the classifier, or declare other bounds.",
            )
        if self.mean is not None and len(self.mean) not in (1, x.shape[1]):
            raise InvalidValue(
                f"mean and std of {len(self.mean)} channels were given for inputs of shape {tuple(x.shape)}",
                f"1 or {x.shape[1]} values are allowed",
                "Give one value for each channel; channels are the second dimension.",
            )

    def _check_labels(self, x: Tensor, y: Tensor) -> None:
        if not isinstance(y, Tensor) or y.dtype != torch.int64:
            given = f"{y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise InvalidType(f"labels of type {given} were given", "int64 is allowed", "Write y = y.long().")
        if y.shape != x.shape[:1]:
            raise InvalidValue(
                f"labels of shape {tuple(y.shape)} were given for {len(x)} inputs",
                f"shape ({len(x)},) is allowed",
                "Give one class index for each input, not one-hot rows.",
            )

    def check_outputs(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the model once on ``x`` and refuse outputs that cannot be logits for the labels ``y``; return the logits.

        Raises:
            InvalidValue: if outputs look like probabilities, or a label is not among the classes.
            ModelError: as :meth:`logits`, also when the model itself raises.
        """
        logits = self.logits(x)
        classes = logits.shape[1] if logits.dim() == 2 else 0
        if len(x) and classes < 2:
            raise InvalidValue(
                f"the model returns {classes} output(s)",
                "two classes or more are allowed",
                "Turn a single logit z into two: torch.stack([-z / 2, z / 2], dim=1).",
            )
        if self.class_names and len(x) and classes != len(self.class_names):
            raise InvalidValue(
                f"{len(self.class_names)} class names were given for a model of {classes} outputs",
                "one name for each output is allowed",
                "Correct class_names, or leave them out.",
            )
        if len(y) and (int(y.min()) < 0 or int(y.max()) >= classes):
            raise InvalidValue(
                f"labels from {int(y.min())} to {int(y.max())} were given",
                f"0 to {classes - 1} are allowed for a model of {classes} classes",
                "Number the classes from 0 in the model's order.",
            )
        if not self.allow_probabilities and self.access != "decisions" and looks_like_probabilities(logits):
            raise InvalidValue(
                "the model's outputs lie in [0, 1] and sum to 1: they look like softmax probabilities",
                "logits are allowed",
                "Say answers='probabilities' where the black box is made."
                if self.access == "scores"
                else "Remove the final softmax (attacks lose their gradient through it), or say allow_probabilities=True.",
            )
        return logits
