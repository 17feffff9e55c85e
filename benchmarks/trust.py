"""When does `trust` say what? Masked and broken defences, weak attacks, and public networks; writes trust.csv and trust.md.

python benchmarks/trust.py [--part masked broken weak public held_masked held_broken held_weak held_public]
    [--samples 50] [--shared ../shared]

Parts that are not run keep the rows that trust.csv has of them. The parts named "held" are of trust_held_out.py.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustscope
from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import AttackCard
from robustscope.attacks.compose import attack
from robustscope.core.types import AttackResult
from robustscope.data.masked import MASKED, masked, unmasked
from robustscope.data.selection import stratified
from robustscope.defenses.apply import transformation
from robustscope.geometry import balls
from robustscope.geometry.losses import objective
from robustscope.models.classifier import Classifier
from robustscope.models.defended import defend
from robustscope.runs.trust import WHITE, trust

HERE = Path(__file__).resolve().parent
COLUMNS = (
    "part",
    "subject",
    "says",
    "threat",
    "n",
    "correct",
    "left",
    "known",
    "verdict",
    "failed",
    "seconds",
    "first",
)
TITLES = {
    "masked": "Masked networks",
    "broken": "Broken defences",
    "weak": "Weak attacks on an honest network",
    "public": "Public networks",
    "held_masked": "Held out: masked networks",
    "held_broken": "Held out: broken defences",
    "held_weak": "Held out: weak attacks on an honest network",
    "held_public": "Held out: public networks",
}


@dataclass
class Case:
    """One row: what is examined, at which threat model, and what is known of it."""

    subject: str
    says: str
    threat: str
    model: Classifier
    x: Tensor
    y: Tensor
    options: Mapping[str, Any] = field(default_factory=dict)
    known: Callable[[], int] | None = None


def digits(samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the bundled network and some digits."""
    data = robustscope.load_data("digits")
    ids = stratified(data.labels, samples, 0, "trust")
    net = robustscope.load_model("bundled:digits_standard").classifier.module
    return net, data.read(ids), torch.as_tensor(data.labels[ids])


def door(module: nn.Module) -> Classifier:
    """Return a classifier that minds no probabilities."""
    return Classifier(module, allow_probabilities=True, batch_size=500)


def left_by(model: Classifier, searched: Classifier, x: Tensor, y: Tensor, threat: str) -> int:
    """Return how many samples Auto-PGD towards classes, on another network, leaves of those that the model gets right."""
    found = attack("apgd_targeted", searched, x, y, threat, loss="margin").result.x_adv
    return int(((model.logits(x).argmax(1) == y) & (model.logits(found).argmax(1) == y)).sum())


def masked_cases(samples: int) -> Iterator[Case]:
    """Networks that hide their gradients, with the attack that knows what is hidden."""
    net, x, y = digits(samples)
    for name, mask in MASKED.items():
        model, beside = door(masked(name, net)), door(unmasked(name, net))
        known = lambda m=model, b=beside: left_by(m, b, x, y, "linf:0.1")  # noqa: E731
        yield Case(name, mask.says, "linf:0.1", model, x, y, {}, known)


class Changed(nn.Module):
    """A network with something done to its inputs or outputs."""

    def __init__(self, inner: nn.Module, before: Callable = lambda x: x, after: Callable = lambda z: z) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.after(self.inner(self.before(x)))


