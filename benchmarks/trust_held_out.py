"""Cases that no threshold of the probes was chosen on: other networks, other masks, other mistakes; run by trust.py.

They were written down before the verdict was seen on any of them. ``first`` in the table is what it said then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trust import LAST, Case, Changed, digits, door, left_by

import robustscope
from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import AttackCard
from robustscope.attacks.compose import attack
from robustscope.core.types import AttackResult
from robustscope.data.masked_more import HELD_OUT
from robustscope.data.selection import stratified
from robustscope.geometry import balls
from robustscope.geometry.losses import objective
from robustscope.models.classifier import Classifier

RADIUS = "linf:0.2"
TWICE = ("steep_thermometer", "winners_tenth")
"""Masks that were judged at 0.1 first, and trusted there."""


def pictures(name: str, samples: int, shared: Path) -> tuple[Classifier, Tensor, Tensor]:
    """Return a network of others and some pictures."""
    kind = name.partition("_")[0]
    source = {"mnist": "mnist:data/mnist", "cifar10": "cifar10:data/cifar10/test-exact-subset.bin"}[kind]
    data = robustscope.load_data(source.replace(":", f":{shared}/"))
    ids = stratified(data.labels, samples, 1, "held out")
    found = robustscope.load_model(str(shared / f"models/{name}.json")).classifier
    return found, data.read(ids), torch.as_tensor(data.labels[ids])


def masked_cases(samples: int, shared: Path) -> Iterator[Case]:
    """Other masks, on a network of others."""
    found, x, y = pictures("mnist_eran_convsmall_nat", samples, shared)
    net = found.module if found.mean is None else nn.Sequential(_Normalised(found), found.module).eval()
    for name, mask in HELD_OUT.items():
        model, beside = door(mask.wrap(net).eval()), door(mask.beside(net).eval())
        for radius in (RADIUS, *(("linf:0.1",) if name in TWICE else ())):
            known = lambda m=model, b=beside, t=radius: left_by(m, b, x, y, t)  # noqa: E731
            yield Case(name, mask.says, radius, model, x, y, {}, known)


class _Normalised(nn.Module):
    """Normalisation as a layer."""

    def __init__(self, found: Classifier) -> None:
        super().__init__()
        self.mean, self.std = found.mean or (0.0,), found.std or (1.0,)

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - mean) / std, by channels."""
        shape = (1, -1, *([1] * (x.dim() - 2)))
        return (x - x.new_tensor(self.mean).view(shape)) / x.new_tensor(self.std).view(shape)


class _Resized(nn.Module):
    """Shrinks the picture to a size drawn at each call and puts it at a place drawn at each call."""

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures of the same size."""
        size = x.shape[-1]
        small = int(torch.randint(size - 2, size + 1, ()))
        at = torch.randint(0, size - small + 1, (2,)).tolist()
        inner = nn.functional.interpolate(x, size=(small, small), mode="nearest")
        return nn.functional.pad(inner, (at[0], size - small - at[0], at[1], size - small - at[1]))


def broken_cases(samples: int) -> Iterator[Case]:
    """Other defences that are random, rounded or wired wrongly."""
    _, x, y = digits(samples)
    net = robustscope.load_model("bundled:digits_adversarial").classifier.module
    sure = Changed(net, after=lambda z: (1e4 * z).softmax(1))
    made: dict[str, tuple[nn.Module, str]] = {
        "resize_pad": (Changed(net, _Resized()), "resized and padded at random, anew at each call"),
        "weights_1e4": (sure, "softmax of logits ten thousand times as large"),
        "half_scores": (Changed(net, after=lambda z: z.half().float()), "logits in half precision"),
        "random_rounding": (
            Changed(net, lambda x: (8 * x + torch.rand_like(x)).floor() / 8),
            "inputs rounded up or down to eighths by chance",
        ),
        "neighbours": (Changed(net, after=lambda z: z + 0.5 * z.roll(1, 0)), "half the scores of the sample before"),
    }
    for name, (module, says) in made.items():
        same = name in ("weights_1e4", "half_scores")  # the network without them decides alike
        known = (lambda m=module: left_by(door(m), door(net), x, y, RADIUS)) if same else None
        yield Case(name, says, RADIUS, door(module), x, y, {}, known)


def _walk(
    model: Classifier, x: Tensor, y: Tensor, threat: Any, targets: Tensor | None, *, steps: int, way: float = 1.0,
    fresh: bool = False, reach: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Step along the sign of the margin's gradient; return the last point and the losses along the way."""
    goal = Goal(objective("margin", model.classes(x), targets is not None), y, targets)
    inner = threat.scaled(reach)
    step = 0.1 * inner.radius(x).reshape(-1, *([1] * (x.dim() - 1)))
    x_adv, values = x, []
    for _ in range(steps):
        if fresh:
            goal = Goal(objective("margin", model.classes(x), False), model.logits(x_adv).argmax(1), None)
        value, gradients, _ = model.gradient(goal.scores, x_adv)
        values.append(value)
        x_adv = balls.project(inner, x, x_adv + way * step * gradients.sign())
    return x_adv, torch.stack(values, 1)


