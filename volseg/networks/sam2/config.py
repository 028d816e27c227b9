"""What a SAM 2 network is made of, and the transformers configuration that builds it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from volseg.errors import ModelError

if TYPE_CHECKING:
    from transformers import Sam2VideoConfig

MEMORY_CHANNELS = 64
"""Channels of a spatial memory; fixed in transformers' memory attention."""


class Sam2Variant(StrEnum):
    """The image trunk: one of Meta's four Hiera sizes, or volseg's small convolutional one."""

    TINY = "tiny"
    SMALL = "small"
    BASE_PLUS = "base_plus"
    LARGE = "large"
    NANO = "nano"


class Sam2Version(StrEnum):
    """The release. Only 2.1 embeds occlusion in memories and time in object pointers."""

    V2_0 = "2.0"
    V2_1 = "2.1"


@dataclass(frozen=True)
class HieraSize:
    """The numbers in which Meta's trunks differ (from the YAML files of the ``sam2`` package)."""

    channels: int
    heads: int
    blocks_per_stage: tuple[int, int, int, int]
    global_attention_blocks: tuple[int, int, int]
    position_grid: int
    windows: tuple[int, int, int, int]


HIERA_SIZES: dict[Sam2Variant, HieraSize] = {
    Sam2Variant.TINY: HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9), 7, (8, 4, 14, 7)),
    Sam2Variant.SMALL: HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13), 7, (8, 4, 14, 7)),
    Sam2Variant.BASE_PLUS: HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), 14, (8, 4, 14, 7)),
    Sam2Variant.LARGE: HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), 7, (8, 4, 16, 8)),
}

NANO_WIDTHS = (48, 96, 192, 384)
"""Channels of sam2-nano's trunk at strides 4, 8, 16 and 32."""


