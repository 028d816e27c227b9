"""The two reference implementations of SAM 2, driven as fairly as can be: one fresh session an object and direction.

All get the same random weights and the same input tensors. Random weights of Meta's own initialisation are nudged so
that masks have both signs and the object counts as present.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import lru_cache

import torch
from torch import Tensor

from volseg.inferers.tracking import FramePrompts
from volseg.networks.sam2.layouts import Recognised, convert, recognise
from volseg.networks.sam2.network import Sam2Network

SIDE = 256
META_CONFIGS = {
    "tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "large": "configs/sam2.1/sam2.1_hiera_l.yaml",
    "tiny 2.0": "configs/sam2/sam2_hiera_t.yaml",
}


@lru_cache(maxsize=2)
def meta_predictor(name: str, side: int = SIDE):  # type: ignore[no-untyped-def]
    """Meta's video predictor with random weights."""
    from sam2.build_sam import build_sam2_video_predictor

    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(7)
    grid = side // 16
    predictor = build_sam2_video_predictor(
        META_CONFIGS[name],
        None,
        device="cpu",
        hydra_overrides_extra=[
            f"++model.image_size={side}",
            f"++model.memory_attention.layer.self_attention.feat_sizes=[{grid},{grid}]",
            f"++model.memory_attention.layer.cross_attention.feat_sizes=[{grid},{grid}]",
        ],
    )
    with torch.no_grad():
        for mlp in predictor.sam_mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.mul_(8)
        head = predictor.sam_mask_decoder.pred_obj_score_head.layers[-1]
        head.weight.mul_(4)
        head.bias.fill_(1.0)
        for block in predictor.memory_encoder.fuser.layers:
            block.gamma.fill_(0.5)
        predictor.memory_encoder.out_proj.weight.mul_(4)
    return predictor


@lru_cache(maxsize=2)
def recognised(name: str, side: int = SIDE) -> Recognised:
    return recognise(meta_predictor(name, side).state_dict(), image_size=side)


@lru_cache(maxsize=2)
def volseg_network(name: str, side: int = SIDE) -> Sam2Network:
    found = recognised(name, side)
    return Sam2Network(found.spec, convert(meta_predictor(name, side).state_dict(), found))


def frames(count: int, side: int = SIDE, seed: int = 0) -> Tensor:
    """``[count, 3, S, S]`` smooth random images that change slowly from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, count // 2 + 2, 12, 12, generator=generator) * 2
    smooth = torch.nn.functional.interpolate(coarse, (count, side, side), mode="trilinear", align_corners=True)
    noise = torch.randn(count, 3, side, side, generator=generator) * 0.2
    return smooth[0].transpose(0, 1) + noise


def meta_pass(predictor, images: Tensor, prompts: dict[int, FramePrompts], reverse: bool) -> dict[int, Tensor]:  # type: ignore[no-untyped-def]
    """Low-resolution logits ``[S / 4, S / 4]`` of one fresh session of Meta's predictor."""
    side = images.shape[-1]
    device = torch.device("cpu")
    state = {
        "images": images,
        "num_frames": len(images),
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": side,
        "video_width": side,
        "device": device,
        "storage_device": device,
        "point_inputs_per_obj": {},
        "mask_inputs_per_obj": {},
        "cached_features": {},
        "constants": {},
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
        "output_dict_per_obj": {},
        "temp_output_dict_per_obj": {},
        "frames_tracked_per_obj": {},
    }
    for frame, one in prompts.items():
        if one.mask is not None:
            predictor.add_new_mask(state, frame, 1, torch.tensor(one.mask))
        if len(one.labels):
            points, labels = torch.tensor(one.points_xy), torch.tensor(one.labels)
            predictor.add_new_points_or_box(state, frame, 1, points=points, labels=labels)
    start = max(prompts) if reverse else min(prompts)
    for _ in predictor.propagate_in_video(state, start_frame_idx=start, reverse=reverse):
        pass
    outputs = state["output_dict_per_obj"][0]
    every = {**outputs["non_cond_frame_outputs"], **outputs["cond_frame_outputs"]}
    return {frame: output["pred_masks"][0, 0] for frame, output in every.items()}


def transformers_pass(
    network: Sam2Network, images: Tensor, prompts: dict[int, FramePrompts], reverse: bool
) -> dict[int, Tensor]:
    """The same of one fresh session of transformers' ``Sam2VideoModel``."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    side = images.shape[-1]
    session = Sam2VideoInferenceSession(video=images, video_height=side, video_width=side, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    for frame, one in prompts.items():
        points = {
            "point_coords": torch.tensor(one.points_xy)[None, None],
            "point_labels": torch.tensor(one.labels)[None, None],
        }
        session.add_point_inputs(index, frame, points)
    for frame in prompts:
        session.obj_with_new_inputs = [1]
        network.model(session, frame_idx=frame)
    start = max(prompts) if reverse else min(prompts)
    steps = network.model.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse)
    return {step.frame_idx: step.pred_masks[0, 0] for step in steps}
