"""What a model says about itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from volseg.data.labelmap import Label
from volseg.data.modality import Modality
from volseg.errors import CapabilityError
from volseg.prompts import PromptedObject, PromptKind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class License:
    """Terms of the weights.

    Attributes:
        spdx: SPDX identifier or ``LicenseRef-...``; empty for a model without weights.
        commercial: whether commercial use is allowed.
        attribution: whom to credit, one line.
    """

    spdx: str = ""
    commercial: bool = True
    attribution: str = ""


@dataclass(frozen=True)
class ModelCard:
    """Name, abilities and origin of a model.

    Attributes:
        name: as given to ``load_model``.
        version: of the weights or the method.
        summary: one sentence for people.
        positive: kinds of prompt that may say "this belongs to the object".
        negative: kinds of prompt that may say "this does not".
        volumetric: whether the network sees volumes; False for slice-wise models.
        modalities: what it was made for; others are accepted with a warning.
        labels: the structures it knows by name; empty for a model that segments whatever is pointed at.
        license: terms of the weights.
        weights_sha256: hash of the weights, empty for a model without.
        random_weights: whether the weights were never trained, so that its answers mean nothing.
    """

    name: str
    version: str
    summary: str
    positive: frozenset[PromptKind]
    negative: frozenset[PromptKind] = frozenset()
    volumetric: bool = True
    modalities: frozenset[Modality] = field(default_factory=lambda: frozenset(Modality))
    labels: tuple[Label, ...] = ()
    license: License = License()
    weights_sha256: str = ""
    random_weights: bool = False

    def to_json(self) -> dict[str, Any]:
        """The card as plain data."""
        return {
            "name": self.name,
            "version": self.version,
            "summary": self.summary,
            "positive": sorted(self.positive),
            "negative": sorted(self.negative),
            "volumetric": self.volumetric,
            "modalities": sorted(self.modalities),
            "labels": [
                {
                    "value": label.value,
                    "name": label.name,
                    "color_rgb": list(label.color_rgb),
                    "snomed": None if label.snomed is None else [label.snomed.code, label.snomed.meaning],
                }
                for label in self.labels
            ],
            "license": {
                "spdx": self.license.spdx,
                "commercial": self.license.commercial,
                "attribution": self.license.attribution,
            },
            "weights_sha256": self.weights_sha256,
            "random_weights": self.random_weights,
        }

    def warn_of(self, modality: Modality, reason: str) -> None:
        """Logs a warning where the model was not made for a modality.

        Args:
            modality: of an image.
            reason: why it is taken to be of it.
        """
        if modality in self.modalities:
            return
        made_for = " and ".join(sorted(self.modalities))
        if modality is Modality.OTHER:
            logger.warning(
                "model %s was made for %s, and the modality of this image is not known (%s); say it if it is one",
                self.name, made_for, reason,
            )  # fmt: skip
        else:
            logger.warning(
                "model %s was made for %s, and this image is taken for %s (%s): what it finds or does not find there "
                "counts for nothing",
                self.name, made_for, modality, reason,
            )  # fmt: skip

    def check_serves(self, item: PromptedObject) -> None:
        """Raises ``CapabilityError`` for the first prompt of ``item`` that the model does not serve."""
        for index, prompt in enumerate(item.prompts):
            served = self.positive if prompt.positive else self.negative
            if prompt.kind not in served:
                sign = "positive" if prompt.positive else "negative"
                listed = ", ".join(sorted(served)) or "none"
                raise CapabilityError(
                    f"{item.describe(index)}: model {self.name} takes no {sign} {prompt.kind}; "
                    f"its {sign} prompts are: {listed}"
                )
