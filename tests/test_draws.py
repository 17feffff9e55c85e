"""Random numbers belong to samples: bit-exact under every cut, order, selection and dtype."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustscope.core.draws import Draws, key, permutation, subsets
from robustscope.core.errors import InvalidType, InvalidValue

KINDS = ("uniform", "normal", "exponential")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(ids=st.lists(st.integers(0, 10**12), min_size=1, max_size=8, unique=True), data=st.data())
def test_numbers_follow_their_sample(kind, ids, data):
    like = torch.empty(len(ids), 2, 3)
    whole = getattr(Draws(3, tuple(ids), "a"), kind)("start", like)
    order = data.draw(st.permutations(range(len(ids))))
    cut = data.draw(st.integers(1, len(ids)))
    parts = [order[i : i + cut] for i in range(0, len(order), cut)]
    for part in parts:
        draws = Draws(3, tuple(ids[i] for i in part), "a")
        assert torch.equal(getattr(draws, kind)("start", like[part]), whole[list(part)])


@pytest.mark.parametrize("kind", KINDS)
def test_selecting_changes_no_number(kind):
    draws = Draws(0, (5, 9, 2, 7), "a")
    whole = getattr(draws, kind)("p", torch.empty(4, 5))
    for keep in (torch.tensor([True, False, True, True]), torch.tensor([3, 0]), torch.zeros(4, dtype=torch.bool)):
        picked = draws.select(keep)
        assert torch.equal(getattr(picked, kind)("p", torch.empty(len(picked.ids), 5)), whole[keep])


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_see_the_same_numbers(kind):
    draws = Draws(0, (1, 2), "a")
    single = getattr(draws, kind)("p", torch.empty(2, 50))
    double = getattr(draws, kind)("p", torch.empty(2, 50, dtype=torch.float64))
    assert double.dtype == torch.float64
    assert torch.equal(single.double(), double)


def test_seed_scope_purpose_and_sample_all_matter():
    like = torch.empty(1, 8)
    base = Draws(0, (1,), "a").normal("p", like)
    others = [
        Draws(1, (1,), "a"),
        Draws(0, (2,), "a"),
        Draws(0, (1,), "b"),
        Draws(0, (1,), "a").within("b"),
        Draws(0, (1,)),
    ]
    for other in others:
        assert not torch.equal(other.normal("p", like), base)
    assert not torch.equal(Draws(0, (1,), "a").normal("q", like), base)
    assert Draws(0, (1,)).within("a").within("b").scope == "a/b"


def test_keys_do_not_collide_when_fields_are_glued():
    assert key(1, "2", "3", 4) != key(12, "", "3", 4)
    assert key(0, "ab", "c", 1) != key(0, "a", "bc", 1)
    keys = {key(s, "scope", f"p/{p}", i) for s in range(10) for p in range(10) for i in range(200)}
    assert len(keys) == 10 * 10 * 200
    assert all(0 <= k < 2**63 for k in keys)


def test_key_is_the_same_on_every_machine():
    """A change here silently changes every stored number: it needs a new version of every stochastic method."""
    fields = b"".join(len(part).to_bytes(4, "little") + part for part in (b"0", b"pgd", b"start/0", b"7"))
    by_hand = int.from_bytes(hashlib.blake2b(fields, digest_size=8).digest(), "little") >> 1
    assert key(0, "pgd", "start/0", 7) == by_hand == 3736530234955164999


def test_the_distributions_are_right():
    like = torch.empty(400, 500, dtype=torch.float64)
    draws = Draws(0, tuple(range(400)), "d")
    n = like.numel()
    uniform, normal, exponential = (
        draws.uniform("u", like, -2.0, 3.0),
        draws.normal("n", like),
        draws.exponential("e", like),
    )
    assert uniform.min() >= -2
    assert uniform.max() < 3
    # four standard errors of the mean each
    assert abs(uniform.mean() - 0.5) < 4 * (25 / 12 / n) ** 0.5
    assert abs(normal.mean()) < 4 / n**0.5
    assert abs(normal.std() - 1) < 4 / (2 * n) ** 0.5
    assert abs(exponential.mean() - 1) < 4 / n**0.5
    assert exponential.min() >= 0
    # samples are independent of each other: correlations of 500 numbers stay within five standard errors
    correlation = torch.corrcoef(normal[:40])
    assert (correlation - torch.eye(40)).abs().max() < 5 / 500**0.5


def test_integers():
    draws = Draws(0, (3, 4), "i")
    numbers = draws.integers("p", 2000, 2, 6)
    assert numbers.dtype == torch.int64
    assert numbers.shape == (2, 2000)
    assert set(numbers.unique().tolist()) == {2, 3, 4, 5}
    assert torch.equal(draws.select(torch.tensor([1])).integers("p", 2000, 2, 6), numbers[1:])
    with pytest.raises(InvalidValue, match="low < high"):
        draws.integers("p", 1, 3, 3)


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    Draws(0, (1,)).normal("p", torch.empty(1, 4))
    permutation(0, "p", 9)
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_arguments_are_refused():
    with pytest.raises(InvalidType, match="seed=0"):
        Draws("0", (1,))
    with pytest.raises(InvalidType):
        Draws(True, (1,))
    with pytest.raises(InvalidValue, match="2 sample ids were given for a batch of 3"):
        Draws(0, (1, 2)).normal("p", torch.empty(3, 4))


def test_permutations_and_subsets():
    assert sorted(permutation(0, "a", 20)) == list(range(20))
    assert permutation(0, "a", 20) == permutation(0, "a", 20) != permutation(1, "a", 20)
    groups = [[10, 11, 12, 13], [20, 21]]
    shuffled = subsets(0, "s", groups)
    assert [sorted(g) for g in shuffled] == groups
    assert shuffled == subsets(0, "s", groups)
    assert groups == [[10, 11, 12, 13], [20, 21]]


def test_words_hold_64_random_bits_of_their_sample():
    draws = Draws(0, (5, 9, 2), "a")
    whole = draws.words("p", 4000)
    assert torch.equal(draws.select(torch.tensor([2, 0])).words("p", 4000), whole[[2, 0]])
    bits = (whole[..., None] >> torch.arange(64)) & 1
    assert float((bits.double().mean((0, 1)) - 0.5).abs().max()) < 4.5 * 0.5 / 12_000**0.5
