"""``volseg serve``: models for annotators on other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volseg.cli.choices import AUTO
from volseg.cli.choices import device as check_device
from volseg.cli.console import Console

SHORT_TOKEN = 16
"""Letters; a shorter token can be guessed."""


def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Where to listen; this machine only, if not given.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(envvar="VOLSEG_TOKEN", help="What clients must show; made and printed if not given."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|DIR", help="Offer only these (repeatable); see 'volseg models list'."),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", callback=check_device)
    ] = AUTO,
    trust: Annotated[bool, typer.Option("--trust", help="Let a bundle run code that is not volseg's.")] = False,
    max_image_mb: Annotated[int, typer.Option(min=1, help="Voxels of one image, uncompressed.")] = 2048,
    max_memory_mb: Annotated[int, typer.Option(min=1, help="All images that are held.")] = 8192,
    max_sessions: Annotated[int, typer.Option(min=1, help="Open at a time.")] = 8,
    idle_minutes: Annotated[float, typer.Option(min=0.01, help="Unused sessions are closed after this time.")] = 30.0,
    max_seconds: Annotated[float, typer.Option(min=1.0, help="The longest computation.")] = 900.0,
) -> None:
    """Compute for annotators on other machines, who keep their sessions; see docs/server.md."""
    console: Console = ctx.obj
    if token is not None and not (token.strip() and token.isascii() and token.isprintable() and " " not in token):
        raise typer.BadParameter("a token has plain letters and digits, and at least one", param_hint="--token")

    import secrets

    from volseg.models.base import Model
    from volseg.models.registry import list_models, load_model, model_card
    from volseg.server import ServerLimits
    from volseg.server.connection import is_loopback
    from volseg.server.run import run_server

    # Clients name models, never folders: what is offered is decided here.
    places: dict[str, str | Path] = {model_card(name).name: name for name in model or ()}
    places = places or {card.name: card.name for card in list_models()}
    limits = ServerLimits(
        image_bytes=max_image_mb << 20,
        memory_bytes=max_memory_mb << 20,
        sessions=max_sessions,
        idle_s=60 * idle_minutes,
        job_s=max_seconds,
    )
    if not is_loopback(host):
        console.warn(
            f"{host} can be reached from other machines, and nothing is encrypted: whoever listens on the network sees "
            "images and token; better keep to 127.0.0.1 and use an ssh tunnel"
        )
    if token is not None and len(token) < SHORT_TOKEN:
        console.warn(f"the token has {len(token)} letters and can be guessed; take {SHORT_TOKEN} or more")
    shown = token or secrets.token_urlsafe(24)

    def load(name: str) -> Model:
        return load_model(places[name], device=device, trust=trust)

    def started(url: str) -> None:
        typer.echo(f"serving {', '.join(places)} on {url}; Ctrl-C stops it")
        if token is None:
            typer.echo(f"token: {shown}")

    run_server(host, port, shown, load, tuple(places), limits, started)
    typer.echo("stopped; clients keep their sessions")
