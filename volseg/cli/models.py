"""``volseg models``: what can segment."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from volseg.cli.console import Console

app = typer.Typer(help="What can segment.", no_args_is_help=True)


@app.command("list")
def list_(
    ctx: typer.Context, json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False
) -> None:
    """List the models that volseg carries."""
    from volseg.models.registry import list_models

    cards = list_models()
    if json_:
        console: Console = ctx.obj
        console.print_json({"models": [_to_json(card) for card in cards]})
        return
    for card in cards:
        typer.echo(f"{card.name} {card.version}: {card.summary}")
        typer.echo(f"  prompts: {', '.join(sorted(card.positive)) or 'none'}")
        if card.license.spdx:
            terms = "" if card.license.commercial else ", not for commercial use"
            typer.echo(f"  weights: {card.license.spdx}{terms}")
        if card.random_weights:
            typer.echo("  its weights were never trained: its masks mean nothing")


def _to_json(card: Any) -> dict[str, Any]:
    return {
        "name": card.name,
        "version": card.version,
        "summary": card.summary,
        "positive": sorted(card.positive),
        "negative": sorted(card.negative),
        "volumetric": card.volumetric,
        "modalities": sorted(card.modalities),
        "labels": [{"value": label.value, "name": label.name} for label in card.labels],
        "license": {
            "spdx": card.license.spdx,
            "commercial": card.license.commercial,
            "attribution": card.license.attribution,
        },
        "weights_sha256": card.weights_sha256,
        "random_weights": card.random_weights,
    }
