"""SAM 2 on transformers' sub-modules: checkpoints, specs and the network as stateless operations on rows."""

from volseg.networks.sam2.config import Sam2Spec, Sam2Variant, Sam2Version

__all__ = ["Sam2Spec", "Sam2Variant", "Sam2Version"]
