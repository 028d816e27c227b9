"""The model whose answers are refined."""

from __future__ import annotations

from volseg.errors import ModelError
from volseg.models.base import Model
from volseg.models.refined import RefinedModel
from volseg.models.registry import load_model
from volseg.models.sam2 import Sam2Model


def load_base(name: str, device: str) -> Model:
    """A SAM 2 model without its second look.

    Args:
        name: see ``load_model``.
        device: see ``load_model``.

    Raises:
        ModelError: there is no such model, or it is another kind.
    """
    model = load_model(name, device=device)
    if isinstance(model, RefinedModel):
        return model.drafts
    if isinstance(model, Sam2Model):
        return model
    raise ModelError(f"{name} is a {type(model).__name__}; --adapt refine needs SAM 2, as a name or a bundle's folder")