class Purified(Changed):
    """Takes gradient steps of its own before it predicts."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the purified input, detached from the steps."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.inner(leaf).logsumexp(1).sum(), leaf)
        return self.inner((x + 0.03 * gradient.sign()).clamp(0, 1))


def broken_cases(samples: int) -> Iterator[Case]:
    """Defences that are random, coupled, rounded, or have no usable gradient."""
    net, x, y = digits(samples)
    made = {
        "fresh_noise": (Changed(net, lambda x: x + 0.1 * torch.randn_like(x)), "new noise on the input at each call"),
        "dropout": (Changed(net, lambda x: nn.functional.dropout(x, 0.2)), "dropout left on"),
        "batch_centred": (Changed(net, after=lambda z: z - z.mean(0) + z.mean()), "logits less the mean of the batch"),
        "purifier": (Purified(net), "gradient steps of its own before it predicts"),
        "detached": (Changed(net, torch.Tensor.detach), "no gradient at all"),
        "square_root_at_zero": (
            Changed(net, lambda x: x + 0 * (x - x.detach()).square().sum(1, True).sqrt()),
            "a square root whose derivative at 0 is not a number",
        ),
        "sign_inputs": (Changed(net, lambda x: (x > 0.5).to(x)), "black and white inputs"),
        "bounded_softmax": (
            Changed(net, after=lambda z: (z.softmax(1) * 1e3).round() / 1e3),
            "probabilities of three digits",
        ),
        "bfloat16": (Changed(net, lambda x: x.bfloat16().to(x)), "inputs in half precision"),
    }
    for name, (module, says) in made.items():
        yield Case(name, says, "linf:0.1", door(module), x, y)
    for name in ("bit_depth", "jpeg", "tv_minimisation"):
        model = defend(door(net), transformation(name), approximate=False)
        yield Case(
            f"{name}_undeclared", f"{name.replace('_', ' ')} in front, no approximation", "linf:0.1", model, x, y
        )


def last_iterate(
    model: Classifier, x: Tensor, y: Tensor, threat: Any, *, draws: Any, targets: Any = None, loss: str = "margin",
    steps: int = 40, trace: bool = False,
) -> AttackResult:  # fmt: skip
    """Step by the whole radius, never stop, and return where the last step ended."""
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    radius = threat.radius(x).reshape(-1, *([1] * (x.dim() - 1)))
    x_adv, values = x, []
    for _ in range(steps):
        value, gradients, _ = model.gradient(goal.scores, x_adv)
        values.append(value)
        x_adv = balls.project(threat, x, x_adv + 2 * radius * gradients.sign())
    rows = y.new_full((len(x),), steps)
    return AttackResult(x_adv, rows, rows.clone(), torch.stack(values, 1) if trace else None)


LAST = AttackCard("last_iterate", last_iterate, 1, "benchmarks/trust.py", goals=("untargeted", "targeted"))


def weak_cases(samples: int) -> Iterator[Case]:
    """Attacks that are too weak for the network that `public` trusts with the default one."""
    net, x, y = digits(samples)
    sharp = door(Changed(net, after=lambda z: 30 * z))
    surrogate = door(robustscope.load_model("bundled:digits_adversarial").classifier.module)
    attacks = {
        "one_step": (door(net), ("fgsm", {}), "a single step"),
        "three_steps": (
            door(net),
            ("pgd", {"steps": 3, "relative_step_size": 0.05, "loss": "margin"}),
            "three short steps",
        ),
        "short_steps": (
            door(net),
            ("pgd", {"steps": 10, "relative_step_size": 0.01, "loss": "margin"}),
            "ten tiny steps",
        ),
        "saturated_loss": (sharp, ("pgd", {"loss": "cross_entropy"}), "cross-entropy, logits thirty times as large"),
        "last_iterate": (door(net), (LAST, {}), "leaping steps; returns the last point, not the best"),
        "transfer_only": (door(net), WHITE, "searches on another network"),
    }
    for name, (model, white, says) in attacks.items():
        options = {"white": white, "also": (), **({"search": surrogate} if name == "transfer_only" else {})}
        known = lambda m=model: left_by(m, door(net), x, y, "linf:0.1")  # noqa: E731
        yield Case(name, says, "linf:0.1", model, x, y, options, known)


PUBLIC = {
    "bundled:digits_standard": ("linf:0.1", "l2:0.3"),
    "bundled:digits_adversarial": ("linf:0.1",),
    "mnist_advertorch_mlp_std": ("linf:0.05",),
    "cifar10_marabou_small": ("linf:1/255",),
    "cifar10_oval_sgd": ("linf:1/255",),
    "cifar10_resnet2b_adv": ("linf:2/255",),
    "cifar10_sdp_cnn_a_adv": ("linf:2/255", "linf:8/255"),
    "cifar10_vit_pgd_2_3_16": ("linf:2/255",),
    "mnist_fastat_pgd_madry": ("linf:0.3",),
    "cifar10_oval_base_kw": ("linf:2/255",),
    "mnist_colt_linf01": ("linf:0.1",),
    "mnist_wkscaled_small_linf03": ("linf:0.1",),
    "cifar10_wkscaled_small_8px": ("linf:8/255",),
}


def public_cases(samples: int, shared: Path) -> Iterator[Case]:
    """Networks of others, standard, adversarially trained and provable."""
    sources = {
        "mnist": f"mnist:{shared / 'data/mnist'}",
        "cifar10": f"cifar10:{shared / 'data/cifar10/test-exact-subset.bin'}",
    }
    for name, threats in PUBLIC.items():
        bundled = name.startswith("bundled:")
        loaded = robustscope.load_model(name if bundled else str(shared / f"models/{name}.json"))
        data = robustscope.load_data("digits" if bundled else sources[name.partition("_")[0]])
        ids = stratified(data.labels, samples, 0, "trust")
        x, y = data.read(ids), torch.as_tensor(data.labels[ids])
        for threat in threats:
            yield Case(name.removeprefix("bundled:"), "", threat, loaded.classifier, x, y)


def examine(part: str, case: Case) -> dict[str, Any]:
    """Return the row of a case."""
    start = time.perf_counter()
    found = trust(case.model, case.x, case.y, case.threat, **case.options)
    seconds = time.perf_counter() - start
    failed = ", ".join(f"{check.name} ({check.weight})" for check in found.failed)
    known = "" if case.known is None else case.known()
    row = (part, case.subject, case.says, case.threat, found.n, found.correct, found.left, known, found.verdict, failed)
    return dict(zip(COLUMNS, (*row, round(seconds), found.verdict), strict=True))


def render(rows: list[dict[str, Any]]) -> str:
    """Return the tables as Markdown."""
    lines = ["# When `trust` says what", ""]
    verdicts = ("trust", "doubt", "do not trust this number")
    lines += [f"| | {' | '.join(verdicts)} |", "| --- | ---: | ---: | ---: |"]
    for part, title in TITLES.items():
        mine = [row for row in rows if row["part"] == part]
        counts = [sum(row["verdict"] == verdict for row in mine) for verdict in verdicts]
        lines.append(f"| {title} ({len(mine)}) | {' | '.join(map(str, counts))} |")
    lines += [
        "",
        "*Left* is what the evaluation by default (PGD of 40 steps on the margin, then the ladder's descents), or the weak attack,",
        "leaves of the samples classified correctly; *known* what an attack leaves that knows what is hidden. In brackets: weights.",
        "*At first*, of cases held out: the verdict before any probe was changed because of them.",
    ]
    for part, title in TITLES.items():
        lines += ["", f"## {title}", ""]
        lines += [
            "| subject | threat | samples | correct | left | known | at first | verdict | what failed |",
            "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- |",
        ]
        for row in rows:
            if row["part"] == part:
                subject = f"`{row['subject']}`" + (f": {row['says']}" if row["says"] else "")
                cells = (
                    subject,
                    row["threat"],
                    row["n"],
                    row["correct"],
                    row["left"],
                    row["known"],
                    row["first"] if part.startswith("held") else "",
                    row["verdict"],
                    row["failed"],
                )
                lines.append("| " + " | ".join(str(cell) if cell not in ("", None) else "–" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the parts asked for and write both files."""
    import trust_held_out as held_out

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--only", nargs="+", help="subjects of these parts to run again")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = HERE / "trust.csv"
    rows = list(csv.DictReader(table.open(encoding="utf-8"))) if table.exists() else []
    makers = {
        "masked": lambda: masked_cases(given.samples),
        "broken": lambda: broken_cases(given.samples),
        "weak": lambda: weak_cases(given.samples),
        "public": lambda: public_cases(given.samples, given.shared),
        "held_masked": lambda: held_out.masked_cases(given.samples, given.shared),
        "held_broken": lambda: held_out.broken_cases(given.samples),
        "held_weak": lambda: held_out.weak_cases(given.samples),
        "held_public": lambda: held_out.public_cases(given.samples, given.shared),
    }
    for part in given.part:
        for case in makers[part]():
            if given.only and case.subject not in given.only:
                continue
            row = examine(part, case)
            print(row, flush=True)
            mark = ("part", "subject", "threat")
            place = [i for i, old in enumerate(rows) if all(old[key] == row[key] for key in mark)]
            if place:
                rows[place[0]] = row | {"first": rows[place[0]]["first"] or row["first"]}
            else:
                rows.append(row)
            with table.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            (HERE / "trust.md").write_text(render(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
