"""The attacks that speed_attacks.py compares, in our hands and in those of others, as their documentation shows them."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustscope.core.types import Norm

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, x, y) -> examples."""


@dataclass(frozen=True)
class Duel:
    """One attack in our hands and in those of others, with the same numbers of steps.

    Args:
        attack: our name of it.
        norm: of the threat model.
        parameters: ours.
        peers: tool -> maker of the method, from the radius.
        fixed: whether it attacks at the network's radius; else it looks for the smallest perturbation.
        samples: how many of the images are attacked, or all of them.
    """

    attack: str
    norm: Norm
    parameters: Mapping[str, Any]
    peers: Mapping[str, Callable[[float], Method]] = field(default_factory=dict)
    fixed: bool = False
    samples: int | None = None

    @property
    def name(self) -> str:
        """Return attack and norm, for the table."""
        return f"{self.attack} {self.norm}"


def foolbox(name: str, *, fixed: bool = False, **options: Any) -> Callable[[float], Method]:
    """Return a maker of a Foolbox attack, as its documentation shows it."""

    def make(epsilon: float) -> Method:
        package = importlib.import_module("foolbox")
        method = getattr(package.attacks, name)(**options)

        def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            model = package.PyTorchModel(network, bounds=(0, 1), device=x.device)
            return method(model, x, y, epsilons=epsilon if fixed else None)[1]

        return run

    return make


def torchattacks(name: str, *, radius: bool = True, **options: Any) -> Callable[[float], Method]:
    """Return a maker of a torchattacks attack."""

    def make(epsilon: float) -> Method:
        package = importlib.import_module("torchattacks")

        def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            method = getattr(package, name)(network, **({"eps": epsilon} if radius else {}), **options)
            return method(x, y)

        return run

    return make


def adv_lib(name: str, *, radius: str = "", **options: Any) -> Callable[[float], Method]:
    """Return a maker of an adv-lib attack."""

    def make(epsilon: float) -> Method:
        function = getattr(importlib.import_module("adv_lib.attacks"), name)
        return partial(_call, function, {**options, **({radius: epsilon} if radius else {})})

    return make


def pyautoattack(name: str, **options: Any) -> Callable[[float], Method]:
    """Return a maker of an attack of pyautoattack; ``epsilon`` given here replaces the network's."""

    def make(epsilon: float) -> Method:
        module, kind = name.split(".")
        function = getattr(importlib.import_module(f"pyautoattack.{module}"), kind)

        def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return function(network, device=x.device, **{"eps": epsilon, **options}).perturb(x, y)

        return run

    return make


def art(name: str, **options: Any) -> Callable[[float], Method]:
    """Return a maker of an attack of ART."""

    def make(epsilon: float) -> Method:
        kind = getattr(importlib.import_module("art.attacks.evasion"), name)
        classifier = importlib.import_module("art.estimators.classification").PyTorchClassifier

        def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002 - ART draws from the global generator
            loss = nn.CrossEntropyLoss()
            model = classifier(
                Single(network), loss, tuple(x.shape[1:]), nb_classes=10, clip_values=(0.0, 1.0), device_type="cpu"
            )
            return torch.from_numpy(kind(model, verbose=False, **options).generate(x.numpy(), y.numpy()))

        return run

    return make


class Single(nn.Module):
    """Takes the doubles that ART computes with in single precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``."""
        return self.network(x.float())


