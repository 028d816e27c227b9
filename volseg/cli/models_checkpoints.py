"""``volseg models check | convert | download | info | monai-label``: weights from elsewhere, and to elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volseg.cli.console import Console

if TYPE_CHECKING:
    from volseg.models.bundles.read import Bundle
    from volseg.models.checkpoints.recognise import Checkpoint

JSON = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
COMMERCIAL = Annotated[bool, typer.Option("--commercial", help="Refuse weights that may not be used commercially.")]
IMAGE_SIZE = Annotated[
    int | None, typer.Option(min=64, help="Side of the network's input in pixels, where the file cannot tell.")
]


def check(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.")],
    image_size: IMAGE_SIZE = None,
    commercial: COMMERCIAL = False,
    json_: JSON = False,
) -> None:
    """Tell what a weights file is, and whether it is whole; runs nothing that is in it."""
    from volseg.models.checkpoints.convert import UNKNOWN_LICENSE, require_commercial
    from volseg.models.checkpoints.recognise import inspect_checkpoint

    console: Console = ctx.obj
    with console.progress("reading the file"):
        checkpoint = inspect_checkpoint(file, image_size=image_size)
    if json_:
        console.print_json(_checkpoint_json(checkpoint))
    else:
        _print_checkpoint(checkpoint)
    checkpoint.require_complete()
    if commercial:
        require_commercial(checkpoint.known.license if checkpoint.known else UNKNOWN_LICENSE, str(file))


def convert(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the bundle; by default in the cache, by --name.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the model is called.")] = None,
    image_size: IMAGE_SIZE = None,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="SPDX", help="Licence of your own weights, such as CC-BY-4.0.")
    ] = None,
    attribution: Annotated[str, typer.Option(help="Whom to credit for your own weights.")] = "",
    commercial: COMMERCIAL = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    json_: JSON = False,
) -> None:
    """Make a bundle (safetensors, metadata, licence) of a SAM 2, SAM 2.1 or MedSAM2 weights file."""
    from volseg.models.checkpoints.convert import cached_folder, convert_checkpoint, require_commercial, stated_license

    console: Console = ctx.obj
    if output is None and name is None:
        raise typer.BadParameter("give the folder of the bundle (-o) or a --name for it in the cache")
    folder = output if output is not None else cached_folder(str(name))
    terms = None if license_ is None else stated_license(license_, attribution)
    with console.progress("converting"):
        bundle = convert_checkpoint(
            file,
            folder,
            name=name,
            image_size=image_size,
            license=terms,
            overwrite=overwrite,
            check_license=(lambda license: require_commercial(license, str(file))) if commercial else None,
        )
    _report(console, folder, bundle, json_)


def download(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Such as sam2.1-tiny or medsam2; see 'volseg models list'.")],
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Another commit of its repository; no hash is known for it.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the hub; by default $HF_ENDPOINT or the public one.")
    ] = None,
    commercial: COMMERCIAL = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch again although it is there.")] = False,
    json_: JSON = False,
) -> None:
    """Fetch public weights into the cache: checked against their hash, continued after interruptions."""
    from volseg.models.bundles.metadata import read_bundle
    from volseg.models.checkpoints.convert import download_model

    console: Console = ctx.obj
    with console.progress(f"fetching {name}") as progress:
        folder = download_model(
            name, revision=revision, endpoint=endpoint, commercial=commercial, force=force, progress=progress
        )
    _report(console, folder, read_bundle(folder), json_)


def info(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model's name, or a bundle folder.")],
    commercial: COMMERCIAL = False,
    json_: JSON = False,
) -> None:
    """Show what a model or bundle says about itself: network, licence, hash, origin."""
    from volseg.models.bundles.folders import find_bundle
    from volseg.models.bundles.read import read_any_bundle
    from volseg.models.checkpoints.convert import require_commercial
    from volseg.models.registry import find_model, model_card

    console: Console = ctx.obj
    card = model_card(model)
    if commercial:
        require_commercial(card.license, model)
    if model == card.name and find_bundle(model) is None:
        if json_:
            console.print_json({"card": card.to_json()})
        else:
            typer.echo(f"{card.name} {card.version}: {card.summary}")
        return
    folder = find_model(model)
    _report(console, folder, read_any_bundle(folder), json_)


def monai_label(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A SAM 2 model's name, or a bundle folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the copy.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Copy a bundle with its weights as models/model.pt too, without which MONAI Label passes it over."""
    from volseg.models.bundles.monai_label import write_for_monai_label
    from volseg.models.registry import find_model

    console: Console = ctx.obj
    with console.progress("writing the bundle"):
        write_for_monai_label(find_model(model), output, overwrite=overwrite)
    typer.echo(f"wrote {output}")


def _report(console: Console, folder: Path, bundle: Bundle, json_: bool) -> None:
    if json_:
        console.print_json({"folder": str(folder), **bundle.to_json()})
        return
    license = bundle.license
    terms = "allowed" if license.commercial else "not allowed"
    lines = [
        ("model", f"{bundle.identity.name} {bundle.identity.version}: {bundle.identity.summary}"),
        ("folder", str(folder)),
        ("sha256", bundle.weights.sha256),
        ("licence", f"{license.spdx or 'unknown'}; commercial use {terms}"),
        ("credit", license.attribution),
        *bundle.facts,
    ]
    for title, text in lines:
        if text:
            typer.echo(f"{title:<8} {text}")
    if bundle.identity.random_weights:
        console.warn(f"{bundle.identity.name} was never trained: its masks mean nothing")


def _checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    known = checkpoint.known
    return {
        "file": str(checkpoint.path),
        "format": str(checkpoint.format),
        "sha256": checkpoint.sha256,
        "layout": str(checkpoint.layout),
        "version": str(checkpoint.spec.version),
        "variant": str(checkpoint.spec.variant),
        "image_size": checkpoint.spec.image_size,
        "complete": checkpoint.complete,
        "missing": list(checkpoint.missing),
        "unexpected": list(checkpoint.unexpected),
        "misshapen": list(checkpoint.misshapen),
        "known_as": None if known is None else known.name,
        "license": None if known is None else known.license.spdx,
        "commercial": None if known is None else known.license.commercial,
    }


def _print_checkpoint(checkpoint: Checkpoint) -> None:
    known = checkpoint.known
    lines = [
        ("file", f"{checkpoint.path} ({checkpoint.format})"),
        ("network", f"{checkpoint.title}, {checkpoint.spec.image_size} pixels"),
        ("sha256", checkpoint.sha256),
        ("known as", "nothing that volseg knows; look up its licence" if known is None else known.name),
    ]
    if known is not None:
        terms = "allowed" if known.license.commercial else "not allowed"
        lines.append(("licence", f"{known.license.spdx}; commercial use {terms}"))
    if checkpoint.complete:
        lines.append(("tensors", "complete"))
    for title, text in lines:
        typer.echo(f"{title:<9} {text}")
