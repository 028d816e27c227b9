"""What a bundle's configs would run, told without running anything (P7).

MONAI builds whatever a config names: every ``_target_`` is imported and called, every ``$`` expression evaluated. Here
configs are read as plain data and compared with a short list of what volseg's own bundles use.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volseg.errors import ModelError

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
MAX_CONFIG_BYTES = 10 << 20

_ALLOWED_TARGETS = frozenset(
    {
        "volseg.models.bundles.load.open_bundle",
        "volseg.models.bundles.load_text.open_text_bundle",
        "volseg.transforms.cases.ReadImaged",
        "volseg.transforms.cases.ReadLabelMapd",
        "volseg.transforms.cases.ReadPromptsd",
        "volseg.transforms.cases.BoxOnMiddleSliced",
        "volseg.transforms.cases.WriteLabelMapd",
        "volseg.transforms.cases.find_cases",
        "volseg.batch.bundle.BundleBatch",
        "volseg.training.batches.TrainingBatches",
        "volseg.training.parallel.Ranks",
        "volseg.training.parallel.join_ranks",
        "volseg.training.record.RunRecord",
        "volseg.training.run.prepare_fine_tuning",
        "volseg.training.text_query.run.TextTraining",
        "volseg.training.trainer.build_trainer",
        "volseg.training.update.StepUpdate",
        "monai.data.DataLoader",
        "monai.data.Dataset",
        "monai.data.load_decathlon_datalist",
        "monai.engines.PrepareBatchExtraInput",
        "monai.engines.SupervisedEvaluator",
        "monai.engines.SupervisedTrainer",
        "monai.handlers.CheckpointSaver",
        "monai.handlers.LrScheduleHandler",
        "monai.handlers.MeanDice",
        "monai.handlers.MetricsSaver",
        "monai.handlers.StatsHandler",
        "monai.handlers.ValidationHandler",
        "monai.handlers.from_engine",
        "monai.inferers.SimpleInferer",
        "monai.transforms.AsDiscreted",
        "monai.transforms.Compose",
        "monai.transforms.EnsureTyped",
        "torch.nn.parallel.DistributedDataParallel",
    }
)
"""Classes and functions that a config may name; each was checked to run nothing that its arguments name."""

_ALLOWED_HOMES = ("torch.nn", "torch.optim", "torch.optim.lr_scheduler", "monai.losses")
"""Modules of which every class may be named; only directly, as attributes lead from any module to every other."""

_ALLOWED_CALLS = frozenset(
    {"float", "int", "len", "max", "min", "str", "torch.cuda.is_available", "torch.cuda.device_count", "torch.device"}
)
_ALLOWED_METHODS = frozenset({"parameters", "run"})
_REFERENCE = re.compile(r"@[\w:#]+")
_HARMLESS_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.IfExp, ast.List, ast.Tuple, ast.Dict, ast.Call, ast.keyword, ast.expr_context, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def foreign_code(folder: Path) -> tuple[str, ...]:
    """Everything in a bundle that would run and that volseg does not know, one line each.

    Args:
        folder: the bundle.

    Raises:
        ModelError: a config cannot be read.
    """
    found = [f"{path.relative_to(folder).as_posix()}: Python code" for path in sorted(folder.rglob("*.py"))]
    for path in sorted((folder / "configs").rglob("*")):
        if path.suffix.lower() in CONFIG_SUFFIXES and path.name != "metadata.json":
            where = path.relative_to(folder).as_posix()
            found += [f"{where}: {what}" for what in _foreign_in(_read_config(path))]
    return tuple(dict.fromkeys(found))


def _read_config(path: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(f"{path} has more than {MAX_CONFIG_BYTES} bytes; that is no config")
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"the config {path} cannot be read: {error}") from error


def _foreign_in(config: Any) -> Iterator[str]:
    for key, text in _texts(config, "", set()):
        if key == "_target_":
            if not _is_allowed_target(text):
                yield text
        elif text.startswith("$") and not _is_harmless(text[1:]):
            yield text
        elif text.startswith("%") and "::" in text:
            yield f"{text} (takes in another file)"


def _texts(value: Any, key: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """All texts of a config with their keys; containers that YAML aliases repeat are visited once."""
    if isinstance(value, str):
        yield key, value.strip()
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        pairs = value.items() if isinstance(value, dict) else ((key, one) for one in value)
        for name, one in pairs:
            if name == "_target_" and not isinstance(one, str):
                yield "_target_", repr(one)
            yield from _texts(one, str(name), seen)


def _is_allowed_target(target: str) -> bool:
    home, _, name = target.rpartition(".")
    return target in _ALLOWED_TARGETS or (home in _ALLOWED_HOMES and name.isidentifier() and name[0].isupper())


def _is_harmless(expression: str) -> bool:
    """Whether an expression only computes with references, constants and a few known functions."""
    try:
        tree = ast.parse(_REFERENCE.sub("_reference", expression).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, _HARMLESS_NODES):
            return False
        if id(node) in inner:
            continue
        if isinstance(node, ast.Name | ast.Attribute):
            parts = _dotted(node)
            inner |= {id(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)} - {id(node)}
            if not _is_harmless_name(parts, id(node) in called):
                return False
        elif isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
            return False
    return True


def _dotted(node: ast.expr) -> tuple[str, ...]:
    """The parts of ``a.b.c``; empty for attributes of anything else than a name."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (head := _dotted(node.value)):
        return (*head, node.attr)
    return ()


def _is_harmless_name(parts: tuple[str, ...], is_called: bool) -> bool:
    if not parts or any(part.startswith("_") for part in parts[1:]):
        return False
    if parts[0] == "_reference":
        return not is_called or (len(parts) > 1 and parts[-1] in _ALLOWED_METHODS)
    return is_called and ".".join(parts) in _ALLOWED_CALLS
