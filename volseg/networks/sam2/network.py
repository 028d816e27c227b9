"""SAM 2 as stateless operations on rows, over transformers' sub-modules.

transformers' ``Sam2VideoModel`` (and Meta's predictor) keep a session and run one object after the other. Here nothing
is kept: a row is one object in one direction on one frame, rows are a batch dimension, and whoever tracks decides which
memories a row reads. Where transformers differs from Meta's code (mask prompts), this follows Meta's
(https://github.com/facebookresearch/sam2, ``sam2/modeling/sam2_base.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from volseg.errors import ModelError
from volseg.networks.sam2.config import MEMORY_CHANNELS, Sam2Spec, Sam2Variant, Sam2Version, transformers_config
from volseg.networks.sam2.features import FrameFeatures, FrameOutput, MemoryRows
from volseg.networks.sam2.initialise import initialise
from volseg.networks.sam2.mask_decoder import decode_masks
from volseg.networks.sam2.memory_attention import Places, first_look, read_memories
from volseg.networks.sam2.memory_encoder import write_memories
from volseg.networks.sam2.nano import ConvVisionEncoder
from volseg.networks.sam2.prompt_map import draw_prompts

ABSENT_LOGIT = -1024.0
"""The logit of every pixel of a mask whose object is not on the frame."""
MEMORY_SCALE, MEMORY_BIAS = 20.0, -10.0
"""A mask in [0, 1] times 20 minus 10 is what the memory encoder sees, and what a mask prompt is as logits."""
PROMPT_LOGIT_LIMIT = 32.0
MULTIMASK_MAX_POINTS = 1
KNOWN_SCORE = 1.0
"""Lowest object score of a frame that is known to show the object."""


class Sam2Network(nn.Module):
    """SAM 2, SAM 2.1 or sam2-nano.

    Args:
        spec: what to build.
        state_dict: weights under this module's own keys (`layouts.convert` makes them); None draws random ones.
        compile_parts: compile the image encoder and the memory parts with ``torch.compile`` (worth it on a GPU for
            long volumes; the first frames are slow).

    Raises:
        ModelError: the weights do not fit the spec; the message lists missing and unexpected keys and wrong shapes.
    """

    def __init__(
        self, spec: Sam2Spec, state_dict: Mapping[str, Tensor] | None = None, *, compile_parts: bool = False
    ) -> None:
        super().__init__()
        from transformers import Sam2VideoModel

        self.spec = spec
        self.model = Sam2VideoModel(transformers_config(spec))
        if spec.variant is Sam2Variant.NANO:
            self.model.vision_encoder = ConvVisionEncoder(self.model.vision_encoder.neck)
        if state_dict is None:
            initialise(self.model)
        else:
            self._load(state_dict)
        self.requires_grad_(True)
        self.eval()
        self._places_on: dict[torch.device, Places] = {}
        self._read_memories, self._write_memories = read_memories, write_memories
        if compile_parts:
            self.model.vision_encoder.compile()
            self._read_memories = torch.compile(read_memories, dynamic=True)
            self._write_memories = torch.compile(write_memories, dynamic=True)

    def _load(self, state_dict: Mapping[str, Tensor]) -> None:
        from volseg.networks.sam2.layouts import describe_mismatch

        mine = self.model.state_dict()
        problem = describe_mismatch({k: tuple(v.shape) for k, v in mine.items()}, state_dict)
        if problem:
            raise ModelError(f"the weights do not fit {self.spec.to_json()}: {problem}")
        self.model.load_state_dict(dict(state_dict))

    def weights(self) -> dict[str, Tensor]:
        """The weights as the constructor takes them (transformers' key names)."""
        return dict(self.model.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.no_memory_embedding.device
        return device

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Inference mode, in bfloat16 autocast on CUDA and in the weights' own precision elsewhere."""
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            yield

    def encode_frames(self, pixel_values: Tensor) -> FrameFeatures:
        """Encodes images.

        Args:
            pixel_values: ``[N, 3, S, S]``, normalised as the weights were trained.
        """
        side = self.spec.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            raise ModelError(
                f"the image has shape {tuple(pixel_values.shape)}; expected [N, 3, {side}, {side}]: "
                "resize the slices, or build the network with another image_size"
            )
        level0, level1, embedding = self.model.vision_encoder(pixel_values).fpn_hidden_states
        decoder = self.model.mask_decoder
        looked = None if self.training else self._first_look(embedding)
        return FrameFeatures(decoder.conv_s0(level0), decoder.conv_s1(level1), embedding, looked)

    def _first_look(self, embedding: Tensor) -> Tensor:
        image = embedding.flatten(2).transpose(1, 2)
        return first_look(self.model.memory_attention, image, self._places())

    def _places(self) -> Places:
        """Computed once for each device, so that networks can move."""
        found = self._places_on.get(self.device)
        if found is None:
            # Training may use them after inference has made them.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                side, model = self.spec.embedding_size, self.model
                image, memory = (
                    encoding(torch.Size((1, channels, side, side)), self.device, torch.float32)
                    for encoding, channels in (
                        (model.vision_encoder.neck.position_encoding, self.spec.width),
                        (model.memory_encoder.position_encoding, MEMORY_CHANNELS),
                    )
                )
                found = self._places_on[self.device] = Places.of(model.memory_attention, image, memory)
        return found

    def condition_on_memory(self, features: FrameFeatures, memories: MemoryRows) -> Tensor:
        """The image embedding of each row, after it has read its memories: ``[R, width, S / 16, S / 16]``."""
        rows, width, height, breadth = features.embedding.shape
        model = self.model
        memory, position, pointer_tokens = self._memory_tokens(memories)
        if self.training:
            image = features.embedding.flatten(2).transpose(1, 2) + self._places().image
            conditioned = model.memory_attention(
                current_vision_features=image.transpose(0, 1),
                memory=memory.transpose(0, 1),
                memory_posision_embeddings=position.transpose(0, 1),
                num_object_pointer_tokens=pointer_tokens,
            ).reshape(rows, height * breadth, width)
        else:
            looked = self._first_look(features.embedding) if features.looked is None else features.looked
            conditioned = self._read_memories(
                model.memory_attention, looked, self._places(), memory, position, pointer_tokens
            )
        result: Tensor = conditioned.transpose(1, 2).reshape(rows, width, height, breadth)
        return result

    def _memory_tokens(self, memories: MemoryRows) -> tuple[Tensor, Tensor, int]:
        """All memory tokens ``[R, L, 64]``, their positions alike, and how many of them (the last) are pointers."""
        model = self.model
        rows, frames = memories.offsets.shape
        where = self._places().memory[None]
        # offset 0 (a conditioning frame) wraps around to the last entry, as in both reference implementations
        when = model.memory_temporal_positional_encoding[memories.offsets - 1].reshape(rows, frames, 1, MEMORY_CHANNELS)
        dtype = model.no_memory_embedding.dtype
        tokens = [memories.spatial.to(dtype).flatten(1, 2)]
        positions = [(where[:, None] + when).flatten(1, 2)]
        splits = self.spec.width // MEMORY_CHANNELS
        count = memories.pointers.shape[1]
        if count:
            tokens.append(memories.pointers.to(dtype).reshape(rows, count * splits, MEMORY_CHANNELS))
            positions.append(self._pointer_positions(memories).repeat_interleave(splits, dim=1))
        return torch.cat(tokens, dim=1), torch.cat(positions, dim=1), count * splits

    def _pointer_positions(self, memories: MemoryRows) -> Tensor:
        rows, count = memories.pointer_offsets.shape
        if self.spec.version is Sam2Version.V2_0:
            return memories.pointers.new_zeros(rows, count, MEMORY_CHANNELS)
        distance = memories.pointer_offsets.float() / max(memories.pointer_span - 1, 1)
        half = self.spec.width // 2
        channel = torch.arange(half, dtype=torch.float32, device=distance.device)
        angle = distance[..., None] / 10000 ** (2 * (channel // 2) / half)
        sine = torch.cat([angle.sin(), angle.cos()], dim=-1)
        projected: Tensor = self.model.temporal_positional_encoding_projection_layer(sine)
        return projected

    def decode(
        self,
        features: FrameFeatures,
        *,
        conditioned: Tensor | None = None,
        points_xy: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool | None = None,
        known: Tensor | None = None,
    ) -> FrameOutput:
        """Prompt encoder and mask decoder.

        Args:
            features: one frame for each row.
            conditioned: what `condition_on_memory` gave; None for frames that read no memory (prompted ones).
            points_xy: ``[R, P, 2]`` in pixels of the input; whole numbers are pixel centres.
            labels: ``[R, P]``: 1 and 0 are clicks inside and outside, 2 and 3 the two corners of a box, which come
                first. The number of points changes the result, so rows in one call have equally many and no padding.
            mask_logits: ``[R, 1, S / 4, S / 4]``, an earlier mask that the points refine.
            multimask: choose among three masks; None decides as SAM 2 does (yes for at most one point).
            known: ``[R]`` bool: the object is known to be on the frame, whatever the network thinks of it.
        """
        model = self.model
        rows = len(features)
        device = features.embedding.device
        if multimask is None:
            multimask = points_xy is None or points_xy.shape[1] <= MULTIMASK_MAX_POINTS
        if conditioned is None:
            conditioned = features.embedding + model.no_memory_embedding.reshape(1, -1, 1, 1)
        if mask_logits is not None:
            mask_logits = mask_logits.clamp(-PROMPT_LOGIT_LIMIT, PROMPT_LOGIT_LIMIT)
        if points_xy is None or labels is None:
            points_xy = torch.zeros(rows, 1, 2, device=device)
            labels = -torch.ones(rows, 1, dtype=torch.int32, device=device)
        elif self.spec.draw_prompts:
            mask_logits = draw_prompts(points_xy, labels, self.spec.image_size, mask_logits)
        sparse, dense = model.prompt_encoder(
            input_points=points_xy[:, None].float(),
            input_labels=labels[:, None],
            input_boxes=None,
            input_masks=mask_logits,
        )
        position = model.get_image_wide_positional_embeddings()
        candidates, candidate_iou, tokens, score = decode_masks(
            model.mask_decoder,
            (conditioned + dense).flatten(2).transpose(1, 2),
            position.flatten(2).transpose(1, 2),
            sparse[:, 0],
            (features.level0, features.level1),
            multimask,
        )
        candidates, candidate_iou, score = candidates.float(), candidate_iou.float(), score.float()
        if known is not None:
            score = torch.where(known[:, None], score.clamp(min=KNOWN_SCORE), score)
        best = candidate_iou.argmax(dim=-1)
        row = torch.arange(rows, device=device)
        present = score > 0
        logits = torch.where(present[..., None, None], candidates[row, best][:, None], ABSENT_LOGIT)
        pointer = self.model.object_pointer_proj(tokens[row, best]).float()
        return FrameOutput(
            low_res_logits=logits,
            object_pointer=self._present_or_absent(pointer, present),
            object_score_logits=score,
            iou=candidate_iou[row, best][:, None],
            candidate_logits=candidates,
            candidate_iou=candidate_iou,
        )

    def _present_or_absent(self, pointer: Tensor, present: Tensor) -> Tensor:
        weight = present.to(pointer.dtype)
        mixed: Tensor = weight * pointer + (1 - weight) * self.model.no_object_pointer
        return mixed

    def use_mask(self, features: FrameFeatures, mask: Tensor) -> FrameOutput:
        """Takes a mask prompt as the answer, and asks the decoder only for its object pointer, as Meta does.

        Args:
            features: one frame for each row.
            mask: ``[R, 1, S, S]``, 0 and 1.
        """
        mask = mask.to(features.embedding.device, torch.float32)
        logits = _shrink_by_4(mask * MEMORY_SCALE + MEMORY_BIAS)
        decoded = self.decode(
            features,
            conditioned=features.embedding,
            mask_logits=self.model.mask_downsample(mask),
            multimask=False,
        )
        present = mask.flatten(1).gt(0).any(dim=1, keepdim=True)
        ones = torch.ones(len(mask), 1, device=mask.device)
        return FrameOutput(
            low_res_logits=logits,
            object_pointer=self._present_or_absent(decoded.object_pointer, present),
            object_score_logits=MEMORY_SCALE * present.float() + MEMORY_BIAS,
            iou=ones,
            candidate_logits=logits,
            candidate_iou=ones,
        )

    def encode_memory(
        self, features: FrameFeatures, low_res_logits: Tensor, object_score_logits: Tensor, *, prompted: bool
    ) -> Tensor:
        """Turns masks into spatial memories.

        Args:
            features: one frame for each row.
            low_res_logits: ``[R, 1, S / 4, S / 4]``.
            object_score_logits: ``[R, 1]``.
            prompted: the rows' frames were prompted, so that their masks are made binary (not while training).

        Returns:
            ``[R, S / 16 * S / 16, 64]``; bfloat16 outside training, as both reference implementations store it.
        """
        side = self.spec.image_size
        logits = functional.interpolate(low_res_logits.float(), (side, side), mode="bilinear", align_corners=False)
        mask = (logits > 0).to(logits.dtype) if prompted and not self.training else logits.sigmoid()
        encoded = self._write_memories(self.model.memory_encoder, features.embedding, mask * MEMORY_SCALE + MEMORY_BIAS)
        if self.spec.version is Sam2Version.V2_1:
            absent = (object_score_logits <= 0).to(encoded.dtype)
            encoded = encoded + (absent * self.model.occlusion_spatial_embedding_parameter)[..., None, None]
        memory: Tensor = encoded.flatten(2).transpose(1, 2)
        return memory if self.training else memory.to(torch.bfloat16)

    def forward(self, image: Tensor) -> Tensor:
        """Segments single images with a box around the whole frame.

        Args:
            image: ``[B, 3, S, S]``.

        Returns:
            Logits ``[B, 1, S, S]``.
        """
        side = self.spec.image_size
        corners = torch.tensor([[0.0, 0.0], [side - 1.0, side - 1.0]], device=image.device)
        features = self.encode_frames(image)
        output = self.decode(
            features,
            points_xy=corners.expand(len(image), -1, -1),
            labels=torch.tensor([2, 3], device=image.device).expand(len(image), -1),
        )
        return functional.interpolate(output.low_res_logits, (side, side), mode="bilinear", align_corners=False)


def _shrink_by_4(image: Tensor) -> Tensor:
    """Antialiased bilinear reduction to a quarter; on the CPU where the device (mps) has none."""
    source = image.cpu() if image.device.type == "mps" else image
    size = (image.shape[-2] // 4, image.shape[-1] // 4)
    small = functional.interpolate(source, size, mode="bilinear", align_corners=False, antialias=True)
    return small.to(image.device)
