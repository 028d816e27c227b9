"""``volseg models``: what can segment, and weights from elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from volseg.cli.console import Console
from volseg.cli.models_checkpoints import check, convert, download, info, monai_label

app = typer.Typer(help="What can segment, and weights from elsewhere.", no_args_is_help=True)


@app.command("list")
def list_(
    ctx: typer.Context, json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False
) -> None:
    """List the models that can be used, and those that can be downloaded."""
    from volseg.models.checkpoints.known import KNOWN_MODELS
    from volseg.models.registry import list_models

    cards = list_models()
    here = {card.name for card in cards}
    others = [known for known in KNOWN_MODELS if known.name not in here]
    if json_:
        console: Console = ctx.obj
        console.print_json(
            {
                "models": [card.to_json() for card in cards],
                "downloadable": [
                    {
                        "name": known.name,
                        "summary": known.summary,
                        "license": known.license.spdx,
                        "commercial": known.license.commercial,
                        "bytes": known.size_bytes or None,
                    }
                    for known in others
                ],
            }
        )
        return
    for card in cards:
        typer.echo(f"{card.name} {card.version}: {card.summary}")
        typer.echo(f"  prompts: {', '.join(sorted(card.positive)) or 'none'}")
        if card.license.spdx:
            terms = "" if card.license.commercial else ", not for commercial use"
            typer.echo(f"  weights: {card.license.spdx}{terms}")
        if card.random_weights:
            typer.echo("  its weights were never trained: its masks mean nothing")
    if others:
        typer.echo("\nto download (volseg models download NAME):")
    for known in others:
        terms = known.license.spdx + ("" if known.license.commercial else ", not for commercial use")
        typer.echo(f"  {known.name:<24} {known.summary} {terms}")


app.command("info")(info)
app.command("check")(check)
app.command("convert")(convert)
app.command("download")(download)
app.command("monai-label")(monai_label)
