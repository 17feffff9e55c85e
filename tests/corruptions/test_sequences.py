"""Sequences of ImageNet-P: form, draws that belong to samples, and what each frame must be."""

import math

import numpy as np
import pytest
import torch

from robustscope.analyses.perturbations import flip_probability
from robustscope.contracts.explained import _documented, sections
from robustscope.contracts.trial import global_state, other_global_numbers, state_changes
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, UnknownName
from robustscope.corruptions import corrupt
from robustscope.corruptions.filters import motion
from robustscope.corruptions.resample import scaled
from robustscope.corruptions.sequences import SEQUENCES, perturb
from robustscope.corruptions.sequences.spatter import _run_down
from robustscope.corruptions.sequences.tilt import _view

NAMES = [card.name for card in SEQUENCES]
FRAMES = {"translate": (41, 16), "motion_blur": (31, 21)}
TEN = {
    *("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow"),
    *("brightness", "translate", "rotate", "tilt", "scale"),
}


def pictures(n=3, side=32, dtype=torch.float32):
    drawn = Draws(0, tuple(range(n)), "pictures").integers("x", 3 * side * side, 0, 256)
    return drawn.view(n, 3, side, side).to(dtype) / 255


def test_the_ten_of_the_paper_are_there():
    assert {card.name for card in SEQUENCES if not card.validation} == TEN
    assert {card.name for card in SEQUENCES if card.validation} == {
        "speckle_noise",
        "gaussian_blur",
        "spatter",
        "shear",
    }
    assert {card.name for card in SEQUENCES if card.noise} == {"gaussian_noise", "shot_noise", "speckle_noise"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_form_and_draws(name, dtype):
    x, card = pictures(dtype=dtype), SEQUENCES[name]
    before = x.clone()
    with other_global_numbers(5):
        state = global_state()
        whole = perturb(name, x)
        assert not state_changes(state, global_state())
    frames = FRAMES.get(name, (31, 31))[1]
    assert whole.shape == (3, frames, 3, 32, 32)
    assert whole.dtype == dtype
    assert ((whole >= 0) & (whole <= 1)).all()
    assert torch.equal(x, before)
    assert perturb(name, x[:0]).shape == (0, frames, 3, 32, 32)
    turned = perturb(name, x[[2, 0]], draws=Draws(0, (2, 0)))
    gap = (turned - whole[[2, 0]]).abs()
    assert float((gap > 0).double().mean()) < 1e-3
    assert float(gap.max()) < 1.5 / 255
    assert torch.equal(perturb(name, x, seed=1), whole) != card.stochastic
    assert perturb(name, x, crop=20).shape[-2:] == (20, 20)
    assert perturb(name, x[:1], constants="imagenet-p").shape[1] == FRAMES.get(name, (31, 31))[0]


@pytest.mark.parametrize("name", NAMES)
def test_cards_explain_themselves(name):
    card = SEQUENCES[name]
    parts = sections(card.function.__doc__)
    assert {"x", "draws", *card.parameters} <= _documented(parts["Args"])
    assert card.source
    assert card.bibtex
    assert all(parts.get(part, "").strip() for part in ("Returns", "Raises", "Source"))


def test_noise_begins_with_the_picture():
    grey = torch.full((1, 3, 64, 64), 0.5)
    for difficulty, sigma in ((1, 0.03), (2, 0.05), (3, 0.08)):
        found = perturb("gaussian_noise", grey, difficulty=difficulty, rounding="none", constants="imagenet-p")
        assert torch.equal(found[:, 0], grey)
        assert float((found[:, 1:] - 0.5).std()) == pytest.approx(sigma, rel=0.01)
        assert not torch.equal(found[:, 1], found[:, 2])
    counted = perturb("shot_noise", grey, rounding="none", constants="imagenet-p")
    assert float((counted[:, 1:] - 0.5).std()) == pytest.approx(math.sqrt(0.5 / 300), rel=0.01)


@pytest.mark.parametrize(
    ("name", "constants", "frame"),
    [
        ("brightness", "imagenet-p", 15),
        ("brightness", "cifar-10-p", 15),
        ("translate", "imagenet-p", 20),
        ("translate", "cifar-10-p", 7),
        ("rotate", "imagenet-p", 15),
        ("scale", "imagenet-p", 24),
        ("scale", "cifar-10-p", 15),
        ("zoom_blur", "imagenet-p", 0),
    ],
)
def test_one_frame_is_the_picture(name, constants, frame):
    x = pictures(1)
    found = perturb(name, x, constants=constants)
    same = (found - x[:, None]).abs().amax((0, 2, 3, 4)) < 0.5 / 255
    assert same.nonzero()[:, 0].tolist() == [frame]


def test_translation_is_a_shift():
    x = pictures(1)
    found = perturb("translate", x, constants="imagenet-p")[0]
    torch.testing.assert_close(found[25][:, :, 5:], x[0, :, :, :-5])
    assert not found[25][:, :, :5].any()
    torch.testing.assert_close(found[17][:, :, :-3], x[0, :, :, 3:])
    inside = perturb("translate", x, constants="imagenet-p", crop=16)[0, 25]
    torch.testing.assert_close(inside, x[0, :, 8:24, 3:19])  # what lies beyond the crop moves in


def test_a_turn_moves_a_spot_clockwise():
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, 16, 28] = 1  # to the right of the centre
    last = perturb("rotate", x, rounding="none")[0, -1, 0]
    rows, columns = (torch.arange(33.0) for _ in range(2))
    mass = last.sum()
    down, right = float((last.sum(1) * rows).sum() / mass) - 16, float((last.sum(0) * columns).sum() / mass) - 16
    assert math.degrees(math.atan2(down, right)) == pytest.approx(15, abs=1)
    assert math.hypot(down, right) == pytest.approx(12, abs=0.2)


