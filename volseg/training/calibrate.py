"""Sets the presence score's zero where training objects end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from volseg.networks.sam2.network import Sam2Network
from volseg.training import prompts
from volseg.training.config import TrainConfig
from volseg.training.frames import normalised
from volseg.training.sampling import Clip, ClipSampler
from volseg.training.steps import decode_prompts, frames_of_clips, track_clip
from volseg.training.travel import Travel
from volseg.training.volume import TrainingVolume

SCORE_BIAS = "mask_decoder.pred_obj_score_head.proj_out.bias"
CLIPS, ROWS = 96, 8
FILL = (0.4, 0.6)


def calibrate_presence(network: Sam2Network, volumes: Sequence[TrainingVolume], config: TrainConfig) -> float:
    """Shifts the presence score so that zero tells present from absent tracked frames best.

    Most frames of a clip show the object, so a score trained by cross entropy stays positive when in doubt, and
    tracking runs past the object's ends. Here both kinds of error weigh the same (balanced accuracy).

    Args:
        network: changed in place.
        volumes: to measure on; training ones with labels drawn by people, never the validation patients.
        config: of the run.

    Returns:
        What was subtracted from the score; 0 where the clips have not both kinds of frames.
    """
    scores, present = _tracked_scores(network.eval(), volumes, config)
    if present.all() or not present.any():
        return 0.0
    threshold = balanced_threshold(scores, present)
    with torch.no_grad():
        network.model.get_parameter(SCORE_BIAS).sub_(threshold)
    return threshold


def balanced_threshold(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """The threshold with the highest mean of sensitivity and specificity, halfway between two scores.

    Args:
        scores: [N].
        present: [N], true where a score should lie above; both kinds occur.
    """
    order = np.argsort(scores)
    ordered, truth = scores[order], present[order]
    sensitivity = 1 - np.cumsum(truth) / truth.sum()
    specificity = np.cumsum(~truth) / (~truth).sum()
    # the last threshold would lie above every score
    best = int((sensitivity + specificity)[:-1].argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)


@torch.no_grad()
def _tracked_scores(
    network: Sam2Network, volumes: Sequence[TrainingVolume], config: TrainConfig
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of tracked frames of plain clips in the acquisition plane, and whether the object is on them."""
    sampling = replace(config.sampling, weights={}, acquisition_plane=1.0, small=0.0, box_fill=FILL)
    sampler = ClipSampler(volumes, sampling, config.spec.image_size)
    rng = np.random.default_rng([config.seed, 5])
    length = config.schedule.clip_frames
    scores: list[float] = []
    present: list[bool] = []
    for start in range(0, CLIPS, ROWS):
        clips: list[Clip] = [sampler.draw(rng, length) for _ in range(ROWS)]
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).to(network.device)
        targets = torch.from_numpy(np.stack([clip.targets for clip in clips]))
        encoded = network.encode_frames(normalised(frames.flatten(0, 1), config))
        at = frames_of_clips(encoded, ROWS, length)
        masks = prompts.solid(targets[:, 0])
        said = prompts.boxes(rng, masks) if start % (2 * ROWS) else prompts.first_clicks(rng, masks)
        output = decode_prompts(network, at[0], *said, None)
        for frame, tracked in enumerate(track_clip(network, at, output, Travel.of(clips)), 1):
            scores += tracked.object_score_logits[:, 0].tolist()
            present += (targets[:, frame].flatten(1).amax(dim=1) > 0).tolist()
    return np.array(scores), np.array(present)
