"""Claims about noise, separation and manifolds: worlds in which the finding is true, and worlds in which it is false."""

import numpy as np
import pytest
import torch

from robustscope.claims import CLAIMS, Lab, Setting, Subject
from robustscope.claims import stutz2019_manifold as manifold
from robustscope.data.arrays import ArrayDataset
from robustscope.limits.generators import PPCA
from robustscope.probes.why import Findings


def lab_at(folder):
    return Lab(folder, Setting("digits", "digits"))


def verdict(name, lab, **parameters):
    card = CLAIMS[name]
    return card.judge(card.function(lab, **card.resolve({**card.quick, **parameters})).effects)


# Errors in noise.


def planted(lab, linked, spread):
    """Let eight networks have errors in noise that belong to their distances, or to those of other samples."""
    numbers = np.random.default_rng(0)
    lab.subjects = lambda seeds, **changes: [Subject(str(i), None, str(i)) for i in range(8)]

    def find(probe, subject, batch, *, sigma, copies):
        distance = torch.tensor((1 + spread * int(subject.name)) * numbers.uniform(0.5, 1.5, len(batch)))
        behind = distance if linked else distance[numbers.permutation(len(batch))]
        rate = torch.special.ndtr(-behind / sigma)
        columns = {"error_rate": rate, "predicted_distance": behind, "measured_distance": distance}
        return Findings(columns)

    lab.find = find
    return lab


def test_half_spaces_support_gilmer(tmp_path):
    assert verdict("gilmer2019", planted(lab_at(tmp_path), True, 0.2))[0] == "supported"


def test_noise_that_tells_nothing_of_the_distances_contradicts_gilmer(tmp_path):
    overall, each = verdict("gilmer2019", planted(lab_at(tmp_path), False, 0.2))
    assert (overall, each["across_samples"]) == ("contradicted", "contradicted")


def test_errors_much_nearer_than_their_noise_contradict_gilmer(tmp_path):
    lab = planted(lab_at(tmp_path), True, 0.2)
    honest = lab.find

    def near(*given, **more):
        columns = honest(*given, **more).columns
        return Findings({**columns, "measured_distance": columns["measured_distance"] / 10})

    lab.find = near
    assert verdict("gilmer2019", lab)[1]["measured_over_predicted"] == "contradicted"


# Separation.


def separated(lab, gap):
    """Let two classes be ``gap`` apart in linf."""
    numbers = np.random.default_rng(0)
    for split in ("train_set", "test_set"):
        y = np.arange(60) % 2
        x = (0.2 * numbers.random((60, 6)) + (0.2 + gap) * y[:, None]).astype(np.float32)
        setattr(lab, split, ArrayDataset(split, [x], y))
    return lab


def test_classes_far_apart_support_yang(tmp_path):
    assert verdict("yang2020_separation", separated(lab_at(tmp_path), 0.35))[0] == "supported"


def test_classes_closer_than_two_radii_contradict_yang(tmp_path):
    overall, each = verdict("yang2020_separation", separated(lab_at(tmp_path), 0.1))
    assert overall == "contradicted"
    assert set(each.values()) == {"contradicted"}


# Manifolds.


def plane():
    """Return a generator of two classes whose plane is that of the first two of six values."""
    numbers = np.random.default_rng(0)
    x = np.concatenate([numbers.normal(size=(200, 2)), 0.01 * numbers.normal(size=(200, 4))], 1)
    x[:, 0] *= 3
    y = torch.arange(200) % 2
    return PPCA.fit(torch.as_tensor(x), y, latent=2)


def test_the_share_off_the_plane():
    delta = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], [0, 0, 0, 3, 0, 0], [0, 1, 0, 0, 0, 1]]).double()
    share = manifold._off(plane(), delta, torch.tensor([0, 1, 0, 1]))
    assert torch.allclose(share, torch.tensor([0.0, 0.0, 1.0, 0.5]).double(), atol=1e-3)


@pytest.mark.parametrize("inside", [False, True])
def test_perturbations_inside_the_manifold_contradict_stutz(tmp_path, monkeypatch, inside):
    lab = lab_at(tmp_path)
    known = lab.samples(len(lab.train_set), "train")
    generator = PPCA.fit(known.x, known.y, latent=10)
    directions = torch.randn(len(known), 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def perturbations(lab, subject, batch):
        rows = torch.arange(len(batch))
        codes = directions[rows].flatten(1)[:, :10]
        return (generator.decode(codes, batch.y) - generator.mean[batch.y] if inside else directions[rows]), batch.y

    monkeypatch.setattr(manifold, "_perturbations", perturbations)
    each = verdict("stutz2019_manifold", lab, epochs=1)[1]
    assert each["further_off_the_manifold"] == ("contradicted" if inside else "supported")
