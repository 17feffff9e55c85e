"""Probes that change the data: classifiers that look at one thing only, for which every answer is known."""

import math

import pytest
import torch
from torch import nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data.datasets import load_data
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model
from robustscope.probes.why import WHY
from robustscope.probes.why.average_filter import room

THREAT = ThreatModel("linf", 0.1)
DATA = ("saturation", "patch_shuffle", "average_filter", "frequency", "texture_removed")


class Says(nn.Module):
    """Class 1 where a statement about pictures (B, C, H, W) holds, else 0."""

    def __init__(self, statement):
        super().__init__()
        self.statement = statement
        self.eval()

    def forward(self, x):
        found = self.statement(x).to(x.dtype)
        return torch.stack([1 - 2 * found, 2 * found - 1], 1)


def ask(name, model, x, y, ids=None, seed=0, **parameters):
    draws = Draws(seed, tuple(range(len(x))) if ids is None else ids)
    given = WHY[name].resolve(parameters)
    return WHY[name].function(model, x, y, THREAT, draws=draws, **given)


def pictures(n=6, side=8, dtype=torch.float64):
    return torch.rand(n, 2, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_a_classifier_of_the_mean_keeps_tiles_and_low_frequencies():
    """The mean of a picture survives any order of tiles and any low-pass filter; the high part has none."""
    x = pictures()
    middle = float(x.mean((1, 2, 3)).median()) + 1e-6
    model = Classifier(Says(lambda z: z.mean((1, 2, 3)) > middle))
    y = model.decisions(x)
    assert 0 < y.sum() < 6
    assert (ask("patch_shuffle", model, x, y).columns["shuffled_kept"] == 1).all()
    found = ask("frequency", model, x, y)
    assert (found.columns["low_kept"] == 1).all()
    assert found.columns["high_kept"].equal((y == 0).to(x.dtype))  # a mean of 0 says class 0
    assert (found.columns["high_only"] == 0).all()
    without = ask("texture_removed", model, x, y)
    assert (without.columns["without_texture"] == 1).all()
    assert (without.columns["without_shape"] == 1).all()


def test_a_classifier_of_one_wave_tells_its_frequency():
    """Right below the frequency on the high part, above it on the low part."""
    wave = torch.cos(2 * math.pi * 3 * torch.arange(16, dtype=torch.float64) / 16)
    x = 0.5 + 0.3 * wave.expand(1, 1, 16, 16)
    model = Classifier(Says(lambda z: (z * wave).mean((1, 2, 3)) > 0.05))
    found = ask("frequency", model, x, torch.ones(1, dtype=torch.int64), radii=(1, 2, 3, 4, 8))
    assert found.pictures["low"].tolist() == [[0, 0, 0, 1, 1]]
    assert found.pictures["high"].tolist() == [[1, 1, 1, 0, 0]]
    assert found.columns["high_only"].item() == found.columns["high_kept"].item() == pytest.approx(3 / 5)
    assert found.axes["low"][0].tolist() == [1, 2, 3, 4, 8]


def test_a_classifier_of_places_is_lost_when_tiles_move():
    """Bright in one quarter: kept in one order of four, of those where this quarter stays."""
    x = torch.zeros(1200, 1, 4, 4)
    x[:, :, :2, :2] = 1
    model = Classifier(Says(lambda z: z[:, 0, :2, :2].mean((1, 2)) > 0.5))
    found = ask("patch_shuffle", model, x, torch.ones(1200, dtype=torch.int64), grids=(1, 2), repeats=1)
    first, second = found.pictures["shuffled"].T
    assert (first == 1).all()
    assert second.mean().item() == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 1200))
    assert found.columns["shuffled_kept"].equal((first + second) / 2)


def test_a_classifier_of_greys_is_lost_by_saturation():
    """x = 0.25: 2 x - 1 = -0.5, so that level p gives 0.5 - 0.5^(2/p) / 2: above 0.2 only for p < 2.7."""
    x = torch.full((2, 1, 2, 2), 0.25)
    model = Classifier(Says(lambda z: z.mean((1, 2, 3)) > 0.2))
    found = ask("saturation", model, x, torch.ones(2, dtype=torch.int64), levels=(1, 2, 2.6, 2.8, 64, math.inf))
    assert found.pictures["saturated"].tolist() == [[1, 1, 1, 0, 0, 0]] * 2
    assert found.columns["saturated_kept"].tolist() == [0.5, 0.5]


def test_saturation_is_that_of_the_models_bounds():
    x = torch.full((1, 4), 0.2)
    model = Classifier(Says(lambda z: z[:, 0] > 0.5), bounds=Bounds(-1, 1))
    found = ask("saturation", model, x, torch.ones(1, dtype=torch.int64), levels=(2, math.inf))
    assert found.pictures["saturated"].tolist() == [[0, 1]]
    assert found.columns["saturated_kept"].isnan().all()  # misclassified as it is


def test_a_classifier_of_a_dot_is_lost_by_smoothing():
    x = torch.zeros(1, 1, 7, 7)
    x[..., 3, 3] = 1
    model = Classifier(Says(lambda z: z.amax((1, 2, 3)) > 0.1))
    found = ask("average_filter", model, x, torch.ones(1, dtype=torch.int64), kernels=(1, 2, 3, 4, 5))
    assert found.pictures["smoothed"].tolist() == [[1, 1, 1, 0, 0]]  # 1, 1/4, 1/9, 1/16, 1/25


