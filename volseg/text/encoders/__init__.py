"""Texts to vectors: a compact encoder that volseg ships, models of ``transformers``, and banks of computed vectors."""

from volseg.text.encoders.base import TextEncoder
from volseg.text.encoders.pairing import Pairing, check_pair

__all__ = ["Pairing", "TextEncoder", "check_pair"]
