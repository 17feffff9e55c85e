"""Compare the strength of our attacks with those of other tools: AttackBench's protocol on the shared models.

    python benchmarks/strength.py run OUT --peer PEER/bin/python --model NAME --n 30 --norm l2
    python benchmarks/strength.py table OUT

All tools attack the same correctly classified images through the same network (``strength_watch.py``), which keeps for
each sample the distance of the nearest adversarial point met at any query within a budget of 2,000 rows, forward and
backward together. What is finished is not repeated: the results of each model, norm, tool and attack are one file.

Local optimality of an attack on a model: with e0 the largest distance of the sample-wise best over all attacks of all
tools, robust accuracy against radius is integrated up to e0; the area that the attack takes away from 1 * e0, over that
which the sample-wise best takes away. Global optimality: the mean over models. Source: Cinà et al. 2025 (AttackBench),
arXiv:2404.19460, Sec. 3.

OUT/MODEL.NORM.TOOL.ATTACK.npz   distance (n,), forward (n,), backward (n,), and what the run cost
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoattack_parity import images
from strength_watch import Watched, measure, smallest_radius
from torch import Tensor

from robustscope.attacks.cards import ATTACKS
from robustscope.core.draws import Draws
from robustscope.core.types import NORMS, Norm, ThreatModel
from robustscope.data.selection import stratified
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model

HERE = Path(__file__).resolve().parent
TOOLS = ("ours", "foolbox", "torchattacks", "adv_lib", "art")
APGD = ("linf", "l2", "l1")
OURS: list[tuple[str, str, tuple[Norm, ...], dict[str, Any]]] = [
    ("nearest", "nearest", NORMS, {"steps": 980}),
    ("fmn", "fmn", NORMS, {"steps": 1000}),
    ("fab", "fab", APGD, {"steps": 180}),
    ("fab_targeted", "fab_targeted", APGD, {"steps": 70}),
    ("apgd_ce", "apgd", APGD, {}),
    ("apgd_margin", "apgd", APGD, {"loss": "margin"}),
    ("apgd_targeted", "apgd_targeted", APGD, {"loss": "margin", "steps": 20, "n_targets": 5}),
    ("deepfool", "deepfool", ("linf", "l2"), {"steps": 100}),
    ("ddn", "ddn", ("l2",), {"steps": 1000}),
    ("ddn_margin", "ddn", ("l2",), {"steps": 1000, "loss": "margin"}),
    ("cw_l2", "cw_l2", ("l2",), {"steps": 200, "search_steps": 5, "initial_constant": 1.0, "step_size": 0.03}),
    ("cw_linf", "cw_linf", ("linf",), {}),
    ("alma", "alma", ("l2",), {"steps": 1000}),
    ("pdpgd", "pdpgd", ("l1",), {"steps": 1000}),
    ("ead", "ead", ("l1",), {"steps": 110}),
    ("sigma_zero", "sigma_zero", ("l0",), {}),
    ("cw_l0", "cw_l0", ("l0",), {"queries": 1000}),
    ("jsma", "jsma", ("l0",), {}),
]
"""(label, registered attack, norms, parameters); steps are chosen to spend about the whole budget."""


def our_attack(name: str, parameters: dict[str, Any], norm: Norm, seed: int) -> Callable[[Watched], Any]:
    """Return a run of one of our attacks: a minimum-norm one as it is, one of fixed radius in the common search."""
    card = ATTACKS[name]
    settings = card.resolve(parameters)

    def run(watched: Watched) -> None:
        model, everyone = Classifier(watched), torch.arange(len(watched.x))

        def attack(rows: Tensor, threat: ThreatModel) -> Tensor:
            x, y, draws = watched.x[rows], watched.y[rows], Draws(seed, tuple(rows.tolist()), name)
            return card.function(model, x, y, threat, draws=draws, targets=None, **settings).x_adv

        if card.aim == "minimum-norm":
            attack(everyone, ThreatModel(norm, float("inf")))
        else:
            smallest_radius(watched, lambda rows, radii: attack(rows, ThreatModel(norm, tuple(radii.tolist()))))

    return run


def prepare(shared: Path, name: str, n: int, seed: int) -> dict[str, Any]:
    """Return the job of a model: its network, and ``n`` correctly classified test images, each class in proportion."""
    path = shared / "models" / f"{name}.json"
    loaded = load_model(str(path))
    model, data = loaded.classifier, images(shared, loaded, "exact")
    ids = stratified(data.labels, min(2 * n, len(data.labels)), seed)
    x, y = data.read(ids), torch.as_tensor(data.labels[ids], dtype=torch.int64)
    right = (model.logits(x).argmax(1) == y).nonzero()[:, 0]
    right = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(seed))[:n]].sort().values
    return {
        "layers": json.loads(path.read_text(encoding="utf-8"))["layers"],
        "weights": dict(model.module.state_dict()),
        "mean": list(model.mean or ()),
        "std": list(model.std or ()),
        "x": x[right],
        "y": y[right],
        "seed": seed,
    }


def peers(job: dict[str, Any], peer: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Run the attacks of a peer in its own interpreter; yield what is finished, also if it breaks down later."""
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "job.pt", Path(folder) / "result.pt"
        torch.save(job, asked)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        command = [peer, str(HERE / "strength_peers.py"), str(asked), str(told)]
        done = subprocess.run(command, check=False, env=environment)
        if done.returncode:
            print(f"{job['tool']} {job['norm']}: stopped with {done.returncode}", file=sys.stderr)
        if told.exists():
            yield from torch.load(told, weights_only=False).items()


