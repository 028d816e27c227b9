"""What a text-query network is made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from volseg.errors import ModelError

MAX_LEVELS = 7
"""More halvings of a window leave nothing to look at."""


class Backbone(StrEnum):
    """The encoder-decoder, from MONAI."""

    DYNUNET = "dynunet"
    """Convolutions with instance norm and leaky ReLU, as in nnU-Net."""

    SEGRESNET = "segresnet"
    """Residual convolutions with group norm."""

    SWIN_UNETR = "swin_unetr"
    """Shifted-window attention in the encoder; windows are a multiple of 32 voxels."""


@dataclass(frozen=True)
class TextQuerySpec:
    """A text-query network, completely described: with a state dict it is a model.

    Attributes:
        backbone: the encoder-decoder.
        widths: channels at full resolution, half of it and so on. SegResNet and SwinUNETR double them from level to
            level, so that only the first counts and the length (5 for SwinUNETR).
        in_channels: channels of a window.
        query_width: length of the query embeddings.
        width: channels of the attention.
        heads: attention heads; divides ``width``.
        layers: attention layers.
        token_levels: the coarsest levels, so many, whose features the queries attend.
        mask_levels: the finest levels, so many, whose features the masks are drawn from.
        mask_width: channels that each of them gives.
        presence_layers: attention layers that presence has to itself, after the others.
        scout_widths: channels of presence's own convolutions, each of which halves the resolution; none without any.
        concepts: ids of the structures whose query embeddings are part of the weights, in their order.

    Raises:
        ModelError: the numbers do not fit together.
    """

    backbone: Backbone = Backbone.DYNUNET
    widths: tuple[int, ...] = (16, 32, 64, 128, 224)
    in_channels: int = 2
    query_width: int = 64
    width: int = 128
    heads: int = 4
    layers: int = 2
    token_levels: int = 2
    mask_levels: int = 3
    mask_width: int = 16
    presence_layers: int = 0
    scout_widths: tuple[int, ...] = ()
    concepts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", Backbone(self.backbone))
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "concepts", tuple(self.concepts))
        object.__setattr__(self, "scout_widths", tuple(self.scout_widths))
        counts = (self.in_channels, self.query_width, self.width, self.heads, self.layers, self.mask_width)
        if min(*counts, *self.widths) < 1 or self.width % self.heads:
            raise ModelError(f"widths are positive and the heads divide the attention's width, got {self}")
        if not 3 <= len(self.widths) <= MAX_LEVELS:
            raise ModelError(f"a backbone has 3 to {MAX_LEVELS} levels, got {len(self.widths)}")
        if not 1 <= min(self.token_levels, self.mask_levels) <= max(self.token_levels, self.mask_levels) <= self.levels:
            raise ModelError(f"levels for tokens and masks lie in 1..{self.levels}, got {self}")
        if self.scout_widths and (not self.presence_layers or any(n < 8 or n % 8 for n in self.scout_widths)):
            raise ModelError(f"what the scout sees goes to layers of presence, and its widths divide by 8, got {self}")
        if len(set(self.concepts)) != len(self.concepts):
            raise ModelError("a structure has one query embedding; some concepts are listed twice")
        if self.backbone is Backbone.SWIN_UNETR and (len(self.widths) != 5 or self.widths[0] % 12):
            raise ModelError(f"a SwinUNETR has 5 levels and a first width divisible by 12, got {self.widths}")
        if self.backbone is Backbone.SEGRESNET and self.widths[0] % 8:
            raise ModelError(f"a SegResNet's first width is divisible by 8, got {self.widths[0]}")

    @property
    def levels(self) -> int:
        """Resolutions in the backbone."""
        return len(self.widths)

    @property
    def divisor(self) -> int:
        """The sides of a window are multiples of it."""
        return 32 if self.backbone is Backbone.SWIN_UNETR else int(2 ** (self.levels - 1))

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of the decoder's features, from full resolution down."""
        match self.backbone:
            case Backbone.DYNUNET:
                return self.widths
            case Backbone.SEGRESNET:
                return tuple(self.widths[0] * 2**level for level in range(self.levels))
            case Backbone.SWIN_UNETR:
                return tuple(self.widths[0] * factor for factor in (1, 1, 2, 4, 8))

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TextQuerySpec:
        """Reads what ``to_json`` wrote.

        Raises:
            ModelError: unknown settings, or settings that do not fit together.
        """
        values: Any = json.loads(text)
        unknown = set(values) - {one.name for one in fields(cls)}
        if unknown:
            raise ModelError(f"a text-query network has no settings {sorted(unknown)}")
        return cls(**values)
