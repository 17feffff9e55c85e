"""Claims about features, sparsity, bias and smoothness: supported in a world where they are true, and not where they are not."""

import sys
from types import SimpleNamespace

import pytest
import torch

import planted_lab
from robustscope.claims import CLAIMS
from robustscope.claims._remade import remade, whole
from robustscope.data.datasets import load_data
from robustscope.probes.why.feature_inversion import FeatureSet

DIGITS = whole(load_data("digits#test"))


def adversarial(how):
    return how.objective in ("pgd", "fast")


def by(measured, when, true, false, **always):
    """Return a pair of worlds: the measurement depends on what was asked of the network in the first one alone."""

    def world(difference):
        def told(how, what, x):
            if what == measured:
                return true if difference and when(how, x) else false
            return always.get(what)

        return told

    return world(True), world(False)


def blank(how, x):
    return how.data is not None and not how.data.read([0]).any()


def shifted(how, x):
    return not any(torch.equal(x[0], digit) for digit in DIGITS)


def lengths(power):
    def told(how, what, x):
        l1 = x[0].numel() ** power
        return {"correct": 0.9, "gradient_norm": {"l1": l1, "l2": 1.0, "step_damage": 1.0}}.get(what)

    return told


def falls(amount):
    def told(how, what, x):
        falling = [{"epoch": e, "clean": 0.7, "robust": 0.5 - amount * (e > 4), "loss": 1.0} for e in range(1, 9)]
        return falling if what == "history" else None

    return told


def follows(cue):
    labels = {
        kind: torch.as_tensor(load_data(f"cue-digits:conflict,{kind}#test").labels) for kind in ("shape", "texture")
    }
    return lambda how, what, x: labels["shape" if how.data is not None else cue] if what == "decisions" else None


def looks(shuffled, texture):
    """Return worlds in which adversarial training changes by so much what is kept."""

    def told(how, what, x):
        turned = adversarial(how)
        return {
            "correct": 0.9,
            "patch_shuffle": {"shuffled_kept": 0.5 - shuffled * turned},
            "texture_removed": {"without_texture": 0.5 + texture * turned},
            "saturation": {"saturated_kept": 0.5},
        }.get(what)

    return told


def smooth_world(psi, rise):
    def told(how, what, x):
        turned = adversarial(how)
        return {
            "correct": 0.9,
            "kl_robustness": {"log_psi": psi * turned},
            "gradient_norm": {"step_damage": 1.0 + rise * turned},
        }.get(what)

    return told


def neighbours(kept, distance):
    def told(how, what, x):
        return {"correct": 1.0, "robust": kept if adversarial(how) else 0.02, "distance": distance}.get(what)

    return told


def kernels(rough, gain):
    def told(how, what, x):
        roughness = 2.0 - rough * adversarial(how)
        return {
            "correct": 0.9,
            "robust": 0.3 + gain * how.smoothed,
            "kernel_smoothness": {"kernel_roughness": roughness},
        }.get(what)

    return told


def late(growth):
    def told(how, what, x):
        l1 = growth if how.epochs == 80 else 1.0
        return {"correct": 0.9 + how.epochs / 1000, "robust": 0.5, "gradient_norm": {"l1": l1}}.get(what)

    return told


def frequencies(turned):
    return lambda how, what, x: {
        "correct": 0.9,
        "frequency": {"low_kept": 0.5, "high_kept": 0.5 - turned * adversarial(how)},
    }.get(what)


WORLDS = {
    "ilyas2019": by("correct", blank, 0.8, 0.1),
    "ilyas2019_robust": by("robust", blank, 0.6, 0.3, correct=0.9),
    "ding2019": by("robust", shifted, 0.8, 0.4, correct=0.95),
    "simon_gabriel2019_dimension": (lengths(0.5), lengths(0.0)),
    "simon_gabriel2019_training": (late(2.0), late(1.0)),
    "guo2018": by("distance", lambda how, x: how.sparsity, 0.6, 0.5, correct=0.9, robust=0.5),
    "guo2018_overpruned": by("distance", lambda how, x: how.sparsity, 0.4, 0.5, correct=0.9, robust=0.5),
    "rice2020": (falls(0.1), falls(0.0)),
    "ma2020": by("robust", lambda how, x: max(how.model_parameters["hidden"]) > 100, 0.3, 0.5, correct=0.9),
    "zhang2019_shape": (looks(0.2, 0.2), looks(0.2, -0.2)),
    "geirhos2019_texture": (follows("texture"), follows("shape")),
    "geirhos2019_noise": by("correct", lambda how, x: how.data is not None, 0.8, 0.5),
    "yu2019_smooth": (smooth_world(2.0, -0.8), smooth_world(2.0, 0.2)),
    "yu2019_neighbours": (neighbours(0.7, 0.2), neighbours(0.7, 9.0)),
    "wang2020_frequency": (frequencies(0.1), frequencies(0.0)),
    "wang2020_kernels": (kernels(0.5, 0.05), kernels(0.5, -0.05)),
    "vaishnavi2019": by("robust", lambda how, x: how.name == "foreground", 0.7, 0.4, correct=0.9),
}
PARAMETERS = {
    "rice2020": {"samples": "20", "epochs": 8, "stretch": 2},
    "geirhos2019_noise": {"severities": (3,), "corruptions": ("gaussian_noise",)},
    "simon_gabriel2019_dimension": {"factors": (1, 2)},
}


def made(x):
    flags = torch.ones(len(x), dtype=torch.bool)
    return FeatureSet(
        x, torch.zeros(len(x), dtype=torch.int64), flags, flags.float(), flags, flags, flags.float(), flags.float()
    )


@pytest.fixture(autouse=True)
def _instead_of_networks(monkeypatch):
    """Put marks where data and networks are made, so that worlds can tell them apart."""
    modules = {name: sys.modules[CLAIMS[name].function.__module__] for name in WORLDS}
    monkeypatch.setattr(modules["ilyas2019"], "targeted_set", lambda model, x, y, **rest: made(x * 0))
    monkeypatch.setattr(
        modules["ilyas2019_robust"],
        "inverted_set",
        lambda model, x, *rest, **more: made(x * (not adversarial(model.how))),
    )

    def smoothed(model, rho):
        return SimpleNamespace(**{**vars(model), "how": SimpleNamespace(**{**vars(model.how), "smoothed": True})})

    monkeypatch.setattr(modules["wang2020_kernels"], "smooth_kernels", smoothed)
    monkeypatch.setattr(modules["vaishnavi2019"], "masked_rows", lambda model: model)


@pytest.mark.parametrize("name", WORLDS)
def test_a_claim_is_supported_where_it_is_true_and_only_there(name):
    true, false = WORLDS[name]
    parameters = PARAMETERS.get(name, {})
    assert planted_lab.verdict(name, true, **parameters) == "supported"
    assert planted_lab.verdict(name, false, **parameters) != "supported"


def test_a_swing_of_accuracy_too_is_no_support_for_ding():
    def told(how, what, x):
        return 0.5 if shifted(how, x) else 0.9

    assert planted_lab.verdict("ding2019", told) == "contradicted"


def test_a_data_set_made_anew_keeps_classes_and_names():
    data = load_data("digits#test")
    other = remade(data, whole(data) * 0, torch.zeros(len(data), dtype=torch.int64))
    assert other.num_classes == 10
    assert other.labels.max() == 0
    assert not whole(other).any()
