"""A network as a small graph of affine and nonlinear maps, traced from the module itself.

The trace follows ``forward`` with torch.fx, so it sees what the code does, not what the layers are called. Everything
that is not on the list below is refused by name: a bound through a map that is not understood would be no bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustscope.certify.layers import CALLS, LAYERS, MODULES, Made, Refused
from robustscope.certify.operations import Affine, Scale, Shape
from robustscope.certify.relaxations import MaxPool, Nonlinear
from robustscope.core.errors import InvalidValue, ModelError
from robustscope.models.classifier import Classifier

Operation = Affine | Nonlinear | MaxPool

AGREEMENT = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Most that the logits of graph and module may differ, as a share of the largest; rounding moves them by far less."""

PROBE = 2
"""Rows of the probe that finds the shapes."""


@dataclass(frozen=True, eq=False)
class Node:
    """One value of the network.

    Args:
        operation: what makes it; None for the input.
        inputs: numbers of the nodes it is made of.
        shape: without the batch.
        name: the layer's, for messages.
    """

    operation: Operation | None
    inputs: tuple[int, ...]
    shape: Shape
    name: str

    @property
    def affine(self) -> Affine | None:
        """The operation, if it is an affine map."""
        return self.operation if isinstance(self.operation, Affine) else None


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which each comes after those it is made of; node 0 is the input, the last the logits."""

    nodes: tuple[Node, ...]

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.nodes[-1].shape[0]

    def evaluate(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of inputs (B, *S) before normalisation, by the graph alone."""
        return self.carry(x, 0, len(self.nodes) - 1)

    def carry(self, value: Tensor, start: int, end: int) -> Tensor:
        """Return the value (B, *T) of node ``end`` for a value (B, *S) of node ``start``.

        Every node between them must be made of nodes from ``start`` on.
        """
        values = {start: value}
        for number, node in enumerate(self.nodes[start + 1 : end + 1], start + 1):
            given = [values[i] for i in node.inputs]
            if isinstance(node.operation, Affine):
                values[number] = node.operation.forward(*given)
            elif node.operation is not None:
                values[number] = node.operation.value(given[0])
        return values[end]

    def above(self, start: int) -> set[int]:
        """Return the nodes that ``start`` is made of, itself included."""
        found, todo = set(), [start]
        while todo:
            number = todo.pop()
            if number not in found:
                found.add(number)
                todo += self.nodes[number].inputs
        return found


def trace(model: Classifier, x: Tensor, dtype: torch.dtype | None = None) -> tuple[Graph, Tensor]:
    """Return the graph of a classifier, normalisation included, checked against the module on ``x``, and the logits.

    Args:
        model: in evaluation mode.
        x: (B, *S), B >= 1, inside the bounds; the graph has its dtype and device. One row of each is sent forward.
        dtype: of the graph, if it is to have another.

    Returns:
        the graph, and the logits (B, K) of the module.

    Raises:
        InvalidValue: for a layer that bounds cannot pass, naming it, for code that cannot be traced, and for a black box.
        ModelError: if graph and module do not agree on ``x``.
    """
    like = x if dtype is None else x.to(dtype)
    builder = _Builder(model, like)
    if model.access != "gradients":
        raise InvalidValue(
            f"a black box that gives {model.access} was to be certified",
            "a network whose layers can be read is allowed",
            "Evaluate it by attacks, or by a method that needs its outputs only.",
        )
    logits = model.logits(x)  # first, so that a module that cannot treat these inputs says so itself
    graph = builder.build()
    ours = graph.evaluate(like)
    gap = (logits - ours).abs().amax(1)
    allowed = AGREEMENT.get(x.dtype, 1e-4) * (1 + logits.abs().amax(1))
    if logits.shape != ours.shape or not bool((gap <= allowed).all()):
        raise ModelError(
            f"the traced network gives logits that differ from the module's by up to {float(gap.max()):.3g}",
            f"{float(allowed.min()):.1g} is allowed",
            "The module does something that its forward() does not show, perhaps in a hook, or its result depends on the "
            "batch. Such a network cannot be certified.",
        )
    return graph, logits


def live(model: Classifier, x: Tensor) -> Graph:
    """Return the graph of a network in training: its numbers are the module's own weights, and carry gradients to them.

    Unlike :func:`trace` it sends no row of ``x`` through the module, and so does not check that graph and module agree.
    Batch norm has its running statistics, and dropout does nothing, as in evaluation mode.

    Args:
        model: in evaluation mode.
        x: (B, *S), B >= 1; only shape, dtype and device are used.

    Raises:
        InvalidValue: for a layer that bounds cannot pass, naming it, and for code that cannot be traced.
    """
    return _Builder(model, x, live=True).build()


_FLAGGED = ("relu", "relu6", "leaky_relu", "hardtanh", "dropout")
"""Functions with an argument ``inplace``."""


class _Tracer(fx.Tracer):
    """Remembers in which layer tracing failed."""

    at = ""

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace a layer."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.at = self.at or f"{type(m).__name__} ({self.path_of_module(m)})"
            raise


