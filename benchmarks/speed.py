"""Measure what PGD costs beyond the network itself, and how it compares with Foolbox and torchattacks.

Two questions, each answered in one process, with interleaved repeats, minimum taken:

1. Overhead: seconds of ``pgd`` over the seconds that the same rows take, step by step in the same batches, on the bare
   network (normalisation and module, plain ``torch.autograd.grad``). In ``overhead/never`` the radius is so small that
   no sample is solved and every one runs all steps; in ``overhead/real`` samples leave as usual.
2. Speed: seconds from images to a judged robust accuracy, for the same images, radius, step size, number of steps,
   one random start and cross-entropy. Each tool runs at each batch size and is given its best one.

See README.md in this folder for how to run it and what was measured.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.metadata
import itertools
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustscope.attacks.compose import attack
from robustscope.attacks.pgd import pgd
from robustscope.core.draws import Draws, permutation
from robustscope.core.types import ThreatModel, parse_epsilon
from robustscope.geometry.balls import contains
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = (
    "cifar10_oval_sgd=1/255",
    "cifar10_resnet2b_adv=2/255",
    "cifar10_resnet2b_adv=8/255",
    "cifar10_sri_resnet_a=4/255",
)
RELATIVE_STEP_SIZE = 0.1
NEVER = 1e-6
COLUMNS = [
    "date",
    "revision",
    "torch",
    "foolbox",
    "torchattacks",
    "machine",
    "threads",
    "clock",
    "samples",
    "steps",
    "network",
    "epsilon",
    "measure",
    "tool",
    "batch_size",
    "robust_accuracy",
    "seconds",
    "reference_seconds",
    "ratio",
]

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One network with the images that it classifies correctly."""

    name: str
    epsilon: float
    network: nn.Module  # the bare network: normalisation and module, inputs in [0, 1]
    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    x: Tensor
    y: Tensor

    @property
    def threat(self) -> ThreatModel:
        """The threat model that all tools attack in."""
        return ThreatModel("linf", self.epsilon)

    def classifier(self, batch_size: int) -> Classifier:
        """Return the module behind our own door."""
        return Classifier(self.module, mean=self.mean, std=self.std, batch_size=batch_size)


class Normalise(nn.Module):
    """(x - mean) / std with both as buffers: the cheapest plain form."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) in [0, 1] to the network's units."""
        return (x - self.mean) / self.std


def load_images(path: Path, samples: int) -> tuple[Tensor, Tensor]:
    """Read a seeded random subset of a CIFAR-10 record file (1 label byte, then 3072 pixel bytes)."""
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, 3073)
    rows = sorted(permutation(0, "speed", len(records))[:samples])
    records = torch.from_numpy(records[rows].copy())
    return records[:, 1:].reshape(-1, 3, 32, 32).float() / 255, records[:, 0].long()


def load_case(folder: Path, text: str, x: Tensor, y: Tensor, device: str) -> Case:
    """Build a network from its card and keep the images that it classifies correctly."""
    name, _, epsilon = text.partition("=")
    model = load_model(str(folder / f"{name}.json"), device=device).classifier
    module, mean, std = model.module, model.mean or (0.0,), model.std or (1.0,)
    # Frozen weights spare Foolbox's backward() the gradients of the weights; the other two never compute them.
    module.requires_grad_(False)
    network = nn.Sequential(Normalise(mean, std), module).eval().to(device)
    with torch.no_grad():
        correct = torch.cat([network(part.to(device)).argmax(1) for part in x.split(256)]).cpu() == y
    x, y = x[correct].to(device), y[correct].to(device)
    return Case(name, parse_epsilon(epsilon), network, module, mean, std, x, y)


