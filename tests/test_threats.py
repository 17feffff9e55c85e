"""Threat sets that are not lp balls: reading, geometry in closed form, and what the judge makes of them."""

import math
from dataclasses import replace

import pytest
import torch

from robustscope.attacks import ATTACKS
from robustscope.attacks.verify import verify
from robustscope.contracts import ContractBroken, checks_for
from robustscope.core.draws import Draws
from robustscope.core.errors import ConstraintViolated, InvalidValue, UnknownName
from robustscope.core.threats import Patch, RotationTranslation, make_threat, parse_threat, threat_text
from robustscope.core.types import AttackResult, Bounds, ThreatModel
from robustscope.data import problems
from robustscope.geometry import balls, patches, rigid
from robustscope.models.classifier import Classifier

UNIT = Bounds(0.0, 1.0)


def images(*shape, seed=0, dtype=torch.float32):
    return Draws(seed, tuple(range(shape[0])), "test").uniform("x", torch.empty(shape, dtype=dtype), 0.0, 1.0)


def moved(x, *parameters):
    return rigid.transform(x, torch.tensor([parameters] * len(x), dtype=torch.float64), UNIT)


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["rotation-translation:30,3", "rotation-translation:0.1,2.5", "patch:5,4"])
def test_text_and_name_come_back(text):
    threat = parse_threat(text, Bounds(-1.0, 1.0))
    assert threat.norm == threat_text(threat) == text
    assert make_threat(threat.norm, 0.5, threat.bounds) == threat.scaled(0.5)
    assert parse_threat("linf:8/255") == ThreatModel("linf", 8 / 255)
    assert make_threat("l2", 0.5) == ThreatModel("l2", 0.5)


def test_the_text_of_a_scaled_set_names_the_same_set():
    assert threat_text(RotationTranslation(30, 3).scaled(0.5)) == "rotation-translation:15,1.5"
    assert threat_text(Patch(5, 3).scaled(0.5)) == "patch:2,1"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("rotation_translation:30,3", UnknownName, "rotation-translation"),
        ("Patch:3,3", UnknownName, "patch"),
        ("patch:3", InvalidValue, "HEIGHT,WIDTH"),
        ("patch:3,3.5", InvalidValue, "whole number"),
        ("patch:0,3", InvalidValue, "height"),
        ("rotation-translation:200,3", InvalidValue, "max_rotation"),
        ("rotation-translation:20,-3", InvalidValue, "max_translation"),
        ("rotation-translation:20,inf", InvalidValue, "max_translation"),
        ("rotation-translation:nan,3", InvalidValue, "max_rotation"),
        ("Linf:0.1", InvalidValue, "linf"),
        ("linf", InvalidValue, "NORM:EPSILON"),
    ],
)
def test_wrong_texts_are_refused(text, error, said):
    with pytest.raises(error, match=said):
        parse_threat(text)


def test_factors_behave_as_radii_do():
    with pytest.raises(InvalidValue, match="finite"):
        Patch(2, 2, epsilon=math.inf)
    threat = Patch(4, 4, epsilon=(0.25, 1.0, 2.0))
    assert threat.select(torch.tensor([2, 0])).epsilon == (2.0, 0.25)
    assert threat.scaled(2.0).epsilon == (0.5, 2.0, 4.0)
    assert [side.tolist() for side in patches.sides(threat, torch.zeros(3, 1, 6, 9))] == [[1, 4, 6], [1, 4, 8]]
    with pytest.raises(InvalidValue, match="3 radii"):
        threat.radius(torch.zeros(2, 1, 6, 6))


# Rotation and translation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 2, 7, 7), (3, 1, 8, 8), (2, 5, 9), (2, 3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_and_shifts_by_whole_pixels_copy_bits(shape, dtype):
    x = images(*shape, dtype=dtype)
    assert torch.equal(moved(x, 0, 0, 0), x)
    right = torch.zeros_like(x)
    right[..., 2:] = x[..., :-2]
    assert torch.equal(moved(x, 0, 2, 0), right)
    up = torch.zeros_like(x)
    up[..., :-1, :] = x[..., 1:, :]
    assert torch.equal(moved(x, 0, 0, -1), up)
    assert torch.equal(moved(x, 0, 99, 0), torch.zeros_like(x))


