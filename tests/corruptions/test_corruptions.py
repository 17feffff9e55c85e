"""What corruptions do: against closed forms, brute force, Pillow and SciPy, and the published constants."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, UnknownName
from robustscope.corruptions import CORRUPTIONS, SUITES, corrupt
from robustscope.corruptions.counts import poisson
from robustscope.corruptions.edges import canny_of_levels
from robustscope.corruptions.filters import disc_kernel, gaussian, gaussian_field, motion, symmetric_2d
from robustscope.corruptions.glass_blur import copied, swapped
from robustscope.corruptions.pixelate import SIZE
from robustscope.corruptions.plasma import plasma
from robustscope.corruptions.resample import zoom
from robustscope.corruptions.spatter import _distance, _equalised
from robustscope.corruptions.zoom_blur import END, zooms


def levels(n=4, channels=3, side=32, seed=0, dtype=torch.float64):
    drawn = Draws(seed, tuple(range(n)), "levels").integers("x", channels * side * side, 0, 256)
    return drawn.view(n, channels, side, side).to(dtype) / 255


def bytes_of(x):
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


# Noise: on the grey 0.5 all moments are known.

GREY = torch.full((1, 3, 128, 128), 0.5)
DEVIATION = {
    "gaussian_noise": (0.0800, 0.1200, 0.1791, 0.2474, 0.3170),
    "shot_noise": (0.0913, 0.1413, 0.2005, 0.2877, 0.3449),
    "speckle_noise": (0.0750, 0.1000, 0.1743, 0.2197, 0.2747),
}


@pytest.mark.parametrize("name", DEVIATION)
def test_noise_has_the_deviation_of_its_constant(name):
    for severity, deviation in enumerate(DEVIATION[name], 1):
        found = corrupt(name, GREY, severity, constants="imagenet-c", rounding="none")
        assert float(found.std()) == pytest.approx(deviation, rel=0.012)


def test_shot_noise_is_a_count():
    found = corrupt("shot_noise", GREY, 5, constants="imagenet-c", rounding="none") * 3
    torch.testing.assert_close(found, found.round(), atol=1e-5, rtol=0)
    assert float(found.mean()) / 3 == pytest.approx(0.4701, abs=0.004)  # clipped at 1
    black = corrupt("shot_noise", torch.zeros(1, 1, 8, 8), 1)
    assert not black.any()


@pytest.mark.parametrize(("scale", "value"), [(3.0, 255), (60.0, 128), (60.0, 127.5), (500.0, 200), (500.0, 10.25)])
def test_poisson_numbers_follow_their_law(scale, value):
    """The largest gap between the distribution functions of 40,000 numbers and the law is below its 99.9 % quantile."""
    x = torch.full((1, 40_000), value / 255, dtype=torch.float64)
    draws = Draws(3, (0,))
    found = poisson(x, scale, draws.uniform("a", x, 0.0, 1.0), draws.uniform("b", x, 0.0, 1.0))[0].numpy()
    counts = np.arange(0, found.max() + 2)
    seen = np.searchsorted(np.sort(found), counts, side="right") / len(found)
    assert np.abs(seen - stats.poisson.cdf(counts, scale * value / 255)).max() < 1.95 / math.sqrt(len(found))


def test_poisson_inverts_the_distribution_function():
    uniform = torch.linspace(0, 1 - 2**-24, 4001).double()[None]
    x = torch.full_like(uniform, 100 / 255)
    due = stats.poisson.ppf(uniform.numpy() + 1e-12, 60 * 100 / 255)
    found = poisson(x, 60.0, uniform, None).numpy()
    assert (found != due).mean() < 0.001  # numbers that hit a step to the last digit of float32


def test_impulse_noise_changes_the_share_it_says():
    for severity, share in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1):
        found = corrupt("impulse_noise", GREY, severity, constants="imagenet-c", rounding="none")
        changed = found != 0.5
        assert float(changed.double().mean()) == pytest.approx(share, abs=0.004)
        assert float((found == 1).double().mean()) == pytest.approx(share / 2, abs=0.003)
        assert float(changed.any(1).double().mean()) == pytest.approx(1 - (1 - share) ** 3, abs=0.01)
    milder = corrupt("impulse_noise", GREY, 4, constants="imagenet-c", rounding="none") != 0.5
    assert bool((changed | ~milder).all()), "each severity contains the one before"


# Blur.


@pytest.mark.parametrize("sigma", [0.4, 1.0, 6.0])
def test_gaussian_blur_is_scipys(sigma):
    x = levels()
    due = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    np.testing.assert_allclose(gaussian(x, sigma).numpy(), due, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 20.0])
def test_wide_fields_are_scipys(sigma):
    x = levels(2)[:, 0]
    due = ndimage.gaussian_filter(x.numpy(), (0, sigma, sigma), mode="reflect", truncate=3.0)
    np.testing.assert_allclose(gaussian_field(x, sigma).numpy(), due, atol=1e-12)


def test_defocus_is_a_correlation_with_its_kernel():
    x = levels()
    for radius, alias in ((3, 0.1), (10, 0.5), (1.5, 0.1), (0.3, 0.4)):
        kernel = disc_kernel(radius, alias)
        due = ndimage.correlate(x.numpy(), kernel[None, None], mode="mirror")
        np.testing.assert_allclose(symmetric_2d(x, kernel).numpy(), due, atol=1e-9)


def test_the_kernels_of_defocus_sum_to_what_the_benchmark_has():
    sums = [disc_kernel(*c).sum() for c in ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))]
    assert sums == pytest.approx([1, 1, 1, 1.01298, 1.01079], abs=1e-5)


def test_motion_blur_is_a_sum_over_a_line():
    x, angle = levels(1), 33.0
    steps = np.arange(13)
    weights = np.exp(-(steps**2) / 8.0)
    weights /= weights.sum()
    due = np.zeros_like(x[0].numpy())
    for step, weight in zip(steps, weights, strict=True):
        down, right = (math.ceil(step * part(math.radians(angle)) - 0.5) for part in (math.sin, math.cos))
        rows, columns = (np.clip(np.arange(32) + move, 0, 31) for move in (down, right))
        due += weight * x[0].numpy()[:, rows][:, :, columns]
    np.testing.assert_allclose(motion(x, 6, 2.0, [angle])[0].numpy(), due, atol=1e-12)
    assert motion(x, 20, 15.0, [-100.0]).mean() == pytest.approx(float(x.mean()), abs=0.05)  # longer than the picture


def test_zoom_blur_averages_as_many_layers_as_the_benchmark():
    assert [len(zooms(*c)) for c in END["imagenet-c"]] == [12, 16, 11, 13, 11]


@pytest.mark.parametrize("factor", [1.0, 1.03, 1.25])
def test_a_zoom_is_scipys(factor):
    x = levels(1)
    part = math.ceil(32 / factor)
    top = (32 - part) // 2
    grown = ndimage.zoom(x[0].numpy()[:, top : top + part, top : top + part], (1, factor, factor), order=1)
    trim = (grown.shape[1] - 32) // 2
    np.testing.assert_allclose(zoom(x, factor)[0], grown[:, trim : trim + 32, trim : trim + 32], atol=1e-12)


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_glass_is_the_walk_over_the_pixels(distance):
    x = levels(2, side=20)
    inner = 20 - 2 * distance
    steps = Draws(1, (0, 1)).integers("steps", 2 * inner**2, -distance, distance).view(2, 2, inner, inner)
    chance = Draws(1, (0, 1)).integers("chance", inner**2, 0, 2).view(2, inner, inner).bool()
    for walk, exchange in (
        (lambda: copied(x, steps[:, 0], steps[:, 1], distance), False),
        (lambda: swapped(x, steps[:, 0], steps[:, 1], chance, distance), True),
    ):
        due = x.clone()
        for sample in range(2):
            for row in range(20 - distance, distance, -1):
                for column in range(20 - distance, distance, -1):
                    i, j = row - distance - 1, column - distance - 1
                    if exchange and not chance[sample, i, j]:
                        continue
                    right, down = steps[sample, :, i, j].tolist()
                    mine, other = (
                        due[sample, :, row, column].clone(),
                        due[sample, :, row + down, column + right].clone(),
                    )
                    due[sample, :, row, column] = other
                    if exchange:
                        due[sample, :, row + down, column + right] = mine
        assert torch.equal(walk(), due)


def test_blurs_keep_one_colour():
    x = torch.full((1, 3, 32, 32), 0.4)
    for name in ("gaussian_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "elastic_transform"):
        for severity in (1, 5):
            assert torch.equal((corrupt(name, x, severity) * 255).round(), torch.full_like(x, 102)), name


# Weather.


def test_plasma_is_diamond_square():
    noise, decay = Draws(0, (0,)).uniform("noise", torch.empty(1, 16, 16).double()), 1.7
    field, step, wibble = np.zeros((16, 16)), 16, 100.0
    drawn = noise[0].numpy()
    while step >= 2:
        half = step // 2
        for shift, ends in (
            ((half, half), ((0, 0), (0, step), (step, 0), (step, step))),
            ((0, half), ((0, 0), (0, step), (half, half), (-half, half))),
            ((half, 0), ((0, 0), (step, 0), (half, half), (half, -half))),
        ):
            old = field.copy()
            for row in range(0, 16, step):
                for column in range(0, 16, step):
                    mean = sum(old[(row + a) % 16, (column + b) % 16] for a, b in ends) / 4
                    place = row + shift[0], column + shift[1]
                    field[place] = mean + wibble**2 * drawn[place]
        step, wibble = half, wibble / decay
    field -= field.min()
    np.testing.assert_allclose(plasma(noise, decay)[0], field / field.max(), atol=1e-12)


def test_fog_lies_between_the_picture_and_white():
    """x' = (x + c p) m / (m + c) with p in [0, 1]: its least and largest values are attained where p is."""
    x = torch.full((1, 3, 64, 64), 0.5)
    found = corrupt("fog", x, 1, rounding="none", constants="tiny-imagenet-c")
    assert float(found.min()) == pytest.approx(0.5 * 0.5 / 0.9, abs=1e-6)
    assert float(found.max()) == pytest.approx(0.5, abs=1e-6)


