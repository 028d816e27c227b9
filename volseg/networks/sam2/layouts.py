"""Which SAM 2 a state dict holds, told from its keys and shapes, and the conversion of Meta's key names.

Four layouts are known: Meta's (SAM 2, SAM 2.1 and MedSAM2, which is SAM 2.1 tiny at 512 pixels), transformers' and
volseg's own for sam2-nano (transformers' names over a convolutional trunk). No learned tensor depends on the image
size, so MedSAM2 cannot be told from SAM 2.1 tiny by its weights: the size comes from the file name or the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol

from volseg.errors import ModelError
from volseg.networks.sam2.config import HIERA_SIZES, Sam2Spec, Sam2Variant, Sam2Version

if TYPE_CHECKING:
    from torch import Tensor


class Layout(StrEnum):
    """How the keys of a state dict are named."""

    META = "meta"
    TRANSFORMERS = "transformers"
    NANO = "volseg-nano"


class HasShape(Protocol):
    """A tensor, or anything else that knows its shape (the header of a safetensors file)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along all dimensions."""


@dataclass(frozen=True)
class Recognised:
    """What a state dict turned out to be."""

    layout: Layout
    spec: Sam2Spec


_PATCH_KEYS = {
    Layout.META: "image_encoder.trunk.patch_embed.proj.weight",
    Layout.TRANSFORMERS: "vision_encoder.backbone.patch_embed.projection.weight",
    Layout.NANO: "vision_encoder.backbone.stem.0.weight",
}
_BLOCK_KEYS = {
    Layout.META: re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\."),
    Layout.TRANSFORMERS: re.compile(r"vision_encoder\.backbone\.blocks\.(\d+)\."),
}
_OCCLUSION_KEYS = ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter")

# order matters: specific names before the general ones they contain
_RENAMINGS: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^(vision_encoder\.backbone\.blocks\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^(vision_encoder\.backbone\.blocks\.\d+\.mlp)\.layers\.0\.", r"\1.proj_in."),
    (r"^(vision_encoder\.backbone\.blocks\.\d+\.mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^memory_attention\.norm\.", "memory_attention.layer_norm."),
    (r"^(memory_attention\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12\.", "memory_encoder.mask_downsampler.final_conv."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^(memory_encoder\.memory_fuser\.layers\.\d+)\.gamma$", r"\1.scale"),
    (r"^(memory_encoder\.memory_fuser\.layers\.\d+)\.dwconv\.", r"\1.depthwise_conv."),
    (r"^(memory_encoder\.memory_fuser\.layers\.\d+)\.norm\.", r"\1.layer_norm."),
    (r"^(memory_encoder\.memory_fuser\.layers\.\d+)\.pwconv(\d)\.", r"\1.pointwise_conv\2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^sam_mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.layers\.0\.", r"\1.proj_in."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"^((?:memory_attention|mask_decoder)\..*)\.out_proj\.", r"\1.o_proj."),
)
_THREE_LAYER_MLP = re.compile(
    r"^(object_pointer_proj|mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head))"
    r"\.layers\.(\d)\."
)
_THREE_LAYERS = ("proj_in", "layers.0", "proj_out")
_DOWNSAMPLER = re.compile(r"^memory_encoder\.mask_downsampler\.encoder\.(\d+)\.")
_POINT_EMBEDDING = re.compile(r"^prompt_encoder\.point_embeddings\.(\d)\.weight$")
_POSITION_MATRIX = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


def recognise(state: Mapping[str, HasShape], *, image_size: int | None = None, file_name: str = "") -> Recognised:
    """Tells layout, size and release of a state dict.

    Args:
        state: the state dict, or the header of one.
        image_size: side of the network input in pixels, if the user knows it.
        file_name: used for the image size where the user gave none: MedSAM2 files say so in their name and take 512,
            sam2-nano takes 256 and everything else 1024.

    Raises:
        ModelError: the keys or sizes are of no known SAM 2.
    """
    layout = next((layout for layout, key in _PATCH_KEYS.items() if key in state), None)
    if layout is None:
        raise ModelError(
            f"this is no SAM 2 checkpoint: {_sample(state)}; expected a key such as "
            + " or ".join(f"{key} ({layout})" for layout, key in _PATCH_KEYS.items())
        )
    if image_size is None:
        small = 512 if "medsam2" in PurePath(file_name).name.lower() else 1024
        image_size = 256 if layout is Layout.NANO else small
    if layout is Layout.NANO:
        return Recognised(layout, _nano_spec(state, image_size))
    blocks = {int(match[1]) for key in state if (match := _BLOCK_KEYS[layout].match(key))}
    channels = int(state[_PATCH_KEYS[layout]].shape[0])
    version = Sam2Version.V2_1 if any(key in state for key in _OCCLUSION_KEYS) else Sam2Version.V2_0
    for variant, size in HIERA_SIZES.items():
        if size.channels == channels and sum(size.blocks_per_stage) == len(blocks):
            return Recognised(layout, Sam2Spec(variant, version, image_size))
    known = ", ".join(f"{v}: {s.channels} and {sum(s.blocks_per_stage)}" for v, s in HIERA_SIZES.items())
    raise ModelError(f"the trunk has {channels} channels and {len(blocks)} blocks; expected one of {known}")


def convert(state: Mapping[str, Tensor], recognised: Recognised) -> dict[str, Tensor]:
    """Renames Meta's keys to those `Sam2Network` takes; other layouts come back as they are.

    Raises:
        ModelError: keys are missing, too many or of the wrong shape for the recognised network; all are listed.
    """
    converted = from_meta(state) if recognised.layout is Layout.META else dict(state)
    problem = describe_mismatch(expected_shapes(recognised.spec), converted)
    if problem:
        spec = recognised.spec
        raise ModelError(
            f"recognised {recognised.layout} SAM {spec.version} {spec.variant}, but it is not complete: {problem}"
        )
    return converted


def from_meta(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames Meta's keys one by one, merging the point embeddings and doubling the positional matrix."""
    import torch

    converted: dict[str, Tensor] = {}
    points: dict[int, Tensor] = {}
    for key, tensor in state.items():
        if key == _POSITION_MATRIX:
            converted["shared_image_embedding.positional_embedding"] = tensor
            converted["prompt_encoder.shared_embedding.positional_embedding"] = tensor.clone()
            continue
        name = _rename(key)
        match = _POINT_EMBEDDING.match(name)
        if match:
            points[int(match[1])] = tensor
        else:
            converted[name] = tensor
    if sorted(points) == list(range(4)):
        converted["prompt_encoder.point_embed.weight"] = torch.cat([points[index] for index in range(4)])
    return converted


