"""A label map as something a person says: each object a rough mask."""

from __future__ import annotations

from volseg.data.labelmap import LabelMap
from volseg.errors import PromptError
from volseg.prompts import MaskPrompt, PromptedObject, PromptSet


def labelmap_prompts(labelmap: LabelMap) -> PromptSet:
    """A mask prompt for every object, whose number and name stay those of its label; empty objects say nothing.

    Raises:
        PromptError: no object has a voxel.
    """
    objects = tuple(
        PromptedObject(label.value, (MaskPrompt(mask, labelmap.grid),), label.name)
        for label in labelmap.labels
        if (mask := labelmap.mask(label.value)).any()
    )
    if not objects:
        raise PromptError("the label map is empty, so it says nothing about any object")
    return PromptSet(labelmap.grid, objects)
