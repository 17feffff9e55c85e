"""Measure how long nine attacks take beside Foolbox, torchattacks and adv-lib, at equal strength.

Every tool attacks the same images of the same network with the same number of steps or queries, in one process, with
interleaved repeats, the fastest of each kept. Beside the seconds stand what was reached (robust accuracy at a radius, or
the median distance of minimum-norm attacks) and the rows that a sample sent through the network, forward and backward,
counted for all tools in the same way: at the network, in one further run that is not timed.

See README.md in this folder for how to run it and what was measured.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speed import ROOT, Case, Clock, _revision, _version, load_case, load_images, mend_torchvision

from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.types import Norm, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, x, y) -> examples."""

COLUMNS = [
    "date",
    "revision",
    "torch",
    "threads",
    "clock",
    "network",
    "samples",
    "attack",
    "tool",
    "seconds",
    "ratio",
    "measure",
    "strength",
    "success",
    "forward",
    "backward",
]


WAYS = ("forward", "backward")


@dataclass(frozen=True)
class Duel:
    """One attack in our hands and in those of others, with the same numbers of steps.

    Args:
        attack: our name of it.
        norm: of the threat model.
        parameters: ours.
        peers: tool -> maker of the method, from the radius.
        fixed: whether it attacks at the network's radius; else it looks for the smallest perturbation.
    """

    attack: str
    norm: Norm
    parameters: Mapping[str, Any]
    peers: Mapping[str, Callable[[float], Method]] = field(default_factory=dict)
    fixed: bool = False

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


def _call(function: Callable[..., Tensor], options: dict[str, Any], network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return function(network, x, y, **options)


def duels(args: argparse.Namespace) -> list[Duel]:
    """Return all duels."""
    steps, few, queries, inf = args.steps, args.fab_steps, args.queries, math.inf
    cw = {"binary_search_steps": args.search_steps, "initial_const": 0.01}
    pgd = {"steps": 40, "random_start": True}
    apgd = {"steps": steps, "n_restarts": 1, "loss": "ce"}
    fab = {"steps": few, "n_restarts": 1, "n_classes": 10, "eps": 1e4}  # far enough to be a minimum-norm attack
    square = {"n_queries": queries, "n_restarts": 1, "resc_schedule": False}
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
                },
            )
            for norm, order in (("linf", inf), ("l2", 2))
        ),
        Duel(
            "square",
            "linf",
            {"queries": queries},
            {"torchattacks": torchattacks("Square", norm="Linf", **square)},
            fixed=True,
        ),
    ]


