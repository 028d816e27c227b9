"""Queries that look for structures in a window: a mask and a presence logit for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from volseg.data.modality import Modality
from volseg.errors import ModelError
from volseg.networks.single_conv import with_single_convs
from volseg.networks.text_query.config import TextQuerySpec
from volseg.networks.text_query.pyramid import make_pyramid

MODALITIES = tuple(Modality)
"""Their order is the order of the learned modality embeddings."""

POSITION_SCALES_MM = (256.0, 128.0, 64.0, 32.0)
"""Wavelengths in which a token's distance from the window's centre is expressed."""

FIRST_MASK_BIAS = -4.0
"""Untrained masks are empty: most voxels are not what was asked for."""


@dataclass(frozen=True, eq=False)
class WindowFeatures:
    """What is computed of a window once, for all queries.

    Attributes:
        masks: [B, F, I, J, K] features that masks are drawn from.
        tokens: [B, T, D] features that queries attend, with their positions.
        scouted: [B, S, D] what presence has seen with its own eyes; None where it has none.
    """

    masks: Tensor
    tokens: Tensor
    scouted: Tensor | None = None

    def float(self) -> WindowFeatures:
        """The same in float32: queries are few, so that what is done with them costs nothing and loses nothing."""
        scouted = None if self.scouted is None else self.scouted.float()
        return WindowFeatures(self.masks.float(), self.tokens.float(), scouted)


@dataclass(frozen=True, eq=False)
class QueryOutput:
    """Answers to queries.

    Attributes:
        mask_logits: [B, Q, I, J, K].
        presence_logits: [B, Q], whether the structure reaches into the window.
    """

    mask_logits: Tensor
    presence_logits: Tensor


class TextQueryNetwork(nn.Module):
    """An encoder-decoder whose features are attended by queries.

    The idea is MaskFormer's (Cheng et al., NeurIPS 2021), carried to words by SAT (Zhao et al., 2023) and VoxTell
    (2025); queries know the modality, as in MulModSeg (2024), and the spacing. Queries do not attend one another: the
    answer to one does not depend on what else is asked, and masks may overlap.

    Args:
        spec: what to build.
        state: the weights; random if None.

    Raises:
        ModelError: the weights do not fit.
    """

    def __init__(self, spec: TextQuerySpec, state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.pyramid = make_pyramid(spec)
        widths = spec.level_widths
        self.to_tokens = nn.ModuleList(nn.Linear(n, spec.width) for n in widths[-spec.token_levels :])
        self.to_masks = nn.ModuleList(nn.Conv3d(n, spec.mask_width, 1) for n in widths[: spec.mask_levels])
        self.level = nn.Parameter(torch.zeros(spec.token_levels, spec.width))
        self.position = nn.Linear(6 * len(POSITION_SCALES_MM), spec.width)
        self.bank = nn.Parameter(torch.randn(len(spec.concepts), spec.query_width))
        self._rows = {concept: row for row, concept in enumerate(spec.concepts)}
        self.query = nn.Linear(spec.query_width, spec.width)
        self.modality = nn.Embedding(len(MODALITIES), spec.width)
        self.spacing = nn.Linear(1, spec.width)
        self.layers = nn.ModuleList(_Layer(spec.width, spec.heads) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.width)
        self.presence_layers = nn.ModuleList(_Layer(spec.width, spec.heads) for _ in range(spec.presence_layers))
        self.presence_norm = nn.LayerNorm(spec.width) if spec.presence_layers else None
        self.scout = _Scout(spec) if spec.scout_widths else None
        features = spec.mask_width * spec.mask_levels
        self.mask = nn.Sequential(nn.Linear(spec.width, spec.width), nn.GELU(), nn.Linear(spec.width, features + 1))
        self.presence = nn.Sequential(nn.Linear(spec.width, spec.width), nn.GELU(), nn.Linear(spec.width, 1))
        with torch.no_grad():
            last = self.mask[-1]
            assert isinstance(last, nn.Linear)
            last.bias[-1] = FIRST_MASK_BIAS
            # At first a query is what it asks for, and hardly how the image was made.
            self.modality.weight.mul_(0.1)
            self.spacing.weight.mul_(0.1)
        with_single_convs(self)
        if state is not None:
            try:
                self.load_state_dict(dict(state))
            except RuntimeError as error:
                raise ModelError(f"the weights do not fit the network: {str(error)[:300]}") from error
            self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.level.device

    def embeddings(self, concepts: Sequence[str]) -> Tensor:
        """The learned query embeddings [Q, E] of structures by their ids.

        Raises:
            ModelError: the network was not trained for one of them.
        """
        unknown = [concept for concept in concepts if concept not in self._rows]
        if unknown:
            raise ModelError(f"the network has no query embedding for {', '.join(unknown)}")
        return self.bank[[self._rows[concept] for concept in concepts]]

    def encode(self, windows: Tensor, spacing_mm: float) -> WindowFeatures:
        """Computes everything about windows that does not depend on queries.

        Args:
            windows: [B, C, I, J, K]; sides are multiples of ``spec.divisor``. The axes run towards right, anterior
                and superior.
            spacing_mm: distance between voxels, the same along every axis.

        Raises:
            ModelError: the windows' sides are not such multiples.
        """
        if any(side % self.spec.divisor for side in windows.shape[2:]) or windows.shape[1] != self.spec.in_channels:
            raise ModelError(
                f"windows have {self.spec.in_channels} channels and sides that are multiples of {self.spec.divisor}; "
                f"got shape {tuple(windows.shape)}"
            )
        features: list[Tensor] = self.pyramid(windows)
        size = features[0].shape[2:]
        drawn = [layer(level) for layer, level in zip(self.to_masks, features, strict=False)]
        # A linear map commutes with interpolation: coarse features are brought to full size once, not for each query.
        masks = [one if one.shape[2:] == size else _enlarged(one, size) for one in drawn]
        tokens = []
        for number, layer in enumerate(self.to_tokens):
            depth = len(features) - self.spec.token_levels + number
            level = features[depth]
            where = _positions(level.shape[2:], spacing_mm * 2**depth, level.device)
            tokens.append(layer(level.flatten(2).transpose(1, 2)) + self.position(where) + self.level[number])
        scouted = None if self.scout is None else self.scout(windows)
        return WindowFeatures(torch.cat(masks, dim=1), torch.cat(tokens, dim=1), scouted)

    def decode(
        self, features: WindowFeatures, queries: Tensor, modality: Modality | Sequence[Modality], spacing_mm: float
    ) -> QueryOutput:
        """Answers queries.

        Args:
            features: of B windows.
            queries: [Q, E] embeddings, the same for all windows, or [B, Q, E].
            modality: of all windows, or of each.
            spacing_mm: as given to ``encode``.
        """
        embeddings, presence = self.answers(features, queries, modality, spacing_mm)
        return QueryOutput(self.draw(features.masks, embeddings), presence)

    def answers(
        self, features: WindowFeatures, queries: Tensor, modality: Modality | Sequence[Modality], spacing_mm: float
    ) -> tuple[Tensor, Tensor]:
        """Mask embeddings [B, Q, F + 1], the last number being a bias, and presence logits [B, Q]; see ``decode``."""
        x = self.attend(features.tokens, queries, modality, spacing_mm)
        return self.mask(self.norm(x)), self.present(x, features.tokens, features.scouted)

    def attend(
        self, tokens: Tensor, queries: Tensor, modality: Modality | Sequence[Modality], spacing_mm: float
    ) -> Tensor:
        """What queries have seen of windows, [B, Q, D], given the windows' tokens; see ``decode``."""
        batch = len(tokens)
        kinds = [modality] * batch if isinstance(modality, Modality) else list(modality)
        index = torch.tensor([MODALITIES.index(kind) for kind in kinds], device=tokens.device)
        spacing = torch.full((1, 1), math.log2(spacing_mm), device=tokens.device, dtype=self.level.dtype)
        x: Tensor = self.query(queries.expand(batch, *queries.shape[-2:]))
        x = x + self.modality(index)[:, None] + self.spacing(spacing)[None]
        for layer in self.layers:
            x = layer(x, tokens)
        return x

    def present(self, x: Tensor, tokens: Tensor, scouted: Tensor | None = None) -> Tensor:
        """Presence logits [B, Q] from what ``attend`` gave, the same tokens, and what the scout saw."""
        if scouted is not None:
            tokens = torch.cat([tokens, scouted], dim=1)
        for layer in self.presence_layers:
            x = layer(x, tokens)
        norm = self.norm if self.presence_norm is None else self.presence_norm
        logits: Tensor = self.presence(norm(x))[..., 0]
        return logits

    @staticmethod
    def draw(masks: Tensor, embeddings: Tensor) -> Tensor:
        """Mask logits [B, Q, I, J, K] from mask features and embeddings."""
        # The bias as one more feature: to add it afterwards would be a pass over the logits of all queries.
        features = torch.cat([masks.flatten(2), masks.new_ones((len(masks), 1, masks[0, 0].numel()))], dim=1)
        logits = torch.bmm(embeddings.to(masks.dtype), features)
        return torch.unflatten(logits, 2, masks.shape[2:])

    def forward(
        self, windows: Tensor, queries: Tensor, modality: Modality | Sequence[Modality], spacing_mm: float
    ) -> QueryOutput:
        """``encode`` and ``decode``."""
        return self.decode(self.encode(windows, spacing_mm), queries, modality, spacing_mm)