@dataclass(frozen=True)
class Sam2Spec:
    """A SAM 2 network, completely described: with a state dict it is a model.

    Attributes:
        variant: the image trunk.
        version: the release, 2.0 or 2.1.
        image_size: side of the square input in pixels, a multiple of 32. No learned tensor depends on it.
        width: channels of the image embedding, a multiple of 64 (256 in Meta's models).
        memory_layers: layers of memory attention (4 in Meta's models).
        feed_forward: hidden units of the attention layers' feed-forward parts (2048 in Meta's models).
        memory_frames: spatial memories a frame may read besides further conditioning frames: one conditioning frame
            and the last ``memory_frames - 1`` tracked ones.
        max_object_pointers: object pointers a frame may read.
        draw_prompts: clicks and boxes are also drawn into the mask input (see `prompt_map.draw_prompts`). The weights
            must have been trained so; Meta's were not.
        carry_mask: a tracked frame is given the mask of the frame before it as its mask prompt, beside its memories
            (see `carry`). The weights must have been trained so; Meta's were not.
    """

    variant: Sam2Variant
    version: Sam2Version = Sam2Version.V2_1
    image_size: int = 1024
    width: int = 256
    memory_layers: int = 4
    feed_forward: int = 2048
    memory_frames: int = 7
    max_object_pointers: int = 16
    draw_prompts: bool = False
    carry_mask: bool = False

    def __post_init__(self) -> None:
        """Refuses sizes that the network cannot have."""
        object.__setattr__(self, "variant", Sam2Variant(self.variant))
        object.__setattr__(self, "version", Sam2Version(self.version))
        if self.image_size < 64 or self.image_size % 32:
            raise ModelError(f"image_size is {self.image_size}; expected a multiple of 32, at least 64")
        if self.width < MEMORY_CHANNELS or self.width % MEMORY_CHANNELS:
            raise ModelError(f"width is {self.width}; expected a multiple of {MEMORY_CHANNELS}")
        if self.memory_frames < 2 or self.max_object_pointers < 2:
            raise ModelError(
                f"memory_frames is {self.memory_frames} and max_object_pointers {self.max_object_pointers}; "
                "expected at least 2 of each"
            )

    @classmethod
    def nano(cls, image_size: int = 256, *, draw_prompts: bool = True) -> Sam2Spec:
        """The small model: a convolutional trunk under a narrower SAM 2 (below 6 M parameters)."""
        return cls(
            Sam2Variant.NANO,
            image_size=image_size,
            width=128,
            memory_layers=2,
            feed_forward=512,
            draw_prompts=draw_prompts,
        )

    @property
    def mask_size(self) -> int:
        """Side in pixels of the logits the mask decoder makes: a quarter of the input's."""
        return self.image_size // 4

    @property
    def embedding_size(self) -> int:
        """Side in pixels of the image embedding and of a spatial memory: a sixteenth of the input's."""
        return self.image_size // 16

    def to_json(self) -> str:
        """The spec as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Sam2Spec:
        """Reads what `to_json` wrote.

        Raises:
            ModelError: the text is no JSON object, names an unknown setting, or holds a value no network can have.
        """
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"the SAM 2 spec is not JSON ({error}); expected what Sam2Spec.to_json writes") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or "variant" not in values or set(values) - known:
            raise ModelError(f"the SAM 2 spec is {text!r}; expected a JSON object with 'variant' and some of {known}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ModelError(f"the SAM 2 spec {text!r} does not describe a network: {error}") from error


def transformers_config(spec: Sam2Spec) -> Sam2VideoConfig:
    """The configuration of transformers' ``Sam2VideoModel`` for a spec, with every size that depends on the image set.

    For the nano variant the Hiera trunk is a placeholder of a few hundred weights, which `nano.ConvTrunk` replaces.
    """
    from transformers import Sam2VideoConfig

    side = spec.embedding_size
    return Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": _trunk_config(spec),
            "backbone_channel_list": list(reversed(_trunk_widths(spec))),
            "backbone_feature_sizes": [[side * 4] * 2, [side * 2] * 2, [side] * 2],
            "fpn_hidden_size": spec.width,
        },
        prompt_encoder_config={"hidden_size": spec.width, "image_size": spec.image_size},
        mask_decoder_config={
            "hidden_size": spec.width,
            "mlp_dim": spec.feed_forward,
            "iou_head_hidden_dim": spec.width,
        },
        image_size=spec.image_size,
        num_maskmem=spec.memory_frames,
        max_object_pointers_in_encoder=spec.max_object_pointers,
        enable_occlusion_spatial_embedding=spec.version is Sam2Version.V2_1,
        enable_temporal_pos_encoding_for_object_pointers=spec.version is Sam2Version.V2_1,
        memory_attention_hidden_size=spec.width,
        memory_attention_num_layers=spec.memory_layers,
        memory_attention_feed_forward_hidden_size=spec.feed_forward,
        memory_attention_rope_feat_sizes=[side, side],
        memory_encoder_hidden_size=spec.width,
        memory_encoder_output_channels=MEMORY_CHANNELS,
        mask_downsampler_embed_dim=spec.width,
        memory_fuser_embed_dim=spec.width,
        memory_fuser_intermediate_dim=4 * spec.width,
    )


def _trunk_widths(spec: Sam2Spec) -> tuple[int, ...]:
    if spec.variant is Sam2Variant.NANO:
        return NANO_WIDTHS
    return tuple(HIERA_SIZES[spec.variant].channels * 2**stage for stage in range(4))


def _trunk_config(spec: Sam2Spec) -> dict[str, Any]:
    if spec.variant is Sam2Variant.NANO:
        size = HieraSize(4, 1, (1, 1, 1, 1), (2, 2, 2), 2, (2, 2, 2, 2))
        global_blocks: list[int] = []
    else:
        size = HIERA_SIZES[spec.variant]
        global_blocks = list(size.global_attention_blocks)
    return {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": size.channels,
        "num_attention_heads": size.heads,
        "image_size": [spec.image_size, spec.image_size],
        "window_positional_embedding_background_size": [size.position_grid] * 2,
        "blocks_per_stage": list(size.blocks_per_stage),
        "embed_dim_per_stage": [size.channels * 2**stage for stage in range(4)],
        "num_attention_heads_per_stage": [size.heads * 2**stage for stage in range(4)],
        "window_size_per_stage": list(size.windows),
        "global_attention_blocks": global_blocks,
    }
