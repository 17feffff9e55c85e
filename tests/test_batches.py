"""Batches shrink where memory runs out and fill up to sizes that repeat; neither changes a result nor a count."""

import warnings

import pytest
import torch
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.core.errors import ModelError
from robustscope.data import problems
from robustscope.models.batches import Batches, out_of_memory, repeating
from robustscope.models.classifier import Classifier

MESSAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
    MemoryError(),
)


class Limited(nn.Module):
    """Raises for more rows than fit, in the forward or in the backward pass, and remembers what it was sent."""

    def __init__(self, inner, most, error=MESSAGES[0], backward=False):
        super().__init__()
        self.inner, self.most, self.error, self.backward, self.sizes = inner, most, error, backward, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most and not self.backward:
            raise self.error
        return Tripwire.apply(self.inner(x), self)


class Tripwire(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, limits):
        ctx.limits = limits
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > ctx.limits.most and ctx.limits.backward:
            raise ctx.limits.error
        return gradient, None


def margin_to_next(y):
    return lambda logits, rows: logits.gather(1, y[rows][:, None])[:, 0] - logits.logsumexp(1)


@pytest.mark.parametrize("error", MESSAGES, ids=["cuda", "cpu", "windows", "python"])
@pytest.mark.parametrize("backward", [False, True])
def test_running_out_of_memory_halves_the_batch_and_loses_no_row(error, backward):
    p = problems.linear_boxed(n=20)
    limited = Limited(p.module, 5, error, backward).eval()
    model, plain = Classifier(limited), Classifier(p.module)
    with pytest.warns(RuntimeWarning, match="batches of at most") as told:
        got = model.gradient(margin_to_next(p.y), p.x)
    assert len(told) == 2, "20 rows do not fit, 10 do not, 5 do"
    assert (model.ledger.forward, model.ledger.backward) == (20, 20), "rows that failed do not count"
    for a, b in zip(got, plain.gradient(margin_to_next(p.y), p.x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    limited.sizes.clear()
    model.ledger.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(model.logits(p.x), plain.logits(p.x), rtol=0, atol=1e-12)
        model.jacobian(lambda z, rows: z[:, :2], p.x)
    assert limited.sizes == [5] * 8, "what fitted is remembered, so nothing fails twice"
    assert (model.ledger.forward, model.ledger.backward) == (40, 40)


def test_an_attack_that_runs_out_of_memory_gives_the_same_result():
    p = problems.smooth_cnn(n=12)
    limited = Classifier(Limited(p.module, 3).eval())
    with pytest.warns(RuntimeWarning, match="memory ran out for a batch of"):
        one = attack("pgd", limited, p.x, p.y, "linf:0.05", steps=5, restarts=2)
    two = attack("pgd", Classifier(p.module), p.x, p.y, "linf:0.05", steps=5, restarts=2)
    torch.testing.assert_close(one.result.x_adv, two.result.x_adv)
    for name in ("forward", "backward"):
        assert torch.equal(getattr(one.result, name), getattr(two.result, name))
    assert torch.equal(one.verdict.success, two.verdict.success)
    judged = 12 + 2 * int(one.verdict.success.sum())  # once more alone, and once more rounded
    assert limited.ledger.forward == int(one.result.forward.sum()) + judged
    assert limited.ledger.backward == int(one.result.backward.sum())


def test_a_single_row_that_does_not_fit_is_an_error():
    p = problems.linear_boxed(n=3)
    model = Classifier(Limited(p.module, 0).eval())
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ModelError, match=r"single row .*; a model and inputs that fit .* allowed\. Free memory"),
    ):
        model.logits(p.x)
    assert model.ledger.forward == 0


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    p = problems.linear_boxed(n=4)
    limited = Limited(p.module, 1, RuntimeError("mat1 and mat2 shapes cannot be multiplied")).eval()
    with pytest.raises(ModelError, match="cannot be multiplied"):
        Classifier(limited).logits(p.x)
    assert limited.sizes == [4]
    assert not out_of_memory(ValueError("out of memory"))


def test_sizes_repeat_at_little_cost():
    for rows in range(1, 3000):
        size = repeating(rows)
        assert rows <= size < rows + max(rows / 32, 1)
        assert repeating(size) == size
    assert len({repeating(rows) for rows in range(128, 257)}) == 33
    assert [repeating(rows) for rows in range(64)] == list(range(64))


class Sizes(nn.Module):
    """Remembers the size of every batch, and computes in float64 whatever the batch is."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.sizes = inner, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.inner(x)


def convolutional():
    torch.manual_seed(0)
    return Sizes(nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()).eval()


def test_rows_that_fill_a_batch_change_nothing_and_are_not_counted():
    module, x = convolutional(), torch.rand(250, 1, 3, 3, dtype=torch.float64)
    y = module.inner(x).argmax(1)
    model = Classifier(module, batch_size=101)
    got = model.gradient(margin_to_next(y), x)
    assert module.sizes == [101, 101, 48], "a full batch stays as it is, and 48 is small"
    assert (model.ledger.forward, model.ledger.backward) == (250, 250)
    module.sizes.clear()
    model = Classifier(module, batch_size=256)
    whole = model.gradient(margin_to_next(y), x[:249])
    assert module.sizes == [252]
    assert (model.ledger.forward, model.ledger.backward) == (249, 249)
    leaf = x[:249].clone().requires_grad_()
    logits = module.inner(leaf)
    value = margin_to_next(y)(logits, torch.arange(249))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    for mine, cut, exact in zip(whole, got, (value, gradient, logits), strict=True):
        assert len(mine) == 249
        torch.testing.assert_close(mine, exact.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(cut[:249], exact.detach(), rtol=0, atol=1e-12)
    _, columns, _ = model.jacobian(lambda z, rows: z, x[:249])
    assert columns.shape == (249, 3, 1, 3, 3)


def test_only_convolutions_are_given_rows_that_nobody_asked_for():
    """A model behind a door of its own may charge for each row."""
    module = Sizes(nn.Sequential(nn.Flatten(), nn.Linear(9, 3))).eval()
    Classifier(module).logits(torch.rand(249, 1, 3, 3))
    assert module.sizes == [249]
    assert not Batches.of(module, 256).fill
    assert Batches.of(convolutional(), 256).fill