def _card(name: str, **how: Any) -> AttackCard:
    def run(
        model: Classifier, x: Tensor, y: Tensor, threat: Any, *, draws: Any, targets: Any = None, steps: int = 40,
        trace: bool = False,
    ) -> AttackResult:  # fmt: skip
        """Walk as the case says."""
        x_adv, values = _walk(model, x, y, threat, targets, steps=steps, **how)
        rows = y.new_full((len(x),), steps)
        return AttackResult(x_adv, rows, rows.clone(), values if trace else None)

    return AttackCard(name, run, 1, "benchmarks/trust_held_out.py", goals=("untargeted", "targeted"))


def _lost(
    model: Classifier, x: Tensor, y: Tensor, threat: Any, *, draws: Any, targets: Any = None, steps: int = 40
) -> AttackResult:
    found = attack("pgd", model, x, y, threat, draws=draws, targets=targets, steps=steps, loss="margin").result
    early = (model.logits(found.x_adv).argmax(1) != y) & (torch.arange(len(y)) % 2 == 0)
    return AttackResult(x.where(early.reshape(-1, *([1] * (x.dim() - 1))), found.x_adv), found.forward, found.backward)


LOST = AttackCard("lost", _lost, 1, "benchmarks/trust_held_out.py", goals=("untargeted", "targeted"))


def weak_cases(samples: int) -> Iterator[Case]:
    """Other mistakes in the attack behind the claim, on an honest network."""
    _, x, y = digits(samples)
    net = robustscope.load_model("bundled:digits_adversarial").classifier.module
    twice = Classifier(net, mean=(0.5,), std=(0.5,), batch_size=500)
    attacks: dict[str, tuple[Any, str]] = {
        "wrong_sign": ((_card("wrong_sign", way=-1.0), {}), "descends the loss that it should ascend"),
        "wrong_units": ((_card("wrong_units", reach=1 / 255), {}), "epsilon divided by 255 once more"),
        "half_radius": ((_card("half_radius", reach=0.5), {}), "a ball of half the radius: diameter for radius"),
        "moving_label": ((_card("moving_label", fresh=True), {}), "the label is what is predicted at each step"),
        "few_steps": (("pgd", {"steps": 5, "relative_step_size": 0.1, "loss": "margin"}), "five steps of a tenth"),
        "single_step": (("fgsm", {"loss": "cross_entropy"}), "a single step on cross-entropy"),
        "lost_examples": ((LOST, {}), "returns the input for half of what it broke"),
        "last_iterate": ((LAST, {}), "leaping steps; returns the last point, not the best"),
        "twice_normalised": (("pgd", {"loss": "margin"}), "searches on the network normalised once too often"),
    }
    for name, (white, says) in attacks.items():
        model = door(net)
        options = {"white": white, "also": (), **({"search": twice} if name == "twice_normalised" else {})}
        known = lambda m=model: left_by(m, m, x, y, RADIUS)  # noqa: E731
        yield Case(name, says, RADIUS, model, x, y, options, known)


PUBLIC = {
    "mnist_advertorch_lenet5_std": "linf:0.1",
    "mnist_eran_convsmall_nat": "linf:0.05",
    "mnist_vnncomp_fc_256x2": "linf:0.03",
    "mnist_eran_mlp_6x100_nat": "linf:0.026",
    "mnist_verivital_avgpool": "linf:0.04",
    "mnist_toy_mlp_2x20": "l2:0.5",
    "mnist_oval_wide_kw": "linf:0.1",
    "mnist_madrycnn_nomaxpool_tiny": "linf:0.3",
    "mnist_lirpa_cnn_small": "linf:0.3",
    "cifar10_marabou_large": "linf:1/255",
    "cifar10_oval_deep_kw": "linf:2/255",
    "cifar10_eran_convsmall_pgd": "linf:2/255",
}


def public_cases(samples: int, shared: Path) -> Iterator[Case]:
    """Networks of others that the first table does not have."""
    for name, threat in PUBLIC.items():
        found, x, y = pictures(name, samples, shared)
        yield Case(name, "", threat, found, x, y)
