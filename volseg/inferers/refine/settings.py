"""How an object is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from volseg.errors import ModelError


@dataclass(frozen=True)
class RefineSettings:
    """How the block around an object is sampled.

    Attributes:
        samples: points of the lattice in all, about.
        margin: space around what is known of the object, as a part of each side, or of the middle one if longer.
        min_margin_mm: at least so much.
        finest: the lattice is never finer than this part of the image's mean voxel side.
        max_widenings: how often the block may grow because the answer touches its border.
        trust: logit that the draft adds to the network's first answer, away from clicks.
        settled_outside: the same in a correction by a prompt on the object, for what lies outside of the answer and far
            from prompts: what a person did not click on was right, or at least good enough.
        settled_inside: the same for what lies inside, when the prompt is beside the object: it is about a place where
            the answer leaks, and hardly about the rest.
        walk_trust: usual trust of a network's random walker in it; the less, the more the image says.
        walk_trust_correcting: the same in a correction.
    """

    samples: int = 54_000
    margin: float = 0.5
    min_margin_mm: float = 5.0
    finest: float = 0.6
    max_widenings: int = 2
    trust: float = 1.0
    settled_outside: float = 0.5
    settled_inside: float = 4.0
    walk_trust: float = 0.1
    walk_trust_correcting: float = 0.3

    def __post_init__(self) -> None:
        trusts = min(self.walk_trust, self.walk_trust_correcting)
        positive = min(self.margin, self.min_margin_mm, self.finest, trusts) > 0
        settled = min(self.trust, self.settled_outside, self.settled_inside)
        if self.samples < 512 or not positive or self.finest > 1 or settled < 0:
            raise ModelError(
                f"a lattice has 512 samples or more, a margin, a finest step up to 1 and positive trusts, got {self}"
            )
