"""What the refining network is made of."""

from __future__ import annotations

from dataclasses import dataclass

from volseg.errors import ModelError


@dataclass(frozen=True)
class RefineSpec:
    """The refining network, completely described: with a state dict it can be built.

    Attributes:
        width: channels at full resolution; each halving doubles them. Divisible by 8 (groups of the norms).
        blocks_down: residual blocks of the encoder, finest level first.
        blocks_up: residual blocks of the decoder, coarsest level first; one level less.
        walk: whether a random walker follows (`walk`), and the network says how far it is to be trusted as well.

    Raises:
        ModelError: the numbers do not fit together.
    """

    width: int = 16
    blocks_down: tuple[int, ...] = (1, 2, 2, 2)
    blocks_up: tuple[int, ...] = (1, 1, 1)
    walk: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks_down", tuple(self.blocks_down))
        object.__setattr__(self, "blocks_up", tuple(self.blocks_up))
        if self.width < 8 or self.width % 8 or min(*self.blocks_down, *self.blocks_up) < 1:
            raise ModelError(f"the width is a multiple of 8 and every level has a block, got {self}")
        if len(self.blocks_down) < 2 or len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ModelError(f"the decoder has one level less than the encoder, got {self}")

    @property
    def multiple(self) -> int:
        """The sides of an input are multiples of this."""
        return int(2 ** (len(self.blocks_down) - 1))
