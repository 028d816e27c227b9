"""Talking to the person or script: errors, warnings, progress, JSON."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import typer

from volseg.progress import ProgressCallback


@dataclass
class Interrupt:
    """Whether Ctrl-C was pressed."""

    arrived: bool = False


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Remembers an interrupt, as libraries may swallow the ``KeyboardInterrupt`` it raises."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals can be handled in the main thread only
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        interrupt.arrived = True
        raise KeyboardInterrupt

    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:  # started in the background of a shell that wants it so
        yield interrupt
        return
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)


@dataclass
class Console:
    """One run of a command.

    Attributes:
        debug: show tracebacks.
        warnings: what was warned about so far, for ``--json``.
        handler: takes volseg's log records.
    """

    debug: bool = False
    warnings: list[str] = field(default_factory=list)
    handler: logging.Handler = field(init=False)

    def __post_init__(self) -> None:
        self.handler = _ConsoleHandler(self)
        self.handler.setLevel(logging.WARNING)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes volseg's log records for as long as a command runs."""
        logger = logging.getLogger("volseg")
        before = logger.level, logger.propagate
        logger.addHandler(self.handler)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self.handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]

    def listen(self, level: int) -> None:
        """Shows records from ``level`` on; without this, warnings."""
        logging.getLogger("volseg").setLevel(level)
        self.handler.setLevel(level)

    def complain(self, message: str) -> None:
        """One line on stderr."""
        typer.echo(f"error: {' '.join(message.split())}", err=True)

    def warn(self, message: str) -> None:
        """One line on stderr, and kept for ``--json``."""
        self.warnings.append(message)
        typer.echo(f"warning: {message}", err=True)

    def print_json(self, data: dict[str, Any]) -> None:
        """The one object on stdout."""
        typer.echo(json.dumps(data, indent=2, allow_nan=False))

    @contextmanager
    def progress(self, title: str) -> Iterator[ProgressCallback | None]:
        """A progress bar on stderr where that is a terminal, else nothing."""
        if not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        with Progress(*columns, TimeElapsedColumn(), console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=1.0)

            def advance(fraction: float, text: str) -> None:
                bar.update(task, completed=fraction, description=text or title)

            yield advance


class _ConsoleHandler(logging.Handler):
    """Prints records on stderr and keeps the warnings."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if record.levelno >= logging.WARNING:
            self.console.warn(message)
        else:
            typer.echo(f"{record.levelname.lower()}: {message}", err=True)
