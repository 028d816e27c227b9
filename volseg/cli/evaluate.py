"""``volseg evaluate``: how good a model is on labelled cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from volseg.cli.choices import AUTO
from volseg.cli.choices import device as check_device
from volseg.cli.console import Console

app = typer.Typer(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})

PROTOCOL_NAMES = ("static", "cvpr25-interactive", "cvpr25-text", "nninteractive-like", "words-clicks")


@app.callback()
def evaluate(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="What is scored; see 'volseg models list'.")
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            help="CSV file id,image,label,modality,group; a folder with images and labels, imagesTr and labelsTr, or "
            ".npz files; or one .npz file."
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(metavar="|".join(PROTOCOL_NAMES), help="How prompts are made.")] = "static",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for scores.csv, summary.json and index.html.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only N cases, taken in turn from every group.")
    ] = None,
    parts: Annotated[
        str | None, typer.Option(metavar="PART,PART", help="Only these parts of the protocol, such as box,box3d.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of everything drawn.")] = 0,
    blank: Annotated[
        bool, typer.Option("--blank", help="Replace images by a constant: what is found then, the prompts gave away.")
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", callback=check_device)
    ] = AUTO,
    trust: Annotated[bool, typer.Option("--trust", help="Let a bundle run code that is not volseg's.")] = False,
    training_config: Annotated[
        str | None,
        typer.Option(
            metavar="sam2-nano|text-nano|FILE",
            help="Instead of --cases: the validation patients of a training configuration.",
        ),
    ] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="GROUP,GROUP", help="Only cases of these groups, such as hippocampus.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="With --training-config: the folder its paths start from.")] = None,
    write_cases: Annotated[
        Path | None, typer.Option("--write-cases", help="Write the cases as a CSV file and stop.", metavar="FILE.csv")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="summary.json on stdout.")] = False,
) -> None:
    """Score a model on labelled cases with a simulated annotator.

    For example: volseg evaluate --model sam2-nano --cases cases.csv --protocol static -o scores
    """
    if ctx.invoked_subcommand is not None:
        return
    if (cases is None) == (training_config is None) or (training_config is None) != (data is None):
        raise typer.BadParameter("give either --cases, or --training-config and --data")
    if write_cases is None and (model is None or output is None):
        raise typer.BadParameter("--model and --output (-o) are needed")
    console: Console = ctx.obj

    from volseg.evaluation.cases import find_cases, limited, of_groups
    from volseg.evaluation.cases import write_cases as write
    from volseg.evaluation.validation import validation_cases

    if cases is not None:
        found = find_cases(cases)
    else:
        assert training_config is not None
        assert data is not None
        found = validation_cases(training_config, data)
    found = limited(of_groups(found, _names(groups)), limit)
    if write_cases is not None:
        write(found, write_cases)
        typer.echo(f"wrote {write_cases} ({len(found)} cases)")
        return
    assert model is not None
    assert output is not None

    from volseg.evaluation.protocols import find_protocol
    from volseg.evaluation.run import evaluate as run
    from volseg.models.registry import load_model

    chosen = find_protocol(protocol)
    loaded = load_model(model, device=device, trust=trust)
    with console.progress("scoring") as progress:
        summary = run(loaded, found, chosen, output, parts=_names(parts), seed=seed, blank=blank, progress=progress)
    for failure in summary["failures"]:
        console.warn(f"case {failure['case']}: object {failure['object']}, {failure['step']}: {failure['error']}")
    if json_:
        console.print_json(summary)
    else:
        _print_groups(summary["groups"])
        typer.echo(f"wrote {output}")


@app.command("compare")
def compare(
    ctx: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of a run of the same protocol.")],
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of the bootstrap.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare two runs case by case: B minus A, with intervals of the paired differences."""
    from volseg.evaluation.compare import compare as run

    found = run(first, second, seed)
    if json_:
        console: Console = ctx.obj
        console.print_json({"differences": [one.to_json() for one in found]})
        return
    lines = []
    for one in found:
        low, high = one.difference.low, one.difference.high
        interval = "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
        lines.append((one.group, str(one.difference.n), one.step, one.score, f"{one.first:.3f}", f"{one.second:.3f}",
                      f"{one.difference.mean:+.3f}", interval))  # fmt: skip
    _print_table(("group", "n", "step", "score", "A", "B", "B - A", "95 %"), lines)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _print_groups(groups: dict[str, Any]) -> None:
    """A line a group and step on stdout."""
    lines = []
    for group, found in groups.items():
        for step, scores in found["steps"].items():
            dice, past = scores["dice"], scores["slices_past_end"]
            interval = "" if dice["low"] is None else f"{dice['low']:.3f} to {dice['high']:.3f}"
            lines.append((group, str(found["cases"]), str(found["objects"]), step, f"{dice['mean']:.3f}", interval,
                          f"{scores['nsd']['mean']:.3f}", "" if past is None else f"{past['mean']:.1f}",
                          f"{scores['seconds']['mean']:.2f}"))  # fmt: skip
    _print_table(("group", "cases", "objects", "step", "Dice", "95 %", "NSD", "past ends", "s"), lines)
    for group, found in groups.items():
        for curve, areas in found["curves"].items():
            dsc, nsd = areas["dsc_auc"]["mean"], areas["nsd_auc"]["mean"]
            typer.echo(f" {group}: {curve}: DSC AUC {dsc:.3f}, NSD AUC {nsd:.3f} (of 4)")


def _print_table(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(*header, box=None)
    for line in lines:
        table.add_row(*line)
    # Into a string first: rich would cut columns to the width of a terminal that a pipe does not have.
    console = RichConsole(width=200)
    with console.capture() as capture:
        console.print(table, markup=False, highlight=False)
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