@pytest.mark.parametrize("size", [4, 7, 8, 28])
def test_quarter_turns_of_squares_are_rot90(size):
    x = images(2, 3, size, size)
    for turns, angle in ((1, 90), (2, 180), (-1, -90)):
        assert torch.equal(moved(x, angle, 0, 0), torch.rot90(x, turns, (2, 3)))
    shifted = torch.zeros_like(x)
    shifted[:, :, 1:] = torch.rot90(x, 1, (2, 3))[:, :, :-1]
    assert torch.equal(moved(x, 90, 0, 1), shifted), "first the rotation, then the shift"


def test_bilinear_by_hand():
    x = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]], dtype=torch.float64)
    assert torch.allclose(moved(x, 0, 0.25, 0), torch.tensor([[[0.0, 0.75], [0.375, 0.3125]]], dtype=torch.float64))
    half = moved(torch.ones(1, 5, 5, dtype=torch.float64), 45, 0, 0)
    assert half[0, 2].tolist() == pytest.approx([1.0] * 5), "a turned square still covers its middle row"
    assert half[0, 0, 0] == pytest.approx(3 - 2 * 2**0.5), "and of a corner only what is not beyond the diagonal"


def test_bilinear_agrees_with_torch():
    x, angle = images(2, 3, 9, 9, dtype=torch.float64), math.radians(23.5)
    cosine, sine = math.cos(angle), math.sin(angle)
    theta = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], dtype=torch.float64).expand(2, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, (2, 3, 9, 9), align_corners=True)
    theirs = torch.nn.functional.grid_sample(x, grid, align_corners=True)
    assert torch.allclose(moved(x, 23.5, 0, 0), theirs, atol=1e-12)


def test_what_comes_in_is_the_lower_bound():
    x = images(1, 1, 4, 4) * 2 - 3
    out = rigid.transform(x, torch.tensor([[0.0, 1.0, 0.0]]), Bounds(-3.0, -1.0))
    assert (out[..., 0] == -3).all()
    with pytest.raises(InvalidValue, match="images"):
        rigid.transform(torch.zeros(2, 9), torch.zeros(2, 3), UNIT)


def test_parameters_prove_membership_and_nothing_else_does():
    x, threat = images(4, 1, 6, 6), RotationTranslation(30, 2)
    drawn = rigid.random_parameters(threat, x, Draws(0, (0, 1, 2, 3)), "p")
    made = rigid.transform(x, drawn, UNIT)
    assert balls.contains(threat, x, made, drawn).all()
    assert torch.equal(balls.sample(threat, x, Draws(0, (0, 1, 2, 3)), "p"), made)
    assert not balls.contains(threat, x, made).any(), "no parameters, no proof"
    assert not balls.contains(threat, x, made, drawn + 0.01).any(), "other parameters"
    assert not balls.contains(threat.scaled(0.01), x, made, drawn).any(), "too large"
    assert not balls.contains(threat, x, made + 1e-4, drawn).any(), "another image"
    assert not balls.contains(threat, x, made, drawn * math.nan).any()
    length = balls.distance(threat, x, made, drawn)
    assert torch.allclose(length, (drawn.abs() / torch.tensor([30.0, 2.0, 2.0], dtype=torch.float64)).amax(1))
    with pytest.raises(InvalidValue, match="projection"):
        balls.project(threat, x, made)
    still = RotationTranslation(0, 1)
    assert math.isinf(balls.distance(still, x[:1], x[:1], torch.tensor([[1.0, 0.0, 0.0]]))[0])
    assert balls.distance(still, x[:1], x[:1], torch.zeros(1, 3))[0] == 0


def test_the_judge_makes_every_example_anew():
    problem = problems.smooth_cnn(n=3)
    model, x, y, zero = Classifier(problem.module), problem.x, problem.y, torch.zeros(3, dtype=torch.int64)
    threat = RotationTranslation(30, 1)
    drawn = rigid.random_parameters(threat, x, Draws(0, (0, 1, 2)), "p")
    made = rigid.transform(x, drawn, UNIT)
    assert verify(model, x, y, threat, AttackResult(made, zero, zero, parameters=drawn)).distance.max() <= 1
    for parameters, said in ((None, "no parameters"), (drawn[:, :2], "shape"), (drawn * 0.9, "left the threat set")):
        with pytest.raises(ConstraintViolated, match=said):
            verify(model, x, y, threat, AttackResult(made, zero, zero, parameters=parameters))


