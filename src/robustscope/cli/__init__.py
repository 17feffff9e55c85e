"""Floor 7: the command line; one file for each command. Torch is imported inside commands only."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

from robustscope import __version__
from robustscope.core.errors import RobustscopeError

COMMANDS = (
    "evaluate",
    "plan",
    "run",
    "report",
    "verify",
    "train",
    "universal",
    "corrupt",
    "video",
    "masks",
    "doctor",
    "limits",
    "study",
    "claims",
    "list",
    "check",
    "cite",
    "demo",
)


def build() -> App:
    """Return the application with every command."""
    app = App(
        name="robustscope",
        version=__version__,
        help="How robust is a neural network really, and may you trust the number?",
        default_parameter=Parameter(negative=()),
        help_format="markdown",
        suppress_keyboard_interrupt=False,  # main() says how to resume
    )
    for name in COMMANDS:
        module = import_module(f"robustscope.cli.{name}_command")
        if isinstance(module.command, App):
            app.command(module.command)
        else:
            app.command(module.command, name=name, usage=getattr(module, "USAGE", None))
    app.register_install_completion_command()
    return app


def main(tokens: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 done; 1 done, but the answer is bad news (a check failed, a claim does not hold, rows are in error);
    2 the request or its inputs are wrong; 3 a defect of robustscope; 130 interrupted, and the run can be resumed.
    """
    from rich.console import Console

    complain = Console(stderr=True, soft_wrap=True)
    app = build()
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        complain.print(f"error: {error}", style="red", markup=False, highlight=False)
        known = " ".join(name for name in error.command_chain or () if name in COMMANDS)
        complain.print(" ".join(filter(None, ("Try: robustscope", known, "--help"))), markup=False, highlight=False)
        code = 2
    except RobustscopeError as error:
        complain.print(f"error: {error}", style="red", markup=False, highlight=False)
        code = 2
    except KeyboardInterrupt:
        complain.print(
            "interrupted; stored shards are kept: resume with the same command, or `robustscope run FOLDER`",
            markup=False,
        )
        code = 130
    except BrokenPipeError:
        code = 0
    except Exception:  # not one of ours: a defect, which must not pass for the "bad news" of exit code 1
        complain.print(traceback.format_exc(), markup=False, highlight=False)
        complain.print(
            "error: robustscope did not expect this. Please report it with the lines above; nothing half-written "
            "counts as stored, and the same command resumes the run.",
            style="red",
            markup=False,
            highlight=False,
        )
        code = 3
    sys.exit(code if isinstance(code, int) else 0)