def expected_shapes(spec: Sam2Spec) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the weights of a network; allocates no memory for them."""
    import torch
    from transformers import Sam2VideoModel

    from volseg.networks.sam2.config import transformers_config
    from volseg.networks.sam2.nano import ConvVisionEncoder

    with torch.device("meta"):
        model = Sam2VideoModel(transformers_config(spec))
        if spec.variant is Sam2Variant.NANO:
            model.vision_encoder = ConvVisionEncoder(model.vision_encoder.neck)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def describe_mismatch(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, HasShape]) -> str:
    """Says which keys are missing, unexpected or of another shape; empty when all fit."""
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    wrong = sorted(
        f"{key} is {tuple(state[key].shape)}, expected {expected[key]}"
        for key in set(expected) & set(state)
        if tuple(state[key].shape) != expected[key]
    )
    parts = (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
    return "; ".join(f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in parts if keys)


def _rename(key: str) -> str:
    downsampler = _DOWNSAMPLER.match(key)
    if downsampler and int(downsampler[1]) < 12:
        layer, part = divmod(int(downsampler[1]), 3)
        name = f"memory_encoder.mask_downsampler.layers.{layer}.{('conv', 'layer_norm', 'activation')[part]}."
        return name + key[downsampler.end() :]
    for pattern, replacement in _RENAMINGS:
        key = re.sub(pattern, replacement, key)
    mlp = _THREE_LAYER_MLP.match(key)
    if mlp and int(mlp[2]) < len(_THREE_LAYERS):
        key = f"{mlp[1]}.{_THREE_LAYERS[int(mlp[2])]}.{key[mlp.end() :]}"
    return key


def _nano_spec(state: Mapping[str, HasShape], image_size: int) -> Sam2Spec:
    try:
        layers = {key.split(".")[2] for key in state if key.startswith("memory_attention.layers.")}
        return Sam2Spec(
            Sam2Variant.NANO,
            image_size=image_size,
            width=int(state["no_memory_embedding"].shape[-1]),
            memory_layers=len(layers),
            feed_forward=int(state["memory_attention.layers.0.linear1.weight"].shape[0]),
            draw_prompts=True,
        )
    except KeyError as error:
        raise ModelError(f"a sam2-nano checkpoint without the key {error}; expected a complete one") from error


def _sample(keys: Iterable[str]) -> str:
    first = sorted(keys)[:5]
    return "its first keys are " + ", ".join(first) if first else "it holds no keys"
