"""Shape or texture: a pair of networks trained to see one each, the shared networks, and the published decisions.

    python benchmarks/cue_conflict.py STIMULI MODELS           tables in Markdown, on the terminal
    python benchmarks/cue_conflict.py STIMULI MODELS RAW       also the published decisions

STIMULI is the folder of the 1,280 style-transfer pictures of Geirhos et al. by shape; MODELS a folder of architecture cards of CIFAR-10
networks; RAW the folder "raw-data" of github.com/rgeirhos/texture-vs-shape. One process, one thread.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from small_nets import pooled_cnn, train

from robustscope.analyses.cue_conflict import cue_conflict
from robustscope.data.cue_conflict import SIXTEEN, ShapeOracle, TextureOracle
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model
from robustscope.probes.why.shape_bias import decide

CIFAR = {"airplane": 0, "bird": 2, "boat": 8, "car": 1, "cat": 3, "dog": 5, "truck": 9}
"""Classes of the stimuli that CIFAR-10 has too, and its outputs for them."""
HEAD = "| {} | conflicts | shape | texture | neither | shape bias, % (95 % interval) |\n|---|---:|---:|---:|---:|---:|"


def line(name: str, decisions: np.ndarray, shapes: np.ndarray, textures: np.ndarray) -> str:
    """One row of a table."""
    row = cue_conflict(decisions, shapes, textures).iloc[0]
    counts = f"{row['n']:,} | {row['as_shape']:,} | {row['as_texture']:,} | {row['as_other']:,}"
    return f"| {name} | {counts} | {100 * row['shape_bias']:.2f} ({100 * row['low']:.1f}-{100 * row['high']:.1f}) |"


def digits(kind: str, cue: str, split: str) -> tuple[Tensor, Tensor]:
    """Inputs and the classes of one cue."""
    data = load_data(f"cue-digits:{kind},{cue}#{split}")
    return data.read(range(len(data))), torch.from_numpy(data.labels)


def pair() -> None:
    """Print the table of trained networks on digits filled with stripes."""
    x, shapes = digits("conflict", "shape", "test")
    textures = digits("conflict", "texture", "test")[1]
    print(HEAD.format("network, taught"))
    rows: dict[str, torch.nn.Module] = {"oracle, shape": ShapeOracle(x, shapes), "oracle, texture": TextureOracle()}
    for seed in range(3):
        for name, kind, cue in (
            ("shape; the texture is random", "random", "shape"),
            ("texture; the shape is random", "random", "texture"),
            ("both agree", "consistent", "shape"),
        ):
            rows[f"CNN, {name}, seed {seed}"] = train(pooled_cnn(), *digits(kind, cue, "train"), epochs=12, seed=seed)
    for name, module in rows.items():
        print(line(name, Classifier(module).decisions(x).numpy(), shapes.numpy(), textures.numpy()))


def shared(stimuli: str, models: str) -> None:
    """Print the table of CIFAR-10 networks on the stimuli whose two classes CIFAR-10 has, at 32 x 32 pixels."""
    places = f"cue-conflict:{stimuli}?resize=32&crop=32"
    data = [load_data(f"{places}#{cue}") for cue in ("shape", "texture")]
    names = list(SIXTEEN)
    keep = [
        i
        for i, pair in enumerate(zip(*(d.labels for d in data), strict=True))
        if {names[k] for k in pair} <= set(CIFAR)
    ]
    shapes, textures = ([list(CIFAR).index(names[k]) for k in d.labels[keep]] for d in data)
    x = data[0].read(keep)
    print(HEAD.format("network"))
    for card in sorted(Path(models).glob("cifar10_*.json")):
        model = load_model(str(card)).classifier
        decisions = decide(model, x, [[output] for output in CIFAR.values()])
        print(line(card.stem, decisions.numpy(), np.array(shapes), np.array(textures)))


def published(raw: str) -> None:
    """Print the table of published decisions on the 1,200 stimuli in conflict."""
    names = list(SIXTEEN)
    groups: dict[str, list[tuple[int, int, int]]] = {}
    folders = ("style-transfer-512-nomask-experiment", "style-transfer-512-nomask-experiment-trained-CNNs")
    for file in sorted(file for folder in folders for file in (Path(raw) / folder).glob("*.csv")):
        with file.open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                texture = row["imagename"].rsplit(".", 1)[0].rsplit("-", 1)[1].rstrip("0123456789")
                answer = row["object_response"]
                entry = (
                    names.index(answer) if answer in names else -1,
                    names.index(row["category"]),
                    names.index(texture),
                )
                who = "alexnet (Caffe)" if file.parent.name == folders[0] and row["subj"] == "alexnet" else row["subj"]
                for group in {who, "ten people" if who.startswith("subject") else who}:
                    groups.setdefault(group, []).append(entry)
    print(HEAD.format("who"))
    for group, entries in sorted(groups.items()):
        print(line(group, *np.array(entries).T))


def main() -> None:
    """Print all tables."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    torch.set_num_threads(1)
    pair()
    print()
    shared(*sys.argv[1:3])
    if len(sys.argv) == 4:
        print()
        published(sys.argv[3])


if __name__ == "__main__":
    main()
