"""volseg and the two reference implementations behind one call, each as its own documentation drives it.

The same weights and the same frames go in; frames are encoded anew in every run. Each direction is a fresh session with
all prompts given before it starts, and a session holds all objects, so that a frame is encoded once for all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from volseg.inferers.tracking import (
    Direction,
    FeatureCache,
    FramePrompts,
    Precision,
    Tracker,
    TrackRequest,
    TrackSettings,
)
from volseg.networks.sam2.network import Sam2Network

Prompts = Mapping[int, Mapping[int, FramePrompts]]
"""Prompts by object and frame."""
Masks = dict[tuple[int, Direction], dict[int, Tensor]]
"""``[S / 4, S / 4]`` logits by object and direction, then by frame; a frame without a mask may be missing."""

BOTH = (Direction.FORWARD, Direction.BACKWARD)


class Contestant(Protocol):
    """Somebody who tracks objects through frames."""

    name: str

    def track(self, images: Tensor, prompts: Prompts, directions: Sequence[Direction] = BOTH) -> Masks:
        """Tracks all objects through ``images`` ``[N, 3, S, S]``, once for each direction."""


@contextmanager
def inference(device: torch.device):  # type: ignore[no-untyped-def]
    """The precision volseg uses too: bfloat16 on CUDA, float32 on a CPU."""
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        yield


class Volseg:
    """volseg's tracker.

    Args:
        network: the network.
        settings: how it tracks.
        cache_bytes: bytes of encoded frames it may keep.
    """

    name = "volseg"

    def __init__(self, network: Sam2Network, settings: TrackSettings, cache_bytes: int = 2 << 30) -> None:
        self.network, self.settings, self.cache_bytes = network, settings, cache_bytes

    def source(self, images: Tensor) -> FeatureCache:
        """The frames, none of them encoded yet."""
        return FeatureCache(
            self.network, images.__getitem__, len(images), key="benchmark", byte_budget=self.cache_bytes
        )

    def tracker(self, images: Tensor) -> Tracker:
        """A tracker of frames that are not encoded yet."""
        return Tracker(self.network, self.source(images), self.settings)

    def track(self, images: Tensor, prompts: Prompts, directions: Sequence[Direction] = BOTH) -> Masks:
        """See `Contestant`. A direction is left out by limiting the frames."""
        requests = {}
        for name, frames in prompts.items():
            first = 0 if Direction.BACKWARD in directions else min(frames)
            last = None if Direction.FORWARD in directions else max(frames)
            requests[name] = TrackRequest(frames, first, last)
        tracks = self.tracker(images).track(requests)
        masks: Masks = {}
        for name, track in tracks.items():
            for direction in directions:
                passed = track.forward if direction is Direction.FORWARD else track.backward
                results = {**passed, **{frame: one.result for frame, one in track.prompted.items()}}
                masks[name, direction] = {f: r.logits for f, r in results.items() if r.logits is not None}
        return masks


class Transformers:
    """The session of transformers' ``Sam2VideoModel``.

    Args:
        network: holds the model.
        cached_frames: encoded frames a session keeps; 1 is transformers' default.
    """

    def __init__(self, network: Sam2Network, cached_frames: int = 1) -> None:
        self.network, self.cached_frames = network, cached_frames
        self.name = f"transformers (cache of {'1 frame' if cached_frames == 1 else 'all frames, filled before'})"
        self._kept: dict[int, Any] = {}

    def fill(self, images: Tensor) -> None:
        """Encodes all frames into the cache that later sessions get."""
        with inference(self.network.device):
            for frame in range(len(images)):
                pixels = images[frame : frame + 1].to(self.network.device)
                found = self.network.model.get_image_features(pixels, return_dict=True)
                self._kept[frame] = {
                    "vision_feats": found.fpn_hidden_states,
                    "vision_pos_embeds": found.fpn_position_encoding,
                }

    def track(self, images: Tensor, prompts: Prompts, directions: Sequence[Direction] = BOTH) -> Masks:
        """See `Contestant`."""
        masks: Masks = {}
        for direction in directions:
            masks.update(self._session(images, prompts, direction))
        return masks

    def _session(self, images: Tensor, prompts: Prompts, direction: Direction) -> Masks:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        side, device = images.shape[-1], self.network.device
        session = Sam2VideoInferenceSession(
            video=images,
            video_height=side,
            video_width=side,
            dtype=torch.float32,
            inference_device=device,
            inference_state_device=device,
            video_storage_device=images.device,
            max_vision_features_cache_size=self.cached_frames,
        )
        for frame, features in self._kept.items():
            session.cache.cache_vision_features(frame, features)
        for name, frames in prompts.items():
            index = session.obj_id_to_idx(name)
            for frame, one in frames.items():
                points = {
                    "point_coords": torch.tensor(one.points_xy, device=device)[None, None],
                    "point_labels": torch.tensor(one.labels, device=device)[None, None],
                }
                session.add_point_inputs(index, frame, points)
        starts = sorted({frame for frames in prompts.values() for frame in frames})
        masks: Masks = {(name, direction): {} for name in prompts}
        with inference(device):
            for frame in starts:
                session.obj_with_new_inputs = [name for name, frames in prompts.items() if frame in frames]
                self.network.model(session, frame_idx=frame)
            backward = direction is Direction.BACKWARD
            start = starts[-1] if backward else starts[0]
            for step in self.network.model.propagate_in_video_iterator(session, start, reverse=backward):
                for row, name in enumerate(session.obj_ids):
                    masks[name, direction][step.frame_idx] = step.pred_masks[row, 0].cpu()
        return masks


class Meta:
    """Meta's ``SAM2VideoPredictor``, which keeps the features of one frame.

    Args:
        predictor: the predictor.
    """

    name = "Meta (cache of 1 frame)"

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor

    def track(self, images: Tensor, prompts: Prompts, directions: Sequence[Direction] = BOTH) -> Masks:
        """See `Contestant`."""
        masks: Masks = {}
        for direction in directions:
            masks.update(self._session(images, prompts, direction))
        return masks

    def _session(self, images: Tensor, prompts: Prompts, direction: Direction) -> Masks:
        # A video as large as the logits, so that no time goes into enlarging the masks.
        side = images.shape[-1] // 4
        device = next(self.predictor.parameters()).device
        state: dict[str, Any] = {
            "images": images,
            "num_frames": len(images),
            "offload_video_to_cpu": True,
            "offload_state_to_cpu": False,
            "video_height": side,
            "video_width": side,
            "device": device,
            "storage_device": device,
            "cached_features": {},
            "constants": {},
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
        }
        for name in ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict", "frames_tracked"):
            state[f"{name}_per_obj"] = {}
        with inference(device):
            by_frame = sorted((f, name, one) for name, frames in prompts.items() for f, one in frames.items())
            for frame, name, one in by_frame:
                points, labels = torch.tensor(one.points_xy) / 4, torch.tensor(one.labels)
                self.predictor.add_new_points_or_box(state, frame, name, points=points, labels=labels)
            backward = direction is Direction.BACKWARD
            start = by_frame[-1][0] if backward else by_frame[0][0]
            for _ in self.predictor.propagate_in_video(state, start_frame_idx=start, reverse=backward):
                pass
        masks: Masks = {}
        for name, index in state["obj_id_to_idx"].items():
            outputs = state["output_dict_per_obj"][index]
            every = {**outputs["non_cond_frame_outputs"], **outputs["cond_frame_outputs"]}
            masks[name, direction] = {frame: output["pred_masks"][0, 0].cpu() for frame, output in every.items()}
        return masks


def reference_settings(**changes: Any) -> TrackSettings:
    """All prompted frames read and float32 logits kept, as the references do; never ends early."""
    values = {"max_conditioning_frames": None, "stop_after_empty": None, "keep_logits": Precision.SINGLE}
    return TrackSettings(**{**values, **changes})