class _Scout(nn.Module):
    """Presence's own look at a window, coarse and wide: what masks are drawn from need not tell a thigh from a head."""

    def __init__(self, spec: TextQuerySpec) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for before, after in pairwise((spec.in_channels, *spec.scout_widths)):
            parts += [nn.Conv3d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
        self.body = nn.Sequential(*parts)
        self.out = nn.Linear(spec.scout_widths[-1], spec.width)

    def forward(self, windows: Tensor) -> Tensor:
        """[B, S, D] from windows [B, C, I, J, K]."""
        tokens: Tensor = self.out(self.body(windows).flatten(2).transpose(1, 2))
        return tokens


class _Layer(nn.Module):
    """Queries attend tokens, then think; both with pre-normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_tokens = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        key, value = self.to_key_value(self.norm_tokens(tokens)).chunk(2, dim=-1)
        query = self.to_query(self.norm_query(queries))
        attended = scaled_dot_product_attention(self._split(query), self._split(key), self._split(value))
        queries = queries + self.out(attended.transpose(1, 2).flatten(2))
        result: Tensor = queries + self.feed(self.norm_feed(queries))
        return result

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, D] to [B, heads, N, D / heads]."""
        return torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2)


def _enlarged(features: Tensor, size: Sequence[int]) -> Tensor:
    result: Tensor = interpolate(features, tuple(size), mode="trilinear", align_corners=False)
    return result


def _positions(shape: Sequence[int], spacing_mm: float, device: torch.device) -> Tensor:
    """[N, 6 scales] sines and cosines of the voxels' distances from the centre of their window."""
    axes = [(torch.arange(n, device=device) - (n - 1) / 2) * spacing_mm for n in shape]
    points_mm = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    waves = torch.tensor([2 * math.pi / scale for scale in POSITION_SCALES_MM], device=device)
    angles = (points_mm[:, :, None] * waves).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
