"""Stutz 2019: training on adversarial examples of the manifold lowers the test error."""

from __future__ import annotations

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference
from robustscope.claims.lab import Lab, Subject
from robustscope.training.objectives.on_manifold import BIBTEX


@register(
    "stutz2019_training",
    version=1,
    source="Stutz, Hein, Schiele, 2019, arXiv:1812.00740, Sec. 3.4",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="Adversarial training on the manifold of the data improves accuracy: robustness of this kind is no price but a "
    "gain.",
    hypothesis="With few training samples, on-manifold adversarial training has a lower test error than standard training.",
    rules=(Rule("error_saved", "percentage points of the test error", "above", 0.5, 0.0),),
    caveats="The manifold of a class is the plane of its principal components, fitted on the few training samples of the "
    "networks; the paper learns a VAE-GAN on all training samples, which knows more than the network. "
    "A perceptron that fits all training samples gains nothing from such planes here: errors of both kinds of training "
    "differ from seed to seed more than from each other.",
    cause=("objective",),
    full={"training_samples": 1000, "samples": 10000, "seeds": 5},
    full_recipe="mnist-fast",
    quick={"training_samples": 200, "steps": 2, "latent": 2, "samples": 100, "seeds": 2, "epochs": 2},
)
def stutz2019_training(
    lab: Lab,
    *,
    training_samples: int = 250,
    radius: float = 0.3,
    steps: int = 40,
    latent: int = 10,
    samples: int = 500,
    seeds: int = 5,
    epochs: int | None = None,
) -> Evidence:
    """Train on few samples, as they are and on adversarial examples of their manifold; compare test errors.

    Args:
        lab: data, networks, measurements.
        training_samples: of each network; those of one seed have the same.
        radius: of the codes.
        steps: of the attack in training.
        latent: principal components of a class, fewer than its training samples.
        samples: test samples.
        seeds: networks of each kind.
        epochs: of each training; those of the recipe if None.

    Returns:
        One effect: the test error that is saved.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        return {"test_error": 100 * float(1 - lab.correct(subject, batch).double().mean())}

    networks = {
        "standard": {"objective": "standard"},
        "on manifold": {
            "objective": "on_manifold",
            "parameters": {"radius": radius, "steps": steps, "latent": latent},
        },
    }
    rows = lab.table(networks, seeds, measure, samples=training_samples, epochs=epochs)
    saved = difference(
        column(rows, "test_error", network="standard"), column(rows, "test_error", network="on manifold")
    )
    plot = Plot("networks", "bars", "network", "test_error", title="Test error, %")
    return Evidence({"error_saved": saved}, {"networks": rows}, (plot,))