def run(asked: argparse.Namespace) -> None:
    """Run what is not finished yet."""
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(asked.threads)
    for name in asked.model:
        job = prepare(asked.shared, name, asked.n, asked.seed)
        job |= {"budget": asked.budget, "seconds": float(asked.seconds), "threads": asked.threads}
        for norm in asked.norm:
            for tool in asked.tool:
                done = [path.name.split(".")[3] for path in asked.out.glob(f"{name}.{norm}.{tool}.*.npz")]
                here = {**job, "norm": norm, "tool": tool, "done": done, "only": asked.attack}
                if tool == "ours":
                    found = (
                        (label, measure(here, our_attack(attack, more, norm, asked.seed)))
                        for label, attack, norms, more in OURS
                        if norm in norms and label not in done and (not asked.attack or label in asked.attack)
                    )
                else:
                    found = peers(here, asked.peer)
                for label, result in found:
                    if str(result["error"]) not in ("", "time"):
                        print(f"{name} {norm} {tool} {label}: {result['error']}", file=sys.stderr)
                    np.savez(asked.out / f"{name}.{norm}.{tool}.{label}.npz", **result)


def optimality(distances: dict[Any, np.ndarray]) -> dict[Any, float]:
    """Return the local optimality of each attack, given its distances: (n,), inf where it never succeeded.

    Robust accuracy against radius is a staircase, so that its integral up to e0 is the mean of min(distance, e0).

    Example:
        >>> optimality({"a": np.array([1.0, 2.0]), "b": np.array([1.0, np.inf])})
        {'a': 1.0, 'b': 0.5}
    """
    best = np.minimum.reduce(list(distances.values()))
    first = best[np.isfinite(best)].max()
    most = np.maximum(first - best, 0).sum() or np.nan
    return {key: float(np.maximum(first - d, 0).sum() / most) for key, d in distances.items()}


Seen = dict[str, dict[tuple[str, str], dict[str, Any]]]
"""model -> (tool, attack) -> what :func:`strength_watch.measure` returned."""


def table(asked: argparse.Namespace) -> None:
    """Print the best attack of each tool on each model, then all attacks of each norm."""
    seen: dict[str, Seen] = {}
    for path in sorted(asked.out.glob("*.npz")):
        model, norm, tool, label, _ = path.name.split(".")
        if norm in asked.norm and (model in asked.model or not asked.model):
            seen.setdefault(norm, {}).setdefault(model, {})[tool, label] = dict(np.load(path))
    best, details = [], []
    for norm, models in seen.items():
        local = {m: optimality({k: r["distance"] for k, r in runs.items()}) for m, runs in models.items()}
        everywhere = set.intersection(*(set(runs) for runs in models.values()))
        mean = {key: float(np.mean([local[m][key] for m in models])) for key in everywhere}
        details += ["", f"### {norm}, every attack", "", *detail(models, local, mean, asked.budget)]
        for model, runs in models.items():
            cells = (best_of(tool, local[model], runs, asked.budget) for tool in TOOLS)
            best.append(f"| {norm} | {model} | {' | '.join(cells)} |")
        tools = {tool: max((k for k in mean if k[0] == tool), key=mean.__getitem__, default=None) for tool in TOOLS}
        cells = (f"{mean[key]:.3f} {key[1]}" if key else "" for key in tools.values())
        best.append(f"| **{norm}** | **mean of {len(models)}** | {' | '.join(cells)} |")
    print("\n".join([f"| norm | model | {' | '.join(TOOLS)} |", "|" + "---|" * (len(TOOLS) + 2), *best, *details]))


