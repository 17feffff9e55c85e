"""Certified accuracy of shared networks beside published numbers.

    OMP_NUM_THREADS=1 python benchmarks/certified_parity.py OUT.csv --shared ../shared --cases resnet2b-1 colt --n 50
    python benchmarks/certified_parity.py OUT.csv --table

One line for each image and method; images that are in OUT.csv already are not done again, so the command can be stopped
and given again, also with a larger ``--n``. Every certified image is attacked by PGD inside the certified ball; one that
falls is an error of ours, and ends the run.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustscope.analyses.intervals import paired_difference, proportion
from robustscope.attacks.compose import attack
from robustscope.certify import certify
from robustscope.core.draws import permutation
from robustscope.core.types import ThreatModel
from robustscope.data.datasets import load_data
from robustscope.data.selection import stratified
from robustscope.models.loading import load_model

FIELDS = ["case", "method", "sample", "y", "correct", "lower_margin", "status", "rows", "seconds"]


class Case(NamedTuple):
    """A network, images, a radius, methods, and what has been published."""

    model: str
    images: str
    epsilon: str
    methods: tuple[str, ...]
    published: str


RESNET = "CROWN / DeepPoly {} % on all 10,000 test images"
CNN_A = "beta-CROWN {} %, attacks leave {} % (upper limits)"
CASES = {
    "resnet2b-1": Case("cifar10_resnet2b_adv", "eran100", "1/255", ("crown",), RESNET.format(57.16)),
    "resnet2b-2": Case("cifar10_resnet2b_adv", "eran100", "2/255", ("crown", "alpha_crown"), RESNET.format(26.88)),
    "resnet2b-1-jpeg": Case("cifar10_resnet2b_adv", "jpeg", "1/255", ("crown",), RESNET.format(57.16)),
    "resnet2b-2-jpeg": Case("cifar10_resnet2b_adv", "jpeg", "2/255", ("crown",), RESNET.format(26.88)),
    "resnet2b-1-exact": Case("cifar10_resnet2b_adv", "exact", "1/255", ("crown",), RESNET.format(57.16)),
    "resnet2b-1-recoded": Case("cifar10_resnet2b_adv", "recoded", "1/255", ("crown",), RESNET.format(57.16)),
    "resnet2b-2-exact": Case("cifar10_resnet2b_adv", "exact", "2/255", ("crown",), RESNET.format(26.88)),
    "resnet2b-2-recoded": Case("cifar10_resnet2b_adv", "recoded", "2/255", ("crown",), RESNET.format(26.88)),
    "cnn_a_adv": Case(
        "cifar10_sdp_cnn_a_adv", "sdp200", "2/255", ("crown", "alpha_crown", "deepz"), CNN_A.format(45.5, 50.0)
    ),
    "cnn_a_mix4": Case(
        "cifar10_sdp_cnn_a_mix4", "sdp200", "2/255", ("crown", "alpha_crown", "deepz"), CNN_A.format(51.0, 57.5)
    ),
    "colt": Case(
        "mnist_colt_linf01", "mnist", "0.1", ("ibp", "deepz", "crown"), "with other code: DeepZ 91.5 %, intervals 0.0 %"
    ),
}


def images(kind: str, shared: Path, count: int) -> tuple[list[int], Tensor, Tensor]:
    """Return the original test indices, the images and the labels of a case: the first ``count`` of its list."""
    folder = shared / "data"
    if kind == "fashion":
        return _idx(folder / "fashion-mnist-sample", "sprite900", range(0, 900, max(1, 900 // count)))
    if kind == "mnist_spread":
        return _idx(folder / "mnist", "t10k", range(0, 10000, max(1, 10000 // count)))
    if kind == "mnist":
        return _idx(folder / "mnist", "t10k", range(count))
    if kind == "jpeg":
        data = load_data(f"cifar10:{folder}/cifar10/cifar-10-binary-jpegdecoded.tar.xz")
        ids = stratified(data.labels, count, 0)
        return ids, data.read(ids), torch.as_tensor(data.labels[ids])
    with (folder / "cifar10" / "test-exact-subset.csv").open() as file:
        record = {int(row["original_test_index"]): int(row["record"]) for row in csv.DictReader(file)}
    lists = json.loads((folder / "index-lists.json").read_text())
    wanted = {
        "eran100": list(range(100)),
        "sdp200": lists["cifar10_sdp200"]["index"],
        "exact": [list(record)[i] for i in permutation(0, "exact", len(record))],
    }
    ids = wanted["exact" if kind == "recoded" else kind][:count]
    if kind == "recoded":
        data = load_data(f"cifar10:{folder}/cifar10/cifar-10-binary-jpegdecoded.tar.xz")
        return ids, data.read(ids), torch.as_tensor(data.labels[ids])
    rows = np.fromfile(folder / "cifar10" / "test-exact-subset.bin", np.uint8).reshape(-1, 3073)[
        [record[i] for i in ids]
    ]
    return ids, _tensor(rows[:, 1:].reshape(-1, 3, 32, 32)), torch.tensor(rows[:, 0].astype(np.int64))


def _idx(folder: Path, start: str, wanted: range) -> tuple[list[int], Tensor, Tensor]:
    """Return some images of 28 x 28 pixels and their labels from a pair of IDX files."""
    raw, labels = (gzip.decompress(next(folder.glob(f"{start}-{kind}*")).read_bytes()) for kind in ("images", "labels"))
    x = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)[list(wanted)]
    return list(wanted), _tensor(x), torch.tensor([labels[8 + i] for i in wanted])


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.tensor(pixels).float() / 255


def run(name: str, method: str, shared: Path, count: int, done: set[int], writer: Any, file: Any, chunk: int) -> None:
    """Certify the images of a case that are not done yet, and write a line for each."""
    case = CASES[name]
    model = load_model(str(shared / "models" / f"{case.model}.json")).classifier
    threat = ThreatModel.parse(f"linf:{case.epsilon}", model.bounds)
    ids, x, y = images(case.images, shared, count)
    todo = torch.tensor([i for i, sample in enumerate(ids) if sample not in done], dtype=torch.int64)
    for part in todo.split(chunk) if len(todo) else ():
        began = time.process_time()
        found = certify(method, model, x[part], y[part], threat)
        seconds = (time.process_time() - began) / len(part)
        correct = model.logits(x[part]).argmax(1) == y[part]
        sure = part[found.verified]
        if len(sure):
            verdict = attack("pgd", model, x[sure], y[sure], threat, steps=20, relative_step_size=0.25).verdict
            if bool(verdict.success.any()):
                raise SystemExit(f"{name}: certified by {method} and broken: {[ids[i] for i in sure[verdict.success]]}")
        for k, i in enumerate(part.tolist()):
            facts = [name, method, ids[i], int(y[i]), int(correct[k]), f"{float(found.lower_margin[k]):.6g}"]
            writer.writerow([*facts, found.status[k], int(found.rows[k]), f"{seconds:.3f}"])
        file.flush()


def table(path: Path) -> str:
    """Return the lines of a file as a Markdown table."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| network | images | epsilon | method | n | correct | certified, % (95 %) | published or reference | CPU s / image | forms / image |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        for method in case.methods:
            own = [row for row in rows if (row["case"], row["method"]) == (name, method)]
            if not own:
                continue
            n, good = len(own), sum(row["status"] == "verified" for row in own)
            share, low, high = (100 * (part or 0) for part in proportion(good, n))
            correct = 100 * sum(int(row["correct"]) for row in own) / n
            cost = sum(float(row["seconds"]) for row in own) / n
            forms = sum(int(row["rows"]) for row in own) / n
            lines.append(
                f"| {case.model} | {case.images} | {case.epsilon} | {method} | {n} | {correct:.1f} | "
                f"{share:.1f} ({low:.1f}-{high:.1f}) | {case.published} | {cost:.2f} | {forms:.0f} |"
            )
    return "\n".join(lines)


