"""What a person says about an image: points, boxes, scribbles, lassos, rough masks and words."""

from volseg.prompts.base import Prompt, PromptKind
from volseg.prompts.box import Box
from volseg.prompts.lasso import Lasso
from volseg.prompts.mask import MaskPrompt
from volseg.prompts.point import Point
from volseg.prompts.prompt_set import PromptedObject, PromptSet
from volseg.prompts.scribble import Scribble
from volseg.prompts.text import Text

__all__ = [
    "Box",
    "Lasso",
    "MaskPrompt",
    "Point",
    "Prompt",
    "PromptKind",
    "PromptSet",
    "PromptedObject",
    "Scribble",
    "Text",
]
