"""The command line, one file a command. Heavy libraries are imported inside the commands."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from volseg.cli import evaluate, models, text
from volseg.cli.batch import batch
from volseg.cli.console import Console
from volseg.cli.convert import convert
from volseg.cli.demo import demo
from volseg.cli.ground import ground
from volseg.cli.group import VolsegGroup
from volseg.cli.info import info
from volseg.cli.ordered import OrderedCommand
from volseg.cli.segment import segment
from volseg.cli.serve import serve
from volseg.cli.train import train

app = typer.Typer(
    cls=VolsegGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("segment", cls=OrderedCommand)(segment)
app.command("batch")(batch)
app.command("convert")(convert)
app.command("ground")(ground)
app.command("info")(info)
app.command("demo")(demo)
app.command("train")(train)
app.command("serve")(serve)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(models.app, name="models")
app.add_typer(text.app, name="text")


def _print_version(wanted: bool) -> None:
    if wanted:
        from volseg import __version__

        typer.echo(f"volseg {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what was chosen and why.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """3D segmentation of CT and MR volumes from clicks, boxes, scribbles, rough masks and words."""
    console: Console = ctx.obj
    console.debug = debug
    if verbose or debug:
        console.listen(logging.DEBUG if debug else logging.INFO)


def main() -> None:
    """Entry point of the ``volseg`` command."""
    app()
