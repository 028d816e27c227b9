"""Which weights are trained: all, all but the image encoder, or low-rank additions (LoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor, nn

from volseg.errors import MissingExtraError
from volseg.networks.sam2.network import Sam2Network
from volseg.training.config import Adapt, AdaptConfig

ENCODER = "vision_encoder"
LORA_PARTS = (ENCODER, "memory_attention", "mask_decoder")
WHOLE_PARTS = ("mask_decoder.iou_prediction_head", "mask_decoder.pred_obj_score_head")
"""Small heads whose scale depends on the data; with LoRA they are trained whole, as normalisation layers are."""
LORA_SCALE = 2.0
"""LoRA's alpha in units of its rank."""
LORA_MARK = ".lora_"
BASE_MARK = ".base_layer"


def adapt_network(network: Sam2Network, adapt: AdaptConfig) -> None:
    """Chooses what is trained, in place; LoRA adds its matrices, so that the network answers as before.

    With LoRA (Hu et al., arXiv:2106.09685) the weights of linear layers and convolutions of the image encoder, the
    memory attention and the mask decoder stay as they are, and each gets the product of two small matrices added.
    Normalisation layers of these parts and the heads that judge masks and presence are trained whole; everything else
    is not trained.

    Args:
        network: with the weights to start from.
        adapt: what to train.

    Raises:
        MissingExtraError: LoRA without peft.
    """
    model = network.model
    if adapt.kind is Adapt.FROZEN_ENCODER:
        model.get_submodule(ENCODER).requires_grad_(False)
    elif adapt.kind is Adapt.LORA:
        _add_lora(model, adapt.rank)


def plain_weights(network: Sam2Network, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Weights under the names of a network that was not adapted: LoRA's products are added to what they belong to.

    Args:
        network: after `adapt_network`; not changed.
        state: other values for ``network.model``, such as averages; None takes its own.
    """
    if not any(LORA_MARK in name for name in network.model.state_dict()):
        return dict(network.model.state_dict() if state is None else state)
    from peft.tuners.lora import LoraLayer

    merged = deepcopy(network.model)
    if state is not None:
        merged.load_state_dict(dict(state))
    for module in merged.modules():
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
    return {name.replace(BASE_MARK, ""): value for name, value in merged.state_dict().items() if LORA_MARK not in name}


def trained_numbers(network: Sam2Network) -> int:
    """How many numbers are trained."""
    return sum(one.numel() for one in network.parameters() if one.requires_grad)


def _add_lora(model: nn.Module, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("LoRA needs the package peft: pip install 'volseg[train]'") from error
    targets, whole = [], []
    for name, module in model.named_modules():
        if not name.startswith(LORA_PARTS):
            continue
        if name.startswith(WHOLE_PARTS) or _is_norm(module):
            whole.append(name)
        elif isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            targets.append(name)
    lora = LoraConfig(r=rank, lora_alpha=LORA_SCALE * rank, lora_dropout=0.0, target_modules=targets, bias="none")
    # a container of its own: peft asks models of transformers for word embeddings, which these have not
    inject_adapter_in_model(lora, nn.ModuleDict({part: model.get_submodule(part) for part in LORA_PARTS}))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(LORA_MARK in name or name.startswith(tuple(f"{one}." for one in whole)))


def _is_norm(module: nn.Module) -> bool:
    return not list(module.children()) and type(module).__name__.endswith("Norm")