class _Builder:
    """Walks the traced code once and turns each call into nodes."""

    def __init__(self, model: Classifier, x: Tensor, live: bool = False) -> None:
        self.model, self.module, self.like, self.live = model, model.module, x, live
        self.nodes = [Node(None, (), tuple(x.shape[1:]), "input")]
        self.values: dict[fx.Node, Any] = {}  # a Made for what depends on the input, the thing itself otherwise
        self.at = ""

    def build(self) -> Graph:
        """Trace the module and return its graph."""
        entry = self._normalised()
        tracer = _Tracer()
        try:
            code = tracer.trace(self.module)
        except Exception as error:  # whatever the model's own code makes of a tracer's stand-ins
            where = tracer.at or type(self.module).__name__
            raise InvalidValue(
                f"the code of {where} cannot be traced ({type(error).__name__}: {error})",
                "a forward() whose steps do not depend on the values of its input is allowed",
                "Write it as layers without branches; certificates must hold for all inputs at once.",
            ) from error
        for node in code.nodes:
            self.at = f"{node.op} {node.target} ({node.name})"
            if node.op == "placeholder":
                if entry is None:
                    raise self._refuse("a second input")
                self.values[node], entry = entry, None
            elif node.op == "get_attr":
                self.values[node] = _attribute(self.module, str(node.target))
            elif node.op == "output":
                return self._finished(node.args[0])
            else:
                self.values[node] = self._call(node)
        raise self._refuse("code without a result")

    def _normalised(self) -> Made | None:
        made = Made(0, self.nodes[0].shape, self.like[:1].new_zeros(PROBE, *self.nodes[0].shape))
        mean, std = self.model.mean, self.model.std
        if mean is None or std is None:
            return made
        shape = (-1, *([1] * (len(made.shape) - 1)))
        mean, std = (self.like.new_tensor(facts, dtype=torch.float64).view(shape) for facts in (mean, std))
        ones = torch.ones(made.shape, dtype=torch.float64, device=self.like.device)
        operation = Scale((ones / std).to(self.like), (-ones * mean / std).to(self.like))
        return self.add(operation, (made,), operation.forward(made.probe), "normalisation")

    def add(self, operation: Operation, inputs: tuple[Made, ...], probe: Tensor, name: str = "") -> Made:
        """Append a node and return its value."""
        self.nodes.append(
            Node(operation, tuple(made.number for made in inputs), tuple(probe.shape[1:]), name or self.at)
        )
        return Made(len(self.nodes) - 1, tuple(probe.shape[1:]), probe)

    def weight(self, tensor: Tensor) -> Tensor:
        """Return a constant of the network in the dtype of the bounds."""
        return (tensor if self.live else tensor.detach()).to(self.like)

    def _finished(self, result: Any) -> Graph:
        made = self.values.get(result) if isinstance(result, fx.Node) else None
        if not isinstance(made, Made) or len(made.shape) != 1:
            raise self._refuse("a result that is not one row of logits for each input")
        if made.number != len(self.nodes) - 1:  # later calls did not lead to the logits
            keep = sorted(Graph(tuple(self.nodes)).above(made.number))
            order = {old: new for new, old in enumerate(keep)}
            self.nodes = [
                Node(node.operation, tuple(order[i] for i in node.inputs), node.shape, node.name)
                for node in (self.nodes[i] for i in keep)
            ]
        return Graph(tuple(self.nodes))

    def _call(self, node: fx.Node) -> Any:
        args = fx.node.map_arg(node.args, lambda each: self.values[each])
        kwargs = fx.node.map_arg(node.kwargs, lambda each: self.values[each])
        given = [each for each in _flat((args, kwargs)) if isinstance(each, Made)]
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            self.at = f"{type(module).__name__} ({node.target})"
            handler, target = MODULES.get(type(module)), module
        else:
            target = node.target
            self.at = f"{target if isinstance(target, str) else getattr(target, '__name__', target)} ({node.name})"
            handler = CALLS.get(target)
        if not given and node.op != "call_module":
            return _constant(target, args, kwargs)
        if handler is None:
            raise self._refuse(self.at)
        try:
            made = (
                handler(self, target, *args, **kwargs) if node.op == "call_module" else handler(self, *args, **kwargs)
            )
        except Refused as reason:
            raise self._refuse(f"{self.at}: {reason}") from None
        except (
            TypeError,
            AttributeError,
            ValueError,
            RuntimeError,
            IndexError,
        ) as error:  # an argument that the handler does not know
            raise self._refuse(f"{self.at}: {error}") from error
        first = node.args[0] if node.args else None
        if isinstance(first, fx.Node) and isinstance(made, Made) and _in_place(target, node):
            self.values[first] = made  # who reads the argument from now on sees the result
        return made

    def _refuse(self, what: str) -> InvalidValue:
        return InvalidValue(
            f"the network holds {what}, which bounds cannot pass",
            f"layers among {', '.join(LAYERS)} and their functions are allowed",
            "Evaluate this network by attacks, or by a method that needs its outputs only.",
        )


def _in_place(target: Any, node: fx.Node) -> bool:
    """Tell whether a call writes its result over its first argument."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    flagged = name.rstrip("_") in _FLAGGED and (node.kwargs.get("inplace") or True in node.args[1:])
    written = name in ("iadd", "isub", "imul", "itruediv") or (name.endswith("_") and not name.endswith("__"))
    return bool(getattr(target, "inplace", False) or flagged or written)


def _attribute(module: nn.Module, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in _flat(value)]
    if isinstance(tree, (tuple, list)) and not isinstance(tree, Made):
        return [leaf for value in tree for leaf in _flat(value)]
    return [tree]


def _constant(target: Callable[..., Any] | str, args: Any, kwargs: Any) -> Any:
    """Compute what does not depend on the input."""
    with torch.no_grad():
        return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