def paired(path: Path) -> str:
    """Return what original pixels change against JPEG ones, on the same images, in per cent with 95 % intervals."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| network | epsilon | n | what | original | JPEG | only original | only JPEG | difference (95 %) |",
        "|---" * 9 + "|",
    ]
    tests = {"correct": lambda row: row["correct"] == "1", "certified": lambda row: row["status"] == "verified"}
    for name, case in CASES.items():
        other = name.replace("exact", "recoded")
        one, two = ({r["sample"]: r for r in rows if (r["case"], r["method"]) == (c, "crown")} for c in (name, other))
        ids = sorted(set(one) & set(two)) if case.images == "exact" else []
        for what, test in tests.items() if ids else ():
            seen = [(test(one[i]), test(two[i])) for i in ids]
            counts = [seen.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
            shares = [100 * sum(column) / len(ids) for column in zip(*seen, strict=True)]
            low, high = (100 * end for end in paired_difference(*counts))
            lines.append(
                f"| {case.model} | {case.epsilon} | {len(ids)} | {what} | {shares[0]:.1f} | {shares[1]:.1f} | {counts[1]} | "
                f"{counts[2]} | {shares[0] - shares[1]:+.1f} ({low:+.1f} to {high:+.1f}) |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=[])
    parser.add_argument("--methods", nargs="*", default=None)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--chunk", type=int, default=10)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    fresh = not given.out.exists()
    with given.out.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(FIELDS)
            file.flush()
        for name in given.cases:
            for method in given.methods or CASES[name].methods:
                with given.out.open() as old:
                    own = [r for r in csv.DictReader(old) if (r["case"], r["method"]) == (name, method)]
                done = {int(row["sample"]) for row in own}
                run(name, method, given.shared, given.n, done, writer, file, given.chunk)
    if given.table:
        print(table(given.out), paired(given.out), sep="\n\n")


if __name__ == "__main__":
    main()
