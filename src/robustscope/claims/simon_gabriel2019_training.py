"""Simon-Gabriel 2019: late in training a little accuracy is paid for with a much larger loss gradient."""

from __future__ import annotations

from collections.abc import Sequence

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, mean, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.gradient_norm import BIBTEX


@register(
    "simon_gabriel2019_training",
    version=1,
    source="Simon-Gabriel et al., 2019, arXiv:1802.01421, Sec. 4; survey, Sec. 3.2",
    bibtex=BIBTEX,
    topic="feature representation",
    finding="When the training loss nears its minimum the test accuracy still creeps up, at the price of a loss gradient that "
    "grows much, and with it of robustness.",
    hypothesis="In the last three quarters of a long standard training at a steady rate the mean l1 norm of the loss "
    "gradient on test samples grows by a quarter or more, while accuracy does not fall.",
    rules=(
        Rule("gradient_growth", "ratio of mean l1 norms, end over the first quarter", "above", 1.25, 1.0),
        Rule("accuracy_gain", "percentage points of test accuracy, end less the first quarter", "above", 0.0, -1.0),
    ),
    caveats="A network of fewer epochs is the same network earlier, for the rate is flat. On digits the accuracy is "
    "nearly reached after a few epochs; the gradient turns from falling to rising where the source says, but "
    "by a tenth only, which three trainings do not settle.",
    cause=("epochs",),
    full={"epochs": (25, 50, 100, 200), "early": 50, "optimizer": "sgd", "learning_rate": 0.01, "samples": 1000},
    quick={"epochs": (1, 2), "early": 1, "seeds": 2, "samples": 10},
)
def simon_gabriel2019_training(
    lab: Lab,
    *,
    epochs: Sequence[int] = (5, 10, 20, 40, 80),
    early: int = 20,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    seeds: int = 3,
    samples: int = 300,
) -> Evidence:
    """Train for rising numbers of epochs at a flat rate, and follow accuracy, loss gradient and robustness.

    Args:
        lab: data, networks, measurements.
        epochs: at which the training is looked at; the last is its end.
        early: one of them, where the late part begins.
        optimizer: of the training.
        learning_rate: of the training.
        seeds: trainings.
        samples: test samples.

    Returns:
        Two effects: the growth of the gradient and the gain in accuracy over the late part.
    """
    batch = lab.samples(samples)
    threat = lab.threat.scaled(1 / 3)

    def measure(subject: Subject) -> dict[str, float]:
        found = lab.find("gradient_norm", subject, batch).columns
        return {
            "epochs": len(subject.history),
            "train_loss": subject.history[-1]["loss"],
            "accuracy": percent(lab.correct(subject, batch)),
            "l1": float(found["l1"].mean()),
            "robust_at_a_third": percent(lab.robust(subject, batch, threat)),
        }

    common = {"objective": "standard", "optimizer": optimizer, "learning_rate": learning_rate, "schedule": "flat"}
    rows = lab.table({f"epoch {n}": {"epochs": n} for n in epochs}, seeds, measure, **common)
    first, last = {"network": f"epoch {early}"}, {"network": f"epoch {epochs[-1]}"}
    effects = {
        "gradient_growth": mean(column(rows, "l1", **last) / column(rows, "l1", **first)),
        "accuracy_gain": difference(column(rows, "accuracy", **last), column(rows, "accuracy", **first)),
    }
    plots = (
        Plot("trainings", "points", "epochs", "l1", "seed", "Mean l1 norm of the loss gradient", ("x", "y")),
        Plot("trainings", "points", "epochs", "accuracy", "seed", "Accuracy on test samples, %", ("x",)),
    )
    return Evidence(effects, {"trainings": rows}, plots)
