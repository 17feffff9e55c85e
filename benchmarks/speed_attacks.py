"""Measure how long ten attacks take beside Foolbox, torchattacks, adv-lib, ART and pyautoattack, at equal strength.

Every tool attacks the same images of the same network with the same number of steps or queries, in one process, with
interleaved repeats, the fastest of each kept, and the median over repeats of the ratio of seconds. Beside the seconds stand what was reached (robust accuracy at a radius, or
the median distance of minimum-norm attacks) and the rows that a sample sent through the network, forward and backward,
counted for all tools in the same way: at the network, in one further run that is not timed.

See README.md in this folder for how to run it and what was measured.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speed import ROOT, Case, Clock, _revision, _version, load_case, load_images, mend_torchvision
from speed_duels import Duel, Method, duels

from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws, permutation
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

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
    "rounds",
    "measure",
    "strength",
    "success",
    "forward",
    "backward",
]


PACKAGES = ("foolbox", "torchattacks", "adv-lib", "adversarial-robustness-toolbox", "pyautoattack")
WAYS = ("forward", "backward")


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
    case = replace(case, x=case.x[: duel.samples], y=case.y[: duel.samples])
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
    peer_rounds = [seconds[tool] for tool in rows if tool in duel.peers] or [seconds["robustscope"]]
    fastest = [min(each) for each in zip(*peer_rounds, strict=True)]
    for tool, row in rows.items():
        row["rounds"] = statistics.median(peer / own for peer, own in zip(fastest, seconds[tool], strict=True))
    peers = [row["seconds"] for tool, row in rows.items() if tool in duel.peers] or [rows["robustscope"]["seconds"]]
    for row in rows.values():
        row["ratio"] = min(peers) / row["seconds"]
        yield row


def load_digits(folder: Path, samples: int) -> tuple[Tensor, Tensor]:
    """Read a seeded random subset of the test images of MNIST, for networks whose names begin with "mnist"."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8, offset=skip)
        for name, skip in (("images-idx3", 16), ("labels-idx1", 8))
    )
    rows = sorted(permutation(0, "speed", len(labels))[:samples])
    x = torch.from_numpy(pixels.reshape(-1, 1, 28, 28)[rows].copy()).float() / 255
    return x, torch.from_numpy(labels[rows].copy()).long()


def installed(names: list[str]) -> list[str]:
    """Return the tools that can be imported; say which cannot."""
    found = []
    mend_torchvision()
    for name in names:
        try:
            importlib.import_module(name if name == "pyautoattack" else f"{name}.attacks")
            found.append(name)
        except Exception as error:
            print(f"left out: {name} ({type(error).__name__}: {error})")
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    shared = ROOT.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=shared / "models", help="folder of NAME.json and .safetensors")
    parser.add_argument("--data", type=Path, default=shared / "data" / "cifar10" / "test-exact-subset.bin")
    parser.add_argument("--mnist", type=Path, default=shared / "data" / "mnist", help="folder of t10k-*.gz")
    parser.add_argument("--networks", nargs="+", default=["cifar10_resnet2b_adv=2/255"], metavar="NAME=EPSILON")
    parser.add_argument(
        "--attacks", nargs="+", default=[], metavar="ATTACK", help="these alone, e.g. 'fmn' or 'fmn l2'"
    )
    parser.add_argument("--tools", nargs="*", default=["foolbox", "torchattacks", "adv_lib", "art", "pyautoattack"])
    parser.add_argument("--samples", type=int, default=100, help="random images before the misclassified ones leave")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--search-steps", type=int, default=5, help="constants of Carlini and Wagner")
    parser.add_argument("--fab-steps", type=int, default=20)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--decisions", type=int, default=1000, help="queries of our HopSkipJump")
    parser.add_argument("--jumps", type=int, default=5, help="steps of the peers' HopSkipJump")
    parser.add_argument("--decision-samples", type=int, default=16, help="images for HopSkipJump")
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
    about = {"date": time.strftime("%Y-%m-%d"), "revision": _revision(), "torch": torch.__version__}
    about |= {"threads": args.threads, "clock": kind}
    print(", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    print(
        f"{'network':22} {'attack':14} {'tool':12} {'seconds':>8} {'median':>6} {'times as fast':>13} {'median':>6} {'strength':>23} {'broken':>7} rows"
    )
    for text in args.networks:
        mnist = text.startswith("mnist")
        x, y = load_digits(args.mnist, args.samples) if mnist else load_images(args.data, args.samples)
        case = load_case(args.models, text, x, y, args.device)
        for duel in duels(args):
            if args.attacks and not {duel.name, duel.attack} & set(args.attacks):
                continue
            for row in measure(duel, case, args, clock):
                print(
                    f"{text.removeprefix('cifar10_'):22} {row['attack']:14} {row['tool']:12} {row['seconds']:8.3f} "
                    f"{row['spread']:6.2f} {row['ratio']:13.2f} {row['rounds']:6.2f} {row['measure']:>15} {row['strength']:7.4f} "
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