class Clock:
    """Processor seconds of this process, or seconds on the wall."""

    def __init__(self, kind: str, device: str) -> None:
        self.read = time.process_time if kind == "cpu" else time.perf_counter
        self.device = device

    def time(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Return the seconds of one run, and what it returned."""
        self._wait()
        start = self.read()
        out = run()
        self._wait()
        return self.read() - start, out

    def best(self, runs: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, tuple[float, Any]]:
        """Time runs in turns, A B C A B C, and keep the fastest of each: what the others on the machine left alone."""
        found: dict[Any, tuple[float, Any]] = {}
        for _ in range(repeats):
            for name, run in runs.items():
                seconds, out = self.time(run)
                if name not in found or seconds < found[name][0]:
                    found[name] = seconds, out
        return found

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------------------- overhead


def bare_rows(case: Case, batch_size: int, active: Sequence[int], forward: int = 0) -> None:
    """Send rows through the bare network and do nothing with the gradients.

    Args:
        case: network and images.
        batch_size: most rows at once.
        active: rows of each step, forward and backward.
        forward: rows that go forward only, after the last step.
    """
    for count in active:
        for part, labels in zip(case.x[:count].split(batch_size), case.y[:count].split(batch_size)):
            leaf = part.detach().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(case.network(leaf), labels, reduction="sum"), leaf)
    with torch.no_grad():
        for part in case.x[:forward].split(batch_size):
            case.network(part)


def overhead(case: Case, batch_size: int, args: argparse.Namespace, clock: Clock) -> Iterable[dict[str, Any]]:
    """Compare PGD with the same rows, step by step, on the bare network."""
    model = case.classifier(batch_size)
    draws = Draws(0, tuple(range(len(case.x))))
    runs: dict[Any, Callable[[], Any]] = {}
    for pattern, threat in (("never", ThreatModel("linf", NEVER)), ("real", case.threat)):
        run = partial(
            pgd, model, case.x, case.y, threat, draws=draws, steps=args.steps, relative_step_size=RELATIVE_STEP_SIZE
        )
        result = run()
        active = [int((result.backward > step).sum()) for step in range(args.steps)]
        # A sample that runs all steps is judged once more: one row forward more than backward.
        last = int((result.forward > args.steps).sum())
        assert sum(active) == int(result.backward.sum()), "the rows of the steps must add up"
        assert sum(active) + last == int(result.forward.sum()), "the rows of the steps must add up"
        runs[pattern] = run
        runs[pattern, "bare"] = partial(bare_rows, case, batch_size, active, last)
    best = clock.best(runs, args.repeats)
    for pattern in ("never", "real"):
        seconds, bare = best[pattern][0], best[pattern, "bare"][0]
        yield {
            "measure": f"overhead/{pattern}",
            "tool": "robustscope",
            "batch_size": batch_size,
            "seconds": seconds,
            "reference_seconds": bare,
            "ratio": seconds / bare,
        }


# ---------------------------------------------------------------------------------------------------------- speed


def robust_flags(case: Case, x_adv: Tensor, batch_size: int) -> Tensor:
    """Tell which samples stay correct, by a fresh forward pass, for tools that do not say."""
    with torch.no_grad():
        return torch.cat([case.network(part).argmax(1) for part in x_adv.split(batch_size)]) == case.y


def run_robustscope(case: Case, batch_size: int, steps: int, seed: int) -> Tensor:
    """The public door, with its judge; all rows at once, cut by the classifier, so that survivors are packed."""
    outcome = attack(
        "pgd",
        case.classifier(batch_size),
        case.x,
        case.y,
        case.threat,
        seed=seed,
        steps=steps,
        relative_step_size=RELATIVE_STEP_SIZE,
    )
    return outcome.result.x_adv


def run_foolbox(case: Case, batch_size: int, steps: int, seed: int) -> Tensor:
    """Foolbox as its documentation shows it; it judges by itself."""
    foolbox = importlib.import_module("foolbox")
    model = foolbox.PyTorchModel(case.network, bounds=(0, 1), device=case.x.device)
    torch.manual_seed(seed)
    method = foolbox.attacks.LinfPGD(rel_stepsize=RELATIVE_STEP_SIZE, steps=steps, random_start=True)
    parts = zip(case.x.split(batch_size), case.y.split(batch_size))
    return torch.cat([method(model, x, y, epsilons=case.epsilon)[1] for x, y in parts])


def run_torchattacks(case: Case, batch_size: int, steps: int, seed: int) -> Tensor:
    """Torchattacks as its documentation shows it, and the forward pass that it leaves to the user."""
    torchattacks = importlib.import_module("torchattacks")
    torch.manual_seed(seed)
    method = torchattacks.PGD(case.network, case.epsilon, RELATIVE_STEP_SIZE * case.epsilon, steps, random_start=True)
    parts = zip(case.x.split(batch_size), case.y.split(batch_size))
    x_adv = torch.cat([method(x, y) for x, y in parts])
    robust_flags(case, x_adv, batch_size)
    return x_adv


TOOLS = {"robustscope": run_robustscope, "foolbox": run_foolbox, "torchattacks": run_torchattacks}


def judge(case: Case, x_adv: Tensor) -> int:
    """Count the samples that stay correct; raise if an example left the threat set by more than storage rounding."""
    # The peers clip x + delta in single precision, which rounds once more than we do: twice our slack is allowed.
    wider = ThreatModel("linf", case.epsilon + 2 * torch.finfo(x_adv.dtype).eps)
    assert bool(contains(wider, case.x, x_adv).all()), "an example left the threat set"
    with torch.no_grad():
        logits = torch.cat([case.network(part) for part in x_adv.split(256)])
    return int((~is_adversarial(logits, case.y, None)).sum())


def speed(case: Case, args: argparse.Namespace, clock: Clock) -> Iterable[dict[str, Any]]:
    """Time all tools in turns, batch size by batch size; yield the best of each, and our gain over the best peer."""
    best: dict[Any, tuple[float, Any]] = {}
    for size in args.batch_sizes:
        runs = {(tool, size): _fresh(case, TOOLS[tool], size, args.steps) for tool in args.tools}
        best |= clock.best(runs, args.repeats)
    winners = {t: min((key for key in best if key[0] == t), key=lambda key: best[key][0]) for t in args.tools}
    peers = [best[key][0] for tool, key in winners.items() if tool != "robustscope"]
    for tool, key in winners.items():
        seconds, x_adv = best[key]
        reference = min(peers) if tool == "robustscope" and peers else seconds
        yield {
            "measure": "speed",
            "tool": tool,
            "batch_size": key[1],
            "robust_accuracy": judge(case, x_adv) / args.samples,
            "seconds": seconds,
            "reference_seconds": reference,
            "ratio": reference / seconds,
        }


def _fresh(case: Case, run: Callable[..., Tensor], batch_size: int, steps: int) -> Run:
    """Return a run that takes a new seed each time.

    With one seed our shrinking batches would have the same sizes in each repeat, and find the convolution kernels
    that the library made for these sizes ready, as they would not be in use.
    """
    seeds = itertools.count()
    return lambda: run(case, batch_size, steps, next(seeds))


# ------------------------------------------------------------------------------------------------------- the rest


_SHIM: list[Any] = []


def mend_torchvision() -> None:
    """Let torchattacks import where the installed torchvision was built for another torch.

    torchattacks imports torchvision, which fails at import if its compiled operators cannot be loaded beside this
    torch. PGD uses none of them, so declaring two of their signatures is enough. Done only if the import fails.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _SHIM.append(library)  # the declarations live as long as this reference
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def installed(names: Iterable[str]) -> list[str]:
    """Return the tools that can be imported; say which cannot."""
    found = []
    for name in names:
        try:
            if name == "torchattacks":
                mend_torchvision()
            importlib.import_module(name)
            found.append(name)
        except Exception as error:
            print(f"left out: {name} ({type(error).__name__}: {error})")
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "uncommitted"


def append_history(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to the table of all measurements."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    shared = ROOT.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=shared / "models", help="folder of NAME.json and .safetensors")
    parser.add_argument("--data", type=Path, default=shared / "data" / "cifar10" / "test-exact-subset.bin")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME=EPSILON")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--samples", type=int, default=250, help="random images before the misclassified ones leave")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[50, 100, 250], help="the best is kept for each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("overhead", "speed"))
    parser.add_argument("--clock", choices=("cpu", "wall"), help="default: cpu with one thread on a CPU, else wall")
    parser.add_argument("--history", type=Path, default=ROOT / "benchmarks" / "history.csv", help="'' writes nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    kind = args.clock or ("cpu" if args.threads == 1 and args.device == "cpu" else "wall")
    clock = Clock(kind, args.device)
    args.tools = ["robustscope", *installed(tool for tool in args.tools if tool != "robustscope")]
    x, y = load_images(args.data, args.samples)
    args.samples = len(x)
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "revision": _revision(),
        "torch": torch.__version__,
        **{name: _version(name) for name in ("foolbox", "torchattacks")},
        "machine": torch.cuda.get_device_name() if args.device != "cpu" else platform.machine(),
        "threads": args.threads,
        "clock": kind,
        "samples": args.samples,
        "steps": args.steps,
    }
    print(
        f"{'network':28} {'measure':15} {'tool':12} {'batch':>5} {'robust':>7} {'seconds':>8} {'against':>8} {'ratio':>6}"
    )
    for text in args.networks:
        case = load_case(args.models, text, x, y, args.device)
        measures = [overhead(case, size, args, clock) for size in args.batch_sizes] if args.only != "speed" else []
        measures += [speed(case, args, clock)] if args.only != "overhead" else []
        for row in (row for measure in measures for row in measure):
            row = about | {"network": case.name, "epsilon": text.partition("=")[2]} | row
            robust = f"{100 * row['robust_accuracy']:6.1f}%" if "robust_accuracy" in row else ""
            print(
                f"{text:28} {row['measure']:15} {row['tool']:12} {row['batch_size']:5} {robust:>7} "
                f"{row['seconds']:8.3f} {row['reference_seconds']:8.3f} {row['ratio']:6.2f}",
                flush=True,
            )
            if str(args.history) != ".":
                figures = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}
                append_history(args.history, [figures])


if __name__ == "__main__":
    main()
