"""The root command: errors become one sentence and an exit status, interrupts leave quietly."""

from __future__ import annotations

import traceback
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from volseg.cli.console import Console, interruptible
from volseg.cli.exit_codes import ExitCode, exit_code_of
from volseg.errors import VolsegError


class VolsegGroup(TyperGroup):
    """Runs a command with logging, interrupt and error handling set up around it."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that ``ctx`` holds and turns what it raises into an exit status."""
        console = Console()
        ctx.obj = console
        try:
            with interruptible() as interrupt, console.listening(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other libraries' hints to programmers
                try:
                    return super().invoke(ctx)
                except Exception as error:
                    # An interrupt inside a C extension can come out as any exception.
                    if interrupt.arrived and not isinstance(error, typer.Exit):
                        raise KeyboardInterrupt from error
                    raise
        except KeyboardInterrupt:
            console.complain("cancelled; nothing was written")
            raise typer.Exit(ExitCode.CANCELLED) from None
        except (VolsegError, MemoryError) as error:
            if console.debug:
                traceback.print_exc()
            console.complain(str(error) or "no memory left")
            raise typer.Exit(exit_code_of(error)) from None
        except (BrokenPipeError, RuntimeError) as error:
            # typer's own Exit and Abort, and a reader that went away, are typer's to handle.
            if isinstance(error, typer.Exit | typer.Abort | BrokenPipeError):
                raise
            raise self._bug(console, error) from None
        except Exception as error:
            if _is_usage_error(error):
                raise
            raise self._bug(console, error) from None

    def _bug(self, console: Console, error: Exception) -> typer.Exit:
        if console.debug:
            traceback.print_exc()
        console.complain(
            f"this is a bug in volseg: {type(error).__name__}: {error}; "
            "please report it with the traceback that 'volseg --debug' before the command shows"
        )
        return typer.Exit(ExitCode.BUG)


def _is_usage_error(error: Exception) -> bool:
    """Whether typer raised it to show a message; releases differ in where its class lives."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")
