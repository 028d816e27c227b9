"""Text models of ``transformers`` as encoders: BERT and its kin, text towers of CLIP, decoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import ModelError

if TYPE_CHECKING:
    import torch

_PROJECTED = frozenset({"clip", "clip_text_model"})
_BATCH = 64


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one."""

    AUTO = "auto"
    """By the model's kind: CLIP, a decoder, or anything else."""
    MEAN = "mean"
    """Mean over the tokens that are not padding; BERT and its kin."""
    PROJECTED = "projected"
    """The model's own projected vector; text towers of CLIP."""
    LAST = "last"
    """The last token that is not padding, which has seen all others; decoders."""


class PretrainedEncoder:
    """A text model from a folder or the hub. Implements ``TextEncoder``.

    Weights are read as safetensors only and no code of the repository runs (P7).
    """

    def __init__(
        self,
        source: str | Path,
        *,
        pooling: Pooling = Pooling.AUTO,
        revision: str | None = None,
        device: str = "cpu",
        max_tokens: int = 256,
        local_only: bool = False,
    ) -> None:
        """Loads a model and its tokenizer.

        Args:
            source: a folder in the layout of ``transformers``, or a name on the hub.
            pooling: see ``Pooling``.
            revision: commit on the hub; without it the hub's newest, whose hash may change under you.
            device: where to compute.
            max_tokens: longer texts are cut.
            local_only: never ask the hub.

        Raises:
            ModelError: there is no such model, it has no safetensors, or it cannot be pooled as asked.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModelWithProjection

        shared: dict[str, Any] = {"revision": revision, "local_files_only": local_only or Path(source).is_dir()}
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **shared)
            self.pooling = _pooling_of(config) if pooling is Pooling.AUTO else Pooling(pooling)
            kind = CLIPTextModelWithProjection if self.pooling is Pooling.PROJECTED else AutoModel
            model = kind.from_pretrained(source, use_safetensors=True, **shared)
            self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **shared)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"{source}: is no text model that can be loaded; expected a folder or a hub name with config.json, a "
                f"tokenizer and safetensors weights: {error}"
            ) from error
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        longest = getattr(getattr(config, "text_config", config), "max_position_embeddings", max_tokens)
        self._max_tokens = min(max_tokens, int(longest or max_tokens))
        self._device = device
        self._model = model.eval().to(device)
        self._sha256 = self._identity()
        self._dimension: int = self.encode(["liver"]).shape[1]

    @property
    def dimension(self) -> int:
        """See ``TextEncoder``."""
        return self._dimension

    @property
    def sha256(self) -> str:
        """See ``TextEncoder``: of the weights, the tokenizer's vocabulary, the pooling and the longest text."""
        return self._sha256

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ``TextEncoder``; every text has a vector."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                inputs = self._tokenizer(
                    list(texts[start : start + _BATCH]),
                    padding=True,
                    truncation=True,
                    max_length=self._max_tokens,
                    return_tensors="pt",
                ).to(self._device)
                pooled = self._pooled(inputs)
                parts.append(torch.nn.functional.normalize(pooled.float(), dim=1).cpu().numpy())
        if not parts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        return np.concatenate(parts).astype(np.float32)

    def _pooled(self, inputs: Any) -> torch.Tensor:
        """One vector a text, [N, D]."""
        import torch

        mask = inputs["attention_mask"]
        taken = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        output = self._model(**taken)
        if self.pooling is Pooling.PROJECTED:
            projected: torch.Tensor = output.text_embeds
            return projected
        tokens: torch.Tensor = output.last_hidden_state
        if self.pooling is Pooling.MEAN:
            weights = mask[..., None].to(tokens.dtype)
            mean: torch.Tensor = (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
            return mean
        # The padding may stand on either side.
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * places).argmax(dim=1)
        return tokens[torch.arange(len(last), device=mask.device), last]

    def _identity(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            array = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
            digest.update(array.reshape(-1).view(_bytes_type()).numpy().tobytes())
        vocabulary = json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        digest.update(f"{vocabulary} {self.pooling} {self._max_tokens}".encode())
        return digest.hexdigest()


def _bytes_type() -> torch.dtype:
    import torch

    return torch.uint8


def _pooling_of(config: Any) -> Pooling:
    """By the kind of model the configuration names."""
    if config.model_type in _PROJECTED:
        return Pooling.PROJECTED
    names = " ".join(config.architectures or ())
    if getattr(config, "is_encoder_decoder", False) or "MaskedLM" in names:
        return Pooling.MEAN
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    decodes = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and config.model_type not in MASKED
    return Pooling.LAST if decodes or "CausalLM" in names else Pooling.MEAN
