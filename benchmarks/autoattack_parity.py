"""Run our suites beside the reference implementation of AutoAttack (pyautoattack) on shared models.

    python benchmarks/autoattack_parity.py OUT --peer PEER/bin/python --model NAME --n 20 --norm linf --epsilon 2/255

``--tools`` names the suites (``standard``; ``audited``, whose search alone is run, without its audit) and ``reference``. All see the same images, in the same chunks, in float32 on one thread. Rows are counted by hooks on the network, those of
the attacks alone: neither our judge's passes nor the reference's flags and re-checks. A chunk that is finished is not
repeated, so the command can be stopped and given again, also with a larger ``--n``: the images of a seed are nested.

OUT/verdicts.csv   one line for each tool and image: the attack that broke it, or none; whether our judge confirms it
OUT/costs.csv      one line for each tool, chunk and attack: attempted, broken, rows forward and backward, seconds

The reference lives in an environment of its own and is run there by ``autoattack_reference.py``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustscope.attacks.compose import Attempt, cascade
from robustscope.attacks.suites import suite
from robustscope.attacks.verify import verify
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.data.base import Dataset
from robustscope.data.datasets import load_data
from robustscope.data.selection import stratified
from robustscope.models.loading import LoadedModel, load_model

HERE = Path(__file__).resolve().parent
TOOLS = ("standard", "audited", "reference")
CASE = ["model", "images", "norm", "epsilon", "seed", "chunk", "tool"]
VERDICTS = [*CASE, "sample", "y", "correct", "broken_by", "confirmed"]
COSTS = [*CASE, "attack", "attempted", "broken", "forward", "backward", "seconds"]


class Rows:
    """Counts rows through a network by hooks, while it is used as a context."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.forward, self.backward = module, 0, 0

    def __enter__(self) -> Rows:
        self._handle = self.module.register_forward_hook(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _seen(self, module: torch.nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._passed)

    def _passed(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


def ours(model: LoadedModel, x: Tensor, y: Tensor, ids: list[int], case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what each attack of the suite ``case["tool"]`` did, as the reference's worker reports it."""
    classifier = model.classifier
    threat = ThreatModel(case["norm"], case["epsilon"], classifier.bounds)
    correct = classifier.logits(x).argmax(1) == y
    named = suite(case["tool"], threat.norm, classifier.classes(x))
    steps = cascade(
        classifier,
        x,
        y,
        [Attempt(name, threat, more) for name, more in named],
        Draws(case["seed"], tuple(ids)),
        correct,
    )
    for name, _ in named:
        with Rows(classifier.module) as rows:
            began = time.perf_counter()
            step = next(steps)
            seconds = time.perf_counter() - began
        if step.error is not None:
            raise step.error
        found = {"attack": name, "attempted": step.rows, "broken": step.rows[:0], "x_adv": x[:0], "seconds": seconds}
        judged = 0
        if step.outcome is not None:
            won = step.outcome.verdict.success
            # Our judge looks once at each example, and twice more at those that fool: alone, and rounded to 8 bits.
            judged = len(won) + 2 * int(won.sum())
            found |= {"broken": step.rows[won], "x_adv": step.outcome.result.x_adv[won]}
        yield {**found, "forward": rows.forward - judged, "backward": rows.backward}


def reference(model: LoadedModel, path: Path, x: Tensor, y: Tensor, case: dict[str, Any], peer: str) -> list[dict]:
    """Return what each attack of the reference did, in a process of the peer's interpreter."""
    classifier = model.classifier
    job = {
        "layers": json.loads(path.read_text(encoding="utf-8"))["layers"],
        "weights": dict(classifier.module.state_dict()),
        "mean": list(classifier.mean or ()),
        "std": list(classifier.std or ()),
        "x": x,
        "y": y,
        "threads": torch.get_num_threads(),
        **{key: case[key] for key in ("norm", "epsilon", "seed")},
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "job.pt", Path(folder) / "result.pt"
        torch.save(job, asked)
        command = [peer, str(HERE / "autoattack_reference.py"), str(asked), str(told)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        subprocess.run(command, check=True, env=environment)
        return torch.load(told, weights_only=True)["stages"]


def confirmed(model: LoadedModel, x: Tensor, y: Tensor, stage: dict[str, Any], case: dict[str, Any]) -> list[bool]:
    """Tell which of a stage's examples our judge accepts: inside the threat set and misclassified, one at a time."""
    threat = ThreatModel(case["norm"], case["epsilon"], model.classifier.bounds)
    found = []
    for row, x_adv in zip(stage["broken"].tolist(), stage["x_adv"], strict=True):
        none = torch.zeros(1, dtype=torch.int64)
        one = slice(row, row + 1)
        try:
            verdict = verify(model.classifier, x[one], y[one], threat, AttackResult(x_adv[None], none, none))
        except ArithmeticError:  # outside the threat set
            found.append(False)
            continue
        found.append(bool(verdict.success))
    return found


def record(
    out: Path, case: dict[str, Any], ids: list[int], y: Tensor, correct: Tensor, stages: list, sure: list
) -> None:
    """Append a finished chunk: first what it cost, then its verdicts, whose presence means that it is finished."""
    broken = {row: (s["attack"], ok) for s, k in zip(stages, sure) for row, ok in zip(s["broken"].tolist(), k)}
    costs = [
        [
            *(case[key] for key in CASE),
            *(s["attack"], len(s["attempted"]), len(s["broken"]), s["forward"], s["backward"], round(s["seconds"], 3)),
        ]
        for s in stages
    ]
    verdicts = [
        [*(case[key] for key in CASE), sample, int(y[i]), int(correct[i]), *broken.get(i, ("", ""))]
        for i, sample in enumerate(ids)
    ]
    for name, head, lines in (("costs.csv", COSTS, costs), ("verdicts.csv", VERDICTS, verdicts)):
        text = io.StringIO()
        csv.writer(text).writerows(lines if (out / name).exists() else [head, *lines])
        with (out / name).open("a", newline="", encoding="utf-8") as handle:
            handle.write(text.getvalue())


def stored(out: Path, name: str, case: dict[str, Any], within: tuple[str, ...], each: tuple[str, ...]) -> list[dict]:
    """Return the lines of a file that agree with the case on ``within``; of those alike in ``each`` the last one."""
    if not (out / name).exists():
        return []
    with (out / name).open(newline="", encoding="utf-8") as handle:
        lines = [line for line in csv.DictReader(handle) if all(line[key] == str(case[key]) for key in within)]
    return list({tuple(line[key] for key in each): line for line in lines}.values())


def images(shared: Path, model: LoadedModel, kind: str) -> Dataset:
    """Return the test images that belong to a model: original pixels, or the JPEG-decoded ones of CIFAR-10."""
    data = shared / "data"
    if model.card["dataset"] == "CIFAR-10":
        names = {"exact": "test-exact-subset.bin", "jpeg": "cifar-10-binary-jpegdecoded.tar.xz"}
        return load_data(f"cifar10:{data / 'cifar10' / names[kind]}")
    if model.card["dataset"] == "MNIST":
        return load_data(f"mnist:{data / 'mnist'}")
    return load_data(f"fashion:{data / 'fashion-mnist-sample'}")


def summary(out: Path, case: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each tool: images, correct, robust, and what they cost."""
    within = ("model", "images", "norm", "epsilon", "seed", "tool")
    for tool in ("standard", "audited", "reference"):
        verdicts = stored(out, "verdicts.csv", {**case, "tool": tool}, within, ("sample",))
        costs = stored(out, "costs.csv", {**case, "tool": tool}, within, ("chunk", "attack"))
        if not verdicts:
            continue
        robust = sum(line["correct"] == "1" and not line["broken_by"] for line in verdicts)
        forward, backward = (sum(int(line[name]) for line in costs) for name in ("forward", "backward"))
        yield (
            f"{tool:9} {case['model']} {case['norm']} {case['epsilon']:.5f}: n={len(verdicts)} "
            f"clean={sum(line['correct'] == '1' for line in verdicts)} robust={robust} "
            f"unconfirmed={sum(line['confirmed'] == 'False' for line in verdicts)} "
            f"rows={forward}/{backward} seconds={sum(float(line['seconds']) for line in costs):.1f}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the CSV files")
    parser.add_argument("--peer", help="python of the environment with pyautoattack, for the tool reference")
    parser.add_argument("--model", required=True, action="append", help="name of a shared model; may be repeated")
    parser.add_argument("--n", type=int, default=20, help="images, each class in proportion")
    parser.add_argument("--norm", default="linf", choices=["linf", "l2", "l1"])
    parser.add_argument("--epsilon", required=True, help="radius, such as 2/255")
    parser.add_argument("--images", default="exact", choices=["exact", "jpeg"], help="which CIFAR-10 images")
    parser.add_argument("--chunk", type=int, default=100, help="images that are attacked together and recorded at once")
    parser.add_argument("--tools", nargs="+", default=["standard", "reference"], choices=TOOLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--held-out",
        type=int,
        default=0,
        help="leave out the first so many images of seed 0; give OUT a folder of its own",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared", help="folder of models and data")
    asked = parser.parse_args()
    if "reference" in asked.tools and not asked.peer:
        parser.error("--tools reference was given without --peer; name the python that has pyautoattack")
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.model:
        path = asked.shared / "models" / f"{name}.json"
        model = load_model(str(path), batch_size=max(asked.chunk, 1))
        data = images(asked.shared, model, asked.images)
        threat = ThreatModel.parse(f"{asked.norm}:{asked.epsilon}", model.classifier.bounds)
        order = nested(data, asked.n, asked.chunk, asked.seed, asked.held_out)
        case = {"model": name, "images": asked.images, "norm": threat.norm, "epsilon": threat.common_epsilon}
        case |= {"seed": asked.seed, "chunk": 0, "tool": ""}
        for start in range(0, len(order), asked.chunk):
            ids = order[start : start + asked.chunk]
            x, y = data.read(ids), torch.as_tensor(data.labels[ids], dtype=torch.int64)
            correct = model.classifier.logits(x).argmax(1) == y
            for tool in asked.tools:
                case |= {"chunk": f"{start}:{start + len(ids)}", "tool": tool}
                if len(stored(asked.out, "verdicts.csv", case, tuple(CASE), ("sample",))) == len(ids):
                    continue
                if tool == "reference":
                    stages = reference(model, path, x, y, case, asked.peer)
                else:
                    stages = list(ours(model, x, y, ids, case))
                sure = [confirmed(model, x, y, stage, case) for stage in stages]
                record(asked.out, case, ids, y, correct, stages, sure)
                print(f"{name} {tool} {case['chunk']}", flush=True)
        print("\n".join(summary(asked.out, case)), flush=True)


def nested(data: Dataset, n: int, chunk: int, seed: int, held_out: int = 0) -> list[int]:
    """Return ``n`` image ids so that the chunks of a smaller ``n`` are among those of a larger one.

    None of them is among the first ``held_out`` images of seed 0.
    """
    rest = np.setdiff1d(np.arange(len(data.labels)), stratified(data.labels, held_out, 0) if held_out else [])
    found: list[int] = []
    for count in [*range(chunk, n, chunk), n]:
        found += sorted(set(rest[stratified(data.labels[rest], count, seed)].tolist()) - set(found))
    return found


if __name__ == "__main__":
    main()