def test_brightness_raises_the_value_and_keeps_hue_and_saturation():
    import colorsys

    x = levels(1, side=6)
    found = corrupt("brightness", x, 2, rounding="none", constants="cifar-10-c")
    for before, after in zip(x.flatten(2)[0].T.tolist(), found.flatten(2)[0].T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.1, 1)), abs=1e-9)
    assert corrupt("brightness", torch.zeros(1, 3, 2, 2), 5, rounding="none").unique().tolist() == [pytest.approx(0.3)]


def test_saturate_changes_the_saturation_alone():
    import colorsys

    x = torch.cat([levels(1, side=6), torch.full((1, 3, 6, 6), 0.3, dtype=torch.float64)])
    for severity, (times, plus) in enumerate(((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)), 1):
        found = corrupt("saturate", x, severity, rounding="none", constants="imagenet-c")
        pairs = zip(
            x.permute(0, 2, 3, 1).reshape(-1, 3).tolist(),
            found.permute(0, 2, 3, 1).reshape(-1, 3).tolist(),
            strict=True,
        )
        for before, after in pairs:
            hue, saturation, value = colorsys.rgb_to_hsv(*before)
            assert after == pytest.approx(colorsys.hsv_to_rgb(hue, min(saturation * times + plus, 1), value), abs=1e-9)


