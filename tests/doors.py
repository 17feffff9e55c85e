"""The public doors with small defaults, for tests that push on them."""

import contextlib
import io
import os
from pathlib import Path

import torch
from torch import nn

import robustscope
from robustscope.cli import main
from robustscope.core.errors import RobustscopeError

STANDARD = "bundled:digits_standard"
X = torch.linspace(0, 1, 6 * 64).reshape(6, 64)
Y = torch.arange(6)


class Net(nn.Module):
    """A linear classifier of 8x8 digits whose forward ends with ``answer(logits, x)``."""

    def __init__(self, answer=lambda z, x: z, classes=10):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(64, classes)
        self.layer.weight.data.copy_(torch.randn(classes, 64, generator=generator))
        self.layer.bias.data.zero_()
        self.answer = answer
        self.eval()

    def forward(self, x):
        flat = x.flatten(1)
        return self.answer(self.layer(flat), flat)


def raises(error):
    """Return a function that raises, for use inside a lambda."""

    def answer(*_):
        raise error

    return answer


def evaluated(folder: Path, model=None, data="digits", threat="linf:0.1", **options):
    """Evaluate with one quick attack on few samples into ``folder / "run"``."""
    quick = {
        "suite": "audited" if "attacks" in options else "fgsm",
        "samples": "8",
        "curve": (),
        "threads": 1,
        "trust": "off",
    }
    options = {"out": folder / "run", **quick, **options}
    return robustscope.evaluate(Net() if model is None else model, data, threat, **options)


def attacked(name="pgd", model=None, x=X, y=Y, threat="linf:0.1", **options):
    """Run one attack on six vectors."""
    model = robustscope.Classifier(Net()) if model is None else model
    return robustscope.attack(name, model, x, y, threat, **({"steps": 2} if name == "pgd" else {}), **options)


def command(*tokens) -> tuple[int, str, str]:
    """Run the command line here; return the exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    code = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(token) for token in tokens])
        except SystemExit as leaving:
            code = leaving.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def assert_three_parts(error: RobustscopeError) -> None:
    """What was given, what is allowed (a list of names counts), what to do."""
    assert isinstance(error, RobustscopeError)
    assert error.given
    assert error.remedy
    assert error.allowed or "Available:" in error.remedy, str(error)


def assert_nothing_whole(folder: Path) -> None:
    """No run in the folder looks finished, no temporary file is left, and no plan stands beside no answer."""
    left = [str(Path(base, name).relative_to(folder)) for base, _, names in os.walk(folder) for name in names]
    assert not [name for name in left if name.endswith(("record.json", "plan.json", ".part", ".parquet"))], left