def test_shape_is_in_the_phases():
    """A classifier of edges at one place keeps the phases; one of the spectrum alone keeps the amplitudes."""
    x = torch.full((8, 1, 16, 16), 0.3, dtype=torch.float64)
    x[..., 8:] = 0.7
    x = x + 0.05 * (pictures(8, 16)[:, :1] - 0.5)
    y = torch.ones(8, dtype=torch.int64)
    edge = Classifier(Says(lambda z: z[..., 8:].mean((1, 2, 3)) - z[..., :8].mean((1, 2, 3)) > 0.1))
    found = ask("texture_removed", edge, x, y).columns
    assert (found["without_texture"] == 1).all()
    assert found["without_shape"].mean() < 0.6
    power = torch.fft.fft2(x).abs()[:, 0, 0, 1].min() * 0.99
    spectrum = Classifier(Says(lambda z: torch.fft.fft2(z).abs()[:, 0, 0, 1] > power))
    assert (ask("texture_removed", spectrum, x, y).columns["without_shape"] == 1).all()


def digits(n=40):
    model = load_model("bundled:digits_standard").classifier
    data = load_data("digits")
    return model, data.read(range(n)), torch.from_numpy(data.labels[:n])


@pytest.mark.parametrize("sides", [(8, 8), (7, 9), (5, 4)])
def test_the_last_radius_holds_the_whole_picture(sides):
    x = torch.rand(20, 1, *sides, generator=torch.Generator().manual_seed(2))
    model = Classifier(Says(lambda z: z[:, 0, 0, 0] > 0.5))
    found = ask("frequency", model, x, torch.ones(20, dtype=torch.int64))
    assert torch.equal(found.pictures["low"][:, -1] == 1, x[:, 0, 0, 0] > 0.5)
    assert found.pictures["high"][:, -1].sum() == 0


@pytest.mark.parametrize("name", DATA)
def test_samples_are_not_coupled(name):
    model, x, y = digits()
    whole = ask(name, model, x, y)
    assert set(whole.columns) == set(WHY[name].columns)
    parts = [ask(name, model, x[a:b], y[a:b], tuple(range(a, b))) for a, b in ((0, 7), (7, 40))]
    for column in whole.columns:
        assert whole.columns[column].shape == (40,)
        assert torch.equal(
            torch.cat([p.columns[column] for p in parts]).nan_to_num(-1), whole.columns[column].nan_to_num(-1)
        )
    for picture in whole.pictures:
        joined = torch.cat([p.pictures[picture] for p in parts])
        assert torch.allclose(joined, whole.pictures[picture], atol=1e-6)
        assert [len(axis) for axis in whole.axes[picture]] == list(joined.shape[-len(whole.axes[picture]) :])
    none = ask(name, model, x[:0], y[:0], ())
    assert all(values.shape == (0,) for values in none.columns.values())


@pytest.mark.parametrize("name", DATA)
def test_rows_go_through_the_ledger_only(name):
    model, x, y = digits(5)
    before = (x.clone(), model.ledger.forward, torch.get_rng_state())
    found = ask(name, model, x, y, **WHY[name].quick)
    assert torch.equal(x, before[0])
    assert model.ledger.forward > before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(values.dtype == x.dtype for values in found.columns.values())


def test_a_probe_that_couples_samples_is_caught():
    """One order of tiles for the whole batch: the check above compares samples by themselves."""
    from robustscope.data.transforms import shuffle_tiles, tile_orders

    x = pictures(8)
    batch = tile_orders(Draws(0, (0,)), "tiles", 4).expand(8, -1)
    own = tile_orders(Draws(0, tuple(range(8))), "tiles", 4)
    assert torch.equal(shuffle_tiles(x, own)[3:4], shuffle_tiles(x[3:4], tile_orders(Draws(0, (3,)), "tiles", 4)))
    assert not torch.equal(shuffle_tiles(x, batch)[3:4], shuffle_tiles(x[3:4], own[3:4]))


def test_the_room_of_digits():
    data = load_data("digits")
    x, y = data.read(range(150)), torch.from_numpy(data.labels[:150])
    plain, grey = room(x, y, THREAT), room(0.25 + x / 2, y, THREAT)
    assert grey["interclass_distance"] == pytest.approx(plain["interclass_distance"] / 2, rel=1e-5)
    assert plain["log_volume"] < grey["log_volume"] == pytest.approx(math.log(0.2), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("saturation", {"levels": (0.0,)}),
        ("saturation", {"levels": ()}),
        ("patch_shuffle", {"grids": (3,)}),
        ("patch_shuffle", {"grids": (1.5,)}),
        ("patch_shuffle", {"repeats": 0}),
        ("average_filter", {"kernels": (0,)}),
        ("average_filter", {"kernels": (2, 2)}),
        ("frequency", {"radii": (-1.0,)}),
        ("texture_removed", {"repeats": 0}),
    ],
)
def test_what_is_refused(name, parameters):
    model, x, y = digits(3)
    with pytest.raises(InvalidValue):
        ask(name, model, x, y, **parameters)


@pytest.mark.parametrize("name", ["patch_shuffle", "average_filter", "frequency", "texture_removed"])
def test_vectors_are_no_pictures(name):
    model = Classifier(nn.Linear(4, 3).eval())
    with pytest.raises(InvalidValue, match=r"\(B, C, H, W\)"):
        ask(name, model, torch.rand(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("name", DATA)
def test_a_black_box_of_labels_is_enough(name):
    x = pictures(4)
    box = BlackBox(lambda z: (z.mean((1, 2, 3)) > 0.5).long(), num_classes=2, answers="labels")
    model, y = Classifier(box), torch.zeros(4, dtype=torch.int64)
    found = ask(name, model, x, y, **WHY[name].quick)
    assert all(values.shape == (4,) for values in found.columns.values())