def _call(function: Callable[..., Tensor], options: dict[str, Any], network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return function(network, x, y, **options)


def duels(args: argparse.Namespace) -> list[Duel]:
    """Return all duels."""
    steps, few, queries, inf = args.steps, args.fab_steps, args.queries, math.inf
    cw: dict[str, Any] = {"binary_search_steps": args.search_steps, "initial_const": 0.01}
    pgd: dict[str, Any] = {"steps": 40, "random_start": True}
    apgd: dict[str, Any] = {"steps": steps, "n_restarts": 1, "loss": "ce"}
    fab: dict[str, Any] = {
        "steps": few,
        "n_restarts": 1,
        "n_classes": 10,
        "eps": 1e4,
    }  # far enough to be a minimum-norm attack
    square: dict[str, Any] = {"n_queries": queries, "n_restarts": 1, "resc_schedule": False}
    return [
        Duel(
            "pgd",
            "linf",
            {"steps": 40},
            {
                "foolbox": foolbox("LinfPGD", fixed=True, rel_stepsize=0.1, **pgd),
                "torchattacks": lambda epsilon: torchattacks("PGD", alpha=0.1 * epsilon, **pgd)(epsilon),
                "adv_lib": adv_lib("pgd_linf", radius="ε", steps=40, relative_step_size=0.1),
            },
            fixed=True,
        ),
        Duel(
            "apgd",
            "linf",
            {"steps": steps},
            {
                "torchattacks": torchattacks("APGD", norm="Linf", **apgd),
                "adv_lib": adv_lib("apgd", radius="eps", norm=inf, n_iter=steps, loss_function="ce"),
                "pyautoattack": pyautoattack("autopgd_base.APGDAttack", n_iter=steps, norm="Linf"),
            },
            fixed=True,
        ),
        Duel(
            "cw_l2",
            "l2",
            {"steps": steps, "search_steps": args.search_steps, "initial_constant": 0.01},
            {
                "foolbox": foolbox("L2CarliniWagnerAttack", steps=steps, stepsize=0.01, **cw),
                "adv_lib": adv_lib("carlini_wagner_l2", max_iterations=steps, learning_rate=0.01, **cw),
            },
        ),
        *(
            Duel(
                "deepfool",
                norm,
                {"steps": 50},
                {
                    "foolbox": foolbox(name, steps=50, candidates=10, overshoot=0.02),
                    "adv_lib": adv_lib("df", steps=50, overshoot=0.02, norm=order),
                },
            )
            for norm, name, order in (("l2", "L2DeepFoolAttack", 2), ("linf", "LinfDeepFoolAttack", inf))
        ),
        *(
            Duel(
                "fmn",
                norm,
                {"steps": steps},
                {
                    "foolbox": foolbox(name, steps=steps),
                    "adv_lib": adv_lib("fmn", steps=steps, norm=order),
                },
            )
            for norm, name, order in (("linf", "LInfFMNAttack", inf), ("l2", "L2FMNAttack", 2))
        ),
        Duel(
            "ddn",
            "l2",
            {"steps": steps},
            {"foolbox": foolbox("DDNAttack", steps=steps), "adv_lib": adv_lib("ddn", steps=steps, levels=None)},
        ),
        *(
            Duel(
                "fab",
                norm,
                {"steps": few},
                {
                    "torchattacks": torchattacks("FAB", radius=False, norm=norm.capitalize(), **fab),
                    "adv_lib": adv_lib("fab", norm=order, n_iter=few),
                    "pyautoattack": pyautoattack(
                        "fab_pt.FABAttack_PT", n_iter=few, norm=norm.capitalize(), n_restarts=1, eps=1e4
                    ),
                },
            )
            for norm, order in (("linf", inf), ("l2", 2))
        ),
        Duel(
            "square",
            "linf",
            {"queries": queries},
            {
                "torchattacks": torchattacks("Square", norm="Linf", **square),
                "pyautoattack": pyautoattack("square.SquareAttack", norm="Linf", **square),
            },
            fixed=True,
        ),
        *(
            Duel(
                "hopskipjump",
                norm,
                {"queries": args.decisions},
                {
                    "foolbox": foolbox("HopSkipJumpAttack", steps=args.jumps, constraint=norm),
                    "art": art("HopSkipJump", norm=order, max_iter=args.jumps, batch_size=args.batch_size),
                },
                samples=args.decision_samples,
            )
            for norm, order in (("l2", 2), ("linf", inf))
        ),
    ]
