"""Separation: golden values of digits and MNIST, twins, and the classifier that it promises."""

from pathlib import Path

import pytest
import torch

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data.datasets import load_data
from robustscope.geometry import balls
from robustscope.limits.separation import separation

MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"


def everything(spec):
    data = load_data(spec)
    return data.read(range(len(data))), torch.as_tensor(data.labels)


def test_the_digits_are_seven_sixteenths_apart():
    x, y = everything("digits#all")
    found = separation(x, y, norm="linf")
    assert found.smallest == 7 / 16
    assert found.n == found.searched == 1797
    assert len(found.twins) == 0
    assert found.separated(7 / 32 - 1e-6) == 1.0
    assert found.separated(7 / 32) < 1.0, "closed balls touch"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_sample_against_the_whole_table(norm):
    x, y = everything("digits")
    found = separation(x, y, norm=norm)
    order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm]
    table = torch.cdist(x.flatten(1).double(), x.flatten(1).double(), p=order).masked_fill(y[:, None] == y, torch.inf)
    torch.testing.assert_close(found.distance, table.amin(1))


def test_the_nearest_class_is_robust_up_to_half_the_separation():
    """Yang et al., Theorem 1: 300 samples, each moved at random by just less than r."""
    x, y = everything("digits#train")
    found = separation(x, y, norm="linf")
    threat = ThreatModel("linf", tuple((0.4999 * found.distance[:300]).tolist()))
    moved = balls.sample(threat, x[:300], Draws(0, tuple(range(300)), "test"), "move")
    away = torch.cdist(moved.flatten(1), x.flatten(1), p=torch.inf)
    assert torch.equal(y[away.argmin(1)], y[:300])


def test_twins_are_found_wherever_they_are():
    x = torch.tensor([[0.0, 1.0], [0.5, 0.5], [-0.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    found = separation(x, torch.tensor([0, 0, 1, 0, 0]))
    assert found.twins.tolist() == [[0, 2], [2, 3]]
    assert found.smallest == 0
    assert found.smallest_without_twins == 0.5
    across = separation(x[:2], torch.tensor([1, 1]), x[2:], torch.tensor([0, 1, 0]))
    assert across.twins.tolist() == [[0, 0], [1, 2]]


def test_without_another_class_there_is_no_distance():
    x = torch.rand(4, 3)
    found = separation(x[:2], torch.tensor([0, 1]), x[2:], torch.tensor([1, 1]))
    assert found.distance[1] == torch.inf
    assert found.neighbour[1] == -1


def test_what_is_not_allowed_is_refused():
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(InvalidValue, match="both or neither"):
        separation(x, y, x)
    with pytest.raises(InvalidType):
        separation(x, y[:2])
    with pytest.raises(InvalidValue, match="classes"):
        separation(x, y * 0)
    with pytest.raises(InvalidValue, match="norm"):
        separation(x, y, norm="l0")


@pytest.mark.shared
@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not beside the project")
def test_mnist_images_against_all_training_images():
    """Images 767 and 7216 have the nearest other class of all ones and zeros; over all classes it is at 207/255."""
    train, test = load_data(f"mnist:{MNIST}#train"), load_data(f"mnist:{MNIST}#test")
    ids = [767, 7216, 0, 1, 2]
    x, y, pool = test.read(ids), torch.as_tensor(test.labels[ids]), train.read(range(60_000))
    labels = torch.as_tensor(train.labels)
    found = separation(x, y, pool, labels, norm="linf")
    assert (found.distance[:2] * 255).tolist() == pytest.approx([218, 248], abs=1e-4)
    assert found.neighbour[:2].tolist() == [43_109, 26_513]
    for k, sample in enumerate(x):
        every = (pool - sample).abs().flatten(1).amax(1).masked_fill(labels == y[k], torch.inf)
        assert float(found.distance[k]) == pytest.approx(float(every.min()), abs=1e-7)
    assert found.searched == 60_000