def test_the_parts_of_spatter():
    edges = torch.zeros(2, 30, 40, dtype=torch.bool)
    edges[0, 3, 5] = edges[0, 20, 30] = True
    due = np.minimum(ndimage.distance_transform_edt(~edges[0].numpy()), 20)
    np.testing.assert_allclose(_distance(edges)[0], due, atol=1e-5)
    assert (_distance(edges)[1] == 20).all()
    picture = torch.tensor([[[3.0, 3, 7, 7], [7, 9, 9, 200], [3, 3, 3, 3], [7, 7, 7, 7]]])
    # cumulative counts 6, 13, 15, 16; less the first 6 of them, over 10
    assert _equalised(picture).unique().tolist() == [0, round(0.7 * 255), round(0.9 * 255 + 1e-9), 255]
    assert torch.equal(_equalised(torch.full((1, 2, 2), 9.0)), torch.full((1, 2, 2), 9.0))
    step = torch.zeros(1, 10, 10)
    step[:, :, 5:] = 100
    assert canny_of_levels(step, 50, 150)[0].int().sum(0).tolist() == [0, 0, 0, 0, 10, 0, 0, 0, 0, 0]
    assert not canny_of_levels(step / 50, 50, 150).any()


def test_a_picture_without_drops_stays():
    x = levels(1, side=8, dtype=torch.float32)
    found = [corrupt("spatter", x, 1, seed=seed, constants="imagenet-c") for seed in range(40)]
    assert any(torch.equal(one.mul(255).round(), x.mul(255).round()) for one in found)
    assert any(not torch.equal(one, x) for one in found)


