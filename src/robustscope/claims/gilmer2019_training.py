"""Gilmer 2019: training for one kind of robustness, against noise or against attacks, also gives the other."""

from __future__ import annotations

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.noise_error import BIBTEX


@register(
    "gilmer2019_training",
    version=1,
    source="Gilmer, Ford et al., 2019, arXiv:1901.10513, Sec. 5 and 6",
    bibtex=BIBTEX,
    topic="corruption robustness",
    finding="Training on Gaussian noise makes networks more robust to attacks, and adversarial training makes them err less "
    "in noise: the two kinds of robustness are one.",
    hypothesis="Against standard training, training on Gaussian noise raises robust accuracy, and adversarial training "
    "lowers the error rate in Gaussian noise.",
    rules=(
        Rule("robustness_gained_by_noise", "percentage points of robust accuracy", "above", 5.0, 0.0),
        Rule("errors_in_noise_saved_by_attacks", "percentage points of the error rate in noise", "above", 2.0, 0.0),
    ),
    caveats="Gaussian noise alone; the paper also has the common corruptions, on some of which, such as fog and contrast, "
    "adversarial training loses.",
    cause=("objective",),
    full={"sigma": 0.1, "samples": 1000},
    quick={"samples": 12, "copies": 10, "seeds": 2, "epochs": 2},
)
def gilmer2019_training(
    lab: Lab, *, sigma: float = 0.25, copies: int = 50, samples: int = 200, seeds: int = 5, epochs: int | None = None
) -> Evidence:
    """Compare networks of standard, noisy and adversarial training under attack and in Gaussian noise.

    Args:
        lab: data, networks, measurements.
        sigma: standard deviation of the noise, of training and of test, in the units of the inputs.
        copies: noisy copies of each sample.
        samples: test samples.
        seeds: networks of each kind.
        epochs: of each training; those of the recipe if None.

    Returns:
        Two effects: what noise gives against attacks, and what attacks give against noise.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        found = lab.find("noise_error", subject, batch, sigma=sigma, copies=copies).columns
        return {
            "accuracy": percent(lab.correct(subject, batch)),
            "robust": percent(lab.robust(subject, batch)),
            "error_in_noise": 100 * float(found["error_rate"].mean()),
        }

    networks = {
        "standard": {"objective": "standard"},
        "noise": {"objective": "gaussian_noise", "parameters": {"sigma": sigma}},
        "pgd": {"objective": "pgd"},
    }
    rows = lab.table(networks, seeds, measure, epochs=epochs)
    effects = {
        "robustness_gained_by_noise": difference(
            column(rows, "robust", network="noise"), column(rows, "robust", network="standard")
        ),
        "errors_in_noise_saved_by_attacks": difference(
            column(rows, "error_in_noise", network="standard"), column(rows, "error_in_noise", network="pgd")
        ),
    }
    plot = Plot("networks", "points", "error_in_noise", "robust", "network", "Errors in noise and robust accuracy, %")
    return Evidence(effects, {"networks": rows}, (plot,))