class Counter(nn.Module):
    """Counts the rows that pass a network, forward and backward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forward_rows, self.backward_rows = network, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``."""
        self.forward_rows += len(x)
        logits = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self._went_back)
        return logits

    def _went_back(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


def ours(duel: Duel, case: Case, model: Classifier, twin: str, seed: int = 0) -> Tensor:
    """Run our public door with its judge; a twin is made anew each time, so its making is timed too."""
    threat = ThreatModel(duel.norm, case.epsilon if duel.fixed else math.inf)
    found = attack(duel.attack, model, case.x, case.y, threat, seed=seed, twin=twin, **duel.parameters)
    return found.result.x_adv


def unjudged(duel: Duel, case: Case, model: Classifier, seed: int = 0) -> Tensor:
    """Run our attack without its judge, as the peers run: none of them looks at what it returns once more."""
    threat, card = ThreatModel(duel.norm, case.epsilon if duel.fixed else math.inf), ATTACKS[duel.attack]
    draws = Draws(seed, tuple(range(len(case.x)))).within(card.name)
    return card.function(model, case.x, case.y, threat, draws=draws, **card.resolve(duel.parameters)).x_adv


def theirs(method: Method, case: Case, batch_size: int, network: nn.Module, seed: int = 0) -> Tensor:
    """Run a peer batch by batch."""
    torch.manual_seed(seed)
    parts = zip(case.x.split(batch_size), case.y.split(batch_size), strict=True)
    return torch.cat([method(network, x, y).detach() for x, y in parts])


def strength(duel: Duel, case: Case, x_adv: Tensor) -> tuple[str, float, float]:
    """Return what is measured, how strong the examples are by it, and the share of samples that they break."""
    with torch.no_grad():
        broken = torch.cat([case.network(part).argmax(1) for part in x_adv.split(256)]) != case.y
    success = float(broken.double().mean())
    if duel.fixed:
        return "robust accuracy", 1 - success, success
    distance = balls.distance(duel.norm, case.x, x_adv.clamp(0, 1)).masked_fill(~broken, torch.inf)
    return "median distance", float(distance.median()), success


def measure(duel: Duel, case: Case, args: argparse.Namespace, clock: Clock) -> Iterator[dict[str, Any]]:
    """Time all tools in turns; yield one row for each, ours with its gain over the fastest peer."""
    size = args.batch_size
    model = case.classifier(size)
    plain = Counter(case.network).eval()
    counted = Classifier(plain, batch_size=size)
    tools: dict[str, tuple[Callable[[int], Tensor], Callable[[], Tensor]]] = {
        "robustscope" if twin == "off" else f"{twin} twin": (
            partial(ours, duel, case, model, twin),
            partial(ours, duel, case, counted, twin),
        )
        for twin in ("off", *args.twins)
    }
    tools["search"] = (partial(unjudged, duel, case, model), partial(unjudged, duel, case, counted))
    for tool, make in duel.peers.items():
        if tool in args.tools:
            method = make(case.epsilon)
            tools[tool] = (
                partial(theirs, method, case, size, case.network),
                partial(theirs, method, case, size, plain),
            )
    rows: dict[str, dict[str, Any]] = {}
    for tool, (_, count) in tools.items():
        plain.forward_rows = plain.backward_rows = 0
        counted.ledger.reset()
        kind, reached, success = strength(duel, case, count())
        # A twin is a copy that the counter does not see, but our own ledger does.
        rows_of = {name: max(getattr(plain, f"{name}_rows"), getattr(counted.ledger, name)) for name in WAYS}
        per_sample = {name: count / len(case.x) for name, count in rows_of.items()}
        rows[tool] = {
            "attack": duel.name,
            "tool": tool,
            "measure": kind,
            "strength": reached,
            "success": success,
            **per_sample,
        }
    seconds: dict[str, list[float]] = {tool: [] for tool in tools}
    for seed in range(args.repeats):
        for tool, (run, _) in tools.items():
            seconds[tool].append(clock.time(partial(run, seed))[0])
    for tool, row in rows.items():
        row["seconds"] = min(seconds[tool])
        row["spread"] = statistics.median(seconds[tool]) / row["seconds"]
    peers = [row["seconds"] for tool, row in rows.items() if tool in duel.peers] or [rows["robustscope"]["seconds"]]
    for row in rows.values():
        row["ratio"] = min(peers) / row["seconds"]
        yield row


def installed(names: list[str]) -> list[str]:
    """Return the tools that can be imported; say which cannot."""
    found = []
    mend_torchvision()
    for name in names:
        try:
            importlib.import_module(f"{name}.attacks")
            found.append(name)
        except Exception as error:
            print(f"left out: {name} ({type(error).__name__}: {error})")
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    shared = ROOT.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=shared / "models", help="folder of NAME.json and .safetensors")
    parser.add_argument("--data", type=Path, default=shared / "data" / "cifar10" / "test-exact-subset.bin")
    parser.add_argument("--networks", nargs="+", default=["cifar10_resnet2b_adv=2/255"], metavar="NAME=EPSILON")
    parser.add_argument(
        "--attacks", nargs="+", default=[], metavar="ATTACK", help="these alone, e.g. 'fmn' or 'fmn l2'"
    )
    parser.add_argument("--tools", nargs="*", default=["foolbox", "torchattacks", "adv_lib"])
    parser.add_argument("--samples", type=int, default=100, help="random images before the misclassified ones leave")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--search-steps", type=int, default=5, help="constants of Carlini and Wagner")
    parser.add_argument("--fab-steps", type=int, default=20)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument(
        "--twins", nargs="*", default=[], help="run ours on these twins too; verdicts are the network's"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--history", type=Path, help="append all rows to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    kind = "cpu" if args.threads == 1 and args.device == "cpu" else "wall"
    clock = Clock(kind, args.device)
    args.tools = installed(args.tools)
    x, y = load_images(args.data, args.samples)
    about = {"date": time.strftime("%Y-%m-%d"), "revision": _revision(), "torch": torch.__version__}
    about |= {"threads": args.threads, "clock": kind}
    print(", ".join(f"{name} {_version(name)}" for name in ("foolbox", "torchattacks", "adv-lib")))
    print(
        f"{'network':22} {'attack':14} {'tool':12} {'seconds':>8} {'median':>6} {'times as fast':>13} {'strength':>23} {'broken':>7} rows"
    )
    for text in args.networks:
        case = load_case(args.models, text, x, y, args.device)
        for duel in duels(args):
            if args.attacks and not {duel.name, duel.attack} & set(args.attacks):
                continue
            for row in measure(duel, case, args, clock):
                print(
                    f"{text.removeprefix('cifar10_'):22} {row['attack']:14} {row['tool']:12} {row['seconds']:8.3f} "
                    f"{row['spread']:6.2f} {row['ratio']:13.2f} {row['measure']:>15} {row['strength']:7.4f} "
                    f"{100 * row['success']:6.1f}% {row['forward']:.0f}+{row['backward']:.0f}",
                    flush=True,
                )
                if args.history:
                    _append(args.history, about | {"network": text, "samples": len(case.x)} | row)


def _append(path: Path, row: dict[str, Any]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