@pytest.mark.parametrize("name", ["rotation_translation", "patch"])
def test_the_contract_catches_an_attack_that_leaves_its_set(name):
    card = ATTACKS[name]

    def liar(model, x, y, threat, *, draws, targets=None):
        found = card.function(model, x, y, threat, draws=draws, targets=targets, **card.resolve(card.quick))
        if found.parameters is not None:
            return replace(found, parameters=found.parameters * 0.9)
        x_adv = found.x_adv.clone()
        x_adv[..., 0, 0] = x_adv[..., -1, -1] = threat.bounds.upper
        return replace(found, x_adv=x_adv)

    with pytest.raises(ContractBroken, match="left its threat set"):
        checks_for(card)["stays_in_threat_set"](replace(card, function=liar, quick={}), card.threats[0])


# Patches -------------------------------------------------------------------------------------------------------------


def rectangles(high, wide, height, width):
    for top in range(high - height + 1):
        for left in range(wide - width + 1):
            mask = torch.zeros(high, wide, dtype=torch.bool)
            mask[top : top + height, left : left + width] = True
            yield mask


def test_projection_on_a_patch_is_the_nearest_of_all():
    x, z = images(5, 2, 5, 6, dtype=torch.float64), images(5, 2, 5, 6, seed=1, dtype=torch.float64) * 3 - 1
    threat = Patch(2, 3)
    nearest = torch.full((5,), torch.inf, dtype=torch.float64)
    for mask in rectangles(5, 6, 2, 3):
        nearest = torch.minimum(nearest, (torch.where(mask, z.clamp(0, 1), x) - z).square().flatten(1).sum(1))
    found = balls.project(threat, x, z)
    assert torch.allclose((found - z).square().flatten(1).sum(1), nearest)
    assert balls.contains(threat, x, found).all()
    assert torch.equal(balls.project(threat, x, found), found), "idempotent"
    assert torch.equal(balls.project(threat.scaled(0.0), x, z), x)
    assert torch.equal(balls.project(threat.scaled(99.0), x, z), z.clamp(0, 1))


def test_membership_is_one_rectangle():
    x = torch.zeros(1, 2, 6, 6)
    for mask in rectangles(6, 6, 2, 3):
        assert balls.contains(Patch(2, 3), x, mask.float().expand(1, 2, 6, 6)).all()
    x_adv = x.clone()
    x_adv[0, 0, 1, 1] = x_adv[0, 1, 2, 3] = 1.0
    assert balls.contains(Patch(2, 3), x, x_adv).all(), "different channels, one rectangle"
    assert not balls.contains(Patch(2, 2), x, x_adv).any()
    assert not balls.contains(Patch(3, 2), x, x_adv).any()
    assert not balls.contains(Patch(2, 3), x, 2 * x_adv).any(), "outside the bounds"
    assert balls.distance(Patch(4, 4), x, x_adv).tolist() == [0.75]
    assert balls.distance(Patch(4, 4), x, x).tolist() == [0.0]
    assert balls.contains(Patch(4, 4).scaled(0.75), x, x_adv).all()
    assert not balls.contains(Patch(4, 4).scaled(0.74), x, x_adv).any()


def test_random_patches_reach_every_place():
    x, threat = images(400, 1, 4, 5), Patch(2, 4)
    ids = tuple(range(400))
    sampled = balls.sample(threat, x, Draws(0, ids), "p")
    assert balls.contains(threat, x, sampled).all()
    assert patches.random_corner(threat, x, Draws(0, ids), "p").unique().tolist() == [0, 1, 5, 6, 10, 11]
    assert torch.equal(balls.sample(threat.scaled(0.0), x, Draws(0, ids), "p"), x)


# Unbounded -----------------------------------------------------------------------------------------------------------


def test_the_whole_box_fits_into_its_ball():
    bounds = Bounds(-1.0, 3.0)
    x = images(3, 2, 3) * 4 - 1
    far = torch.where(x < 1, 3.0, -1.0)
    for norm, full in (("linf", 4.0), ("l2", 4 * 6**0.5), ("l1", 24.0), ("l0", 6.0)):
        found = balls.whole_box(ThreatModel(norm, "inf", bounds), x)
        assert found.epsilon == pytest.approx(full)
        assert torch.equal(balls.project(found, x, far), far)
        mixed = balls.whole_box(ThreatModel(norm, (0.1, "inf", 2.0), bounds), x)
        assert mixed.epsilon == (0.1, pytest.approx(full), 2.0)
        finite = ThreatModel(norm, 0.1, bounds)
        assert balls.whole_box(finite, x) is finite
