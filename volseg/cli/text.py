"""``volseg text``: what volseg understands of words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from volseg.cli.console import Console

if TYPE_CHECKING:
    from volseg.text.query import Query
    from volseg.text.vocabulary import Concept

app = typer.Typer(no_args_is_help=True, help="What volseg understands of words.")


@app.command()
def resolve(
    ctx: typer.Context,
    phrase: Annotated[list[str], typer.Argument(help="A phrase, such as 'lt kidny' or 'spleen and both kidneys'.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="Also say what this model can make of it; settles words with two meanings."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what a phrase asks for: the structures, sides, and what is left out; or why it is not understood."""
    from volseg.text.phrases import resolve as resolve_phrase
    from volseg.text.query import recipe
    from volseg.text.vocabulary import load_vocabulary

    console: Console = ctx.obj
    offered = None if model is None else _offered(model)
    queries = resolve_phrase(" ".join(phrase), among=offered)
    vocabulary = load_vocabulary()
    items: list[dict[str, Any]] = []
    for query in queries:
        concepts = [_concept_json(vocabulary.by_id(concept_id)) for concept_id in query.concept_ids]
        item = {**query.to_json(), "meaning": query.describe(), "concepts": concepts}
        if offered is not None:
            item["missing"] = [one for one in query.concept_ids if recipe(one, offered, vocabulary) is None]
        items.append(item)
    if json_:
        console.print_json({"phrase": " ".join(phrase), "queries": items})
        return
    for query, item in zip(queries, items, strict=True):
        _print(query, item)


@app.command("list")
def list_concepts(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Option(metavar="structure|lesion|fluid|device", help="Only concepts of this kind.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List the vocabulary: ids, names and SNOMED CT codes."""
    from volseg.text.vocabulary import ConceptKind, load_vocabulary

    if kind is not None and kind not in tuple(ConceptKind):
        raise typer.BadParameter(f"--kind is one of {', '.join(ConceptKind)}, got {kind!r}")
    concepts = [concept for concept in load_vocabulary() if kind is None or concept.kind == kind]
    if json_:
        console: Console = ctx.obj
        console.print_json({"concepts": [_concept_json(concept) for concept in concepts]})
        return
    for concept in concepts:
        code = "" if concept.snomed is None else concept.snomed.code
        typer.echo(f"{concept.id:<42} {concept.name:<46} {code}".rstrip())


def _print(query: Query, item: dict[str, Any]) -> None:
    for written, read in query.corrections:
        typer.echo(f"{'read':<10} {written!r} as {read!r}")
    typer.echo(f"{'meaning':<10} {item['meaning']}")
    for role, ids in (("include", query.include), ("exclude", query.exclude)):
        for concept in item["concepts"]:
            if concept["id"] in ids:
                code = "" if concept["snomed"] is None else "SNOMED CT {code} {meaning}".format(**concept["snomed"])
                typer.echo(f"{role:<10} {concept['id']:<34} {code}".rstrip())
    if query.attributes:
        typer.echo(f"{'attributes':<10} {', '.join(query.attributes)}")
    for note in query.notes:
        typer.echo(f"{'note':<10} {note}")
    for concept_id in item.get("missing", ()):
        typer.echo(f"{'missing':<10} {concept_id} (the model does not offer it)")


def _concept_json(concept: Concept) -> dict[str, Any]:
    snomed = None if concept.snomed is None else {"code": concept.snomed.code, "meaning": concept.snomed.meaning}
    return {
        "id": concept.id,
        "name": concept.name,
        "synonyms": list(concept.synonyms),
        "laterality": str(concept.laterality),
        "kind": str(concept.kind),
        "parents": list(concept.parents),
        "snomed": snomed,
    }


def _offered(model: str) -> frozenset[str]:
    from volseg.models.registry import model_card
    from volseg.text.offered import offered_concepts

    return frozenset(offered_concepts(model_card(model).labels))
