"""MONAI dictionary transforms that know about prompts."""