def test_zoom_blur_is_a_running_mean():
    x = pictures(1, dtype=torch.float64)
    found = perturb("zoom_blur", x, rounding="none")
    due = (x + scaled(x, 1.004) + scaled(x, 1.008)) / 3
    torch.testing.assert_close(found[:, 2], due, atol=1e-12, rtol=0)


def test_motion_turns_by_four_degrees():
    x = pictures(1)
    found = perturb("motion_blur", x, rounding="none", constants="imagenet-p")
    torch.testing.assert_close(found[:, 10], motion(x, 10, 3.0, [-80.0]), atol=0.51 / 255, rtol=0)
    still = perturb("snow", torch.zeros(1, 3, 32, 32), rounding="none")
    assert len({float(frame.sum()) for frame in still[0]}) > 20, "the flakes move"


def test_brightness_is_that_of_the_corruption():
    x = pictures(1)
    found = perturb("brightness", x, constants="imagenet-p")
    assert torch.equal(found[:, 20], corrupt("brightness", x, 1, constants="imagenet-c"))


def test_a_tilt_is_the_product_of_the_programs_matrices():
    """Projection, translation, two rotations and lift in homogeneous coordinates, written out."""
    x, angle = torch.zeros(1, 3, 30, 40), math.radians(9)
    w, h, f = 40, 30, 50.0
    c, s = math.cos(angle), math.sin(angle)
    lift = np.array([[1, 0, -w / 2], [0, 1, -h / 2], [0, 0, 1], [0, 0, 1]])
    about_x = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    about_y = np.array([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1]])
    away = np.eye(4) + f * np.outer([0, 0, 1, 0], [0, 0, 0, 1])
    camera = np.array([[f, 0, w / 2, 0], [0, f, h / 2, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(_view(x, angle), camera @ away @ about_x @ about_y @ lift, atol=1e-12)


def test_speckle_noise_scales_with_the_brightness():
    x = torch.cat([torch.full((1, 3, 64, 32), value) for value in (0.2, 0.4)], 3)
    frames = perturb("speckle_noise", x, constants="imagenet-p", rounding="none")[:, 1:] - x[:, None]
    assert float(frames[..., :32].std()) == pytest.approx(0.05 * 0.2, rel=0.02)
    assert float(frames[..., 32:].std()) == pytest.approx(0.05 * 0.4, rel=0.02)
    third = perturb("speckle_noise", x, difficulty=3, constants="imagenet-p", rounding="none")[:, 1:] - x[:, None]
    torch.testing.assert_close(third, 3 * frames, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("constants", "first", "step"), [("imagenet-p", 0.25, 0.035), ("cifar-10-p", 0.3, 0.015)])
def test_blur_widens_as_the_constants_say(constants, first, step):
    spot = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    spot[..., 16, 16] = 1
    frames = perturb("gaussian_blur", spot, constants=constants, rounding="none")[0, :, 0]
    steps = torch.arange(33.0, dtype=torch.float64) - 16
    for frame in (0, 10, 30):
        law = torch.exp(-(steps**2) / (2 * (first + step * frame) ** 2))
        torch.testing.assert_close(frames[frame].sum(0), law / law.sum(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", [(0.05, 0.1, 0.15, 0.7), (0.2, 0.8)])
def test_water_runs_down_as_numpy_convolves(kernel):
    water = Draws(3, (0, 1)).uniform("w", torch.empty(2, 9, 5).double(), 0.0, 1.0)
    due = np.apply_along_axis(lambda column: np.convolve(column, kernel, mode="same"), 1, water.numpy())
    np.testing.assert_allclose(_run_down(water, kernel), due, atol=1e-12)
    spot = torch.zeros(1, 9, 1)
    spot[0, 4] = 1
    assert int(_run_down(spot, kernel)[0, :, 0].argmax()) == 4 + len(kernel) // 2, "downwards"


def test_a_shear_moves_rows_and_shrinks_the_height():
    """A spot above the centre at frame 30, 15 degrees: (x, y) goes to (x - y sin a, y cos a)."""
    x = torch.zeros(1, 1, 65, 65)
    x[0, 0, 32 - 20, 32 + 5] = 1
    last = perturb("shear", x, rounding="none")[0, -1, 0]
    mass, places = last.sum(), torch.arange(65.0) - 32
    down, right = float((last.sum(1) * places).sum() / mass), float((last.sum(0) * places).sum() / mass)
    angle = math.radians(15)
    assert down == pytest.approx(-20 * math.cos(angle), abs=0.2)
    assert right == pytest.approx(5 + 20 * math.sin(angle), abs=0.2)


def test_flips_of_a_linear_classifier_follow_the_normal_law():
    """FP = Phi(-|f| / (sigma ||w||)) for independent Gaussian noise on an affine classifier."""
    n, sigma = 60, 0.03
    x = torch.full((n, 1, 12, 12), 0.5, dtype=torch.float64)
    weights = Draws(9, (0,)).normal("w", torch.empty(1, 144).double())[0]
    length = float(weights.norm())
    for distance in (0.5, 1.0):
        frames = perturb("gaussian_noise", x, constants="imagenet-p", rounding="none").flatten(2)
        scores = (frames - 0.5) @ weights + distance * sigma * length
        found = flip_probability((scores < 0).long().numpy(), noise=True)
        due = 0.5 * math.erfc(distance / math.sqrt(2))
        assert found == pytest.approx(due, abs=4 * math.sqrt(due * (1 - due) / (30 * n)))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: perturb("tilts", x), UnknownName, "tilt"),
        (lambda x: perturb("gaussian_noise", x, difficulty=4), InvalidValue, "difficulty=4"),
        (lambda x: perturb("tilt", x, crop=99), InvalidValue, "crop=99"),
        (lambda x: perturb("tilt", x, constants="mnist-c"), InvalidValue, "constants='mnist-c'"),
        (lambda x: perturb("tilt", x * 3), InvalidValue, "values in [0, 1]"),
    ],
)
def test_what_is_refused(call, error, says):
    with pytest.raises(error) as caught:
        call(pictures(1, 8))
    assert says in str(caught.value)


def test_pictures_of_64_pixels_have_constants_of_their_own():
    grey = torch.full((1, 3, 64, 64), 0.5)
    for difficulty, sigma in ((1, 0.025), (2, 0.05), (3, 0.075)):
        found = perturb("gaussian_noise", grey, difficulty=difficulty, rounding="none")
        assert float((found[:, 1:] - 0.5).std()) == pytest.approx(sigma, rel=0.01)
    counted = perturb("shot_noise", grey, rounding="none")
    assert float((counted[:, 1:] - 0.5).std()) == pytest.approx(math.sqrt(0.5 / 500), rel=0.01)
    x = pictures(1, 64)
    frames = perturb("translate", x)[0]
    assert len(frames) == 31
    assert torch.equal((frames[20, ..., 5:] * 255).round(), (x[0, ..., :-5] * 255).round())
    turned = perturb("motion_blur", x, rounding="none")[:, 4]
    torch.testing.assert_close(turned, motion(x, 14, 3.0, [-130.0]).mul(255).round().div(255), atol=1e-6, rtol=0)
    assert perturb("snow", x).shape[1] == perturb("tilt", x).shape[1] == 31