def test_frost_mixes_picture_and_texture():
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    layer = corrupt("frost", black, 2, rounding="none", constants="imagenet-c")
    assert torch.equal(corrupt("frost", white, 2, rounding="none", constants="imagenet-c"), (0.8 + layer).clamp(max=1))
    means = [float(corrupt("frost", black, 2, seed=seed, constants="imagenet-c").mean()) for seed in range(12)]
    assert max(means) - min(means) > 0.1, "several textures"


# Digital.


def test_contrast_scales_about_the_mean():
    x = levels(2)
    for severity, kept in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), 1):
        found = corrupt("contrast", x, severity, rounding="none", constants="imagenet-c")
        torch.testing.assert_close(found.mean((2, 3)), x.mean((2, 3)), atol=1e-12, rtol=0)
        torch.testing.assert_close(found.std((2, 3)), kept * x.std((2, 3)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    x = levels(3, channels)
    found = bytes_of(corrupt("jpeg_compression", x, 3, constants="imagenet-c"))
    for picture, seen in zip(bytes_of(x), found, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=15)
        assert np.array_equal(np.asarray(Image.open(file)).reshape(seen.shape), seen)


@pytest.mark.parametrize("constants", ["imagenet-c", "tiny-imagenet-c", "cifar-10-c"])
@pytest.mark.parametrize("side", [28, 32, 64, 224])
def test_pixelate_is_pillows(constants, side):
    x = levels(1, side=side, dtype=torch.float32)
    for severity, size in enumerate(SIZE[constants], 1):
        small = Image.fromarray(bytes_of(x)[0]).resize((int(side * size),) * 2, Image.Resampling.BOX)
        due = np.asarray(small.resize((side, side), Image.Resampling.BOX))
        assert np.array_equal(bytes_of(corrupt("pixelate", x, severity, constants=constants))[0], due)


def test_elastic_moves_no_more_than_its_constants():
    """Severity 1 of CIFAR-10-C is affine alone: a ramp stays a ramp wherever nothing was mirrored."""
    ramp = torch.arange(32, dtype=torch.float64).expand(1, 1, 32, 32) / 31
    found = corrupt("elastic_transform", ramp, 1, rounding="none", constants="cifar-10-c")[0, 0, 10:22, 10:22]
    assert float(found.diff(dim=0).diff(dim=0).abs().max()) < 1e-12
    assert float(found.diff(dim=1).diff(dim=1).abs().max()) < 1e-12
    assert not torch.equal(found, ramp[0, 0, 10:22, 10:22])


def test_elastic_displacements_are_scipys():
    from robustscope.corruptions.resample import look_up, pixels

    x, field = levels(1), Draws(0, (0,)).uniform("field", torch.empty(1, 2, 32, 32).double(), -40.0, 40.0)
    columns, rows = pixels(x)
    found = look_up(x, columns + field[:, 0], rows + field[:, 1], "reflect")[0]
    place = np.stack([np.arange(32)[:, None] + field[0, 1].numpy(), np.arange(32) + field[0, 0].numpy()])
    for channel, seen in zip(x[0].numpy(), found, strict=True):
        np.testing.assert_allclose(seen, ndimage.map_coordinates(channel, place, order=1, mode="reflect"), atol=1e-9)


# The door.


def test_samples_keep_their_numbers_in_every_batch():
    """Many samples, cut by the door itself: the same as one by one."""
    x = levels(300, side=32, dtype=torch.float32)
    draws = Draws(5, tuple(range(1000, 1300)))
    whole = corrupt("gaussian_noise", x, 3, draws=draws)
    rows = torch.tensor([299, 7, 65])
    assert torch.equal(corrupt("gaussian_noise", x[rows], 3, draws=draws.select(rows)), whole[rows])


def test_every_cut_and_order_gives_the_same_bits():
    x = levels(90, side=32, dtype=torch.float32)
    for card in CORRUPTIONS:
        whole = corrupt(card.name, x, card.severities)
        for rows in (torch.tensor([89]), torch.arange(89, -1, -7)):
            part = corrupt(card.name, x[rows], card.severities, draws=Draws(0, tuple(rows.tolist())))
            assert torch.equal(part, whole[rows]), card.name


def test_rounding():
    x = torch.full((1, 3, 4, 4), 100.6 / 255)
    seen = {
        how: float(corrupt("contrast", x, 1, rounding=how)[0, 0, 0, 0] * 255) for how in ("truncate", "nearest", "none")
    }
    assert seen == {
        "truncate": pytest.approx(100),
        "nearest": pytest.approx(101),
        "none": pytest.approx(100.6, abs=1e-4),
    }


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"name": "fogg"}, UnknownName, "Did you mean 'fog'"),
        ({"x": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, InvalidType, "Divide pictures of bytes by 255"),
        ({"x": torch.full((1, 3, 4, 4), 2.0)}, InvalidValue, "values in [0, 1]"),
        ({"x": torch.full((1, 3, 4, 4), float("nan"))}, InvalidValue, "values in [0, 1]"),
        ({"x": torch.zeros(1, 2, 4, 4)}, InvalidValue, "C among (1, 3)"),
        ({"x": torch.zeros(3, 4, 4)}, InvalidValue, "pictures (B, C, H, W)"),
        ({"severity": 6}, InvalidValue, "severity=6"),
        ({"draws": Draws(0, (1, 2))}, InvalidValue, "2 sample ids were given for 1 samples"),
        ({"rounding": "up"}, InvalidValue, "rounding='up'"),
        ({"constants": "cifar"}, InvalidValue, "constants='cifar'"),
        ({"strength": 2}, UnknownName, "strength"),
    ],
)
def test_what_is_refused(change, error, says):
    given = {"name": "snow", "x": torch.zeros(1, 3, 4, 4), "severity": 1, **change}
    with pytest.raises(error) as caught:
        corrupt(given.pop("name"), given.pop("x"), **given)
    assert says in str(caught.value)


def test_suites_name_what_there_is():
    assert {name: len(suite) for name, suite in SUITES.items()} == {
        "imagenet-c": 75,
        "imagenet-c-extra": 20,
        "mnist-c": 15,
    }
    listed = {name for suite in SUITES.values() for name, _ in suite}
    assert listed == {card.name for card in CORRUPTIONS}
    for suite in SUITES.values():
        assert all(1 <= severity <= CORRUPTIONS[name].severities for name, severity in suite)


def test_tiny_pictures_are_taken():
    for card in CORRUPTIONS:
        x = torch.full((2, 3, 5, 4), 0.5)
        assert corrupt(card.name, x, card.severities).shape == x.shape, card.name