def best_of(tool: str, local: dict[Any, float], runs: dict[Any, dict[str, Any]], budget: int) -> str:
    """Return the best attack of a tool on one model: its local optimality, its label and the rows it spent."""
    key = max((key for key in local if key[0] == tool), key=local.__getitem__, default=None)
    if key is None:
        return ""
    rows = np.minimum(runs[key]["forward"] + runs[key]["backward"], budget).mean()
    return f"{local[key]:.3f} {key[1]}, {rows:.0f} rows"


def detail(models: Seen, local: dict[str, dict], mean: dict[Any, float], budget: int) -> Iterable[str]:
    """Yield the lines of the table of one norm: each attack, best first, then all attacks of each tool together."""
    sizes = [f"{m} (n={len(next(iter(runs.values()))['distance'])})" for m, runs in models.items()]
    yield f"| tool | attack | {' | '.join(sizes)} | mean | rows | found | remarks |"
    yield "|---|---|" + "---|" * len(models) + "---|---|---|---|"
    keys = list(dict.fromkeys(key for runs in models.values() for key in runs))
    for key in sorted(keys, key=lambda key: -mean.get(key, np.mean([v[key] for v in local.values() if key in v]) - 1)):
        runs = [models[m][key] for m in models if key in models[m]]
        rows = np.mean([np.minimum(r["forward"] + r["backward"], budget).mean() for r in runs])
        won = 100 * np.mean([np.isfinite(r["distance"]).mean() for r in runs])
        remarks = sorted({str(r["error"]).split(":")[0] for r in runs} - {""})
        unsure = 100 * sum(int(r["unsure"]) for r in runs) / sum(int(r["forward"].sum()) for r in runs)
        remarks += [f"{unsure:.0f} % unsure"] if unsure >= 0.5 else []
        each = " | ".join(f"{local[m][key]:.3f}" if key in local[m] else "" for m in models)
        total = f"{mean[key]:.3f}" if key in mean else ""
        yield f"| {key[0]} | {key[1]} | {each} | {total} | {rows:.0f} | {won:.0f} % | {', '.join(remarks)} |"
    for tool in dict.fromkeys(tool for tool, _ in keys):
        each = []
        for runs in models.values():
            mine = [r["distance"] for (t, _), r in runs.items() if t == tool]
            all_of_them = {key: r["distance"] for key, r in runs.items()}
            each.append(optimality({**all_of_them, "": np.minimum.reduce(mine)})[""] if mine else np.nan)
        cells = " | ".join("" if np.isnan(value) else f"{value:.3f}" for value in each)
        yield f"| {tool} | *all its attacks together* | {cells} | {np.mean(each):.3f} | | | |".replace("nan", "")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--peer", default="", help="python of the environment with the other tools")
    parser.add_argument("--model", nargs="*", default=[], help="names of shared models")
    parser.add_argument("--norm", nargs="*", default=list(NORMS), choices=NORMS)
    parser.add_argument("--tool", nargs="*", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--attack", nargs="*", default=[], help="labels of the attacks to run; all without it")
    parser.add_argument("--n", type=int, default=30, help="correctly classified images")
    parser.add_argument("--budget", type=int, default=2000, help="rows, forward and backward, for each sample")
    parser.add_argument("--seconds", type=float, default=60, help="most seconds for one attack on all samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared", help="folder of models and data")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    run(asked) if asked.what == "run" else table(asked)


if __name__ == "__main__":
    main()
