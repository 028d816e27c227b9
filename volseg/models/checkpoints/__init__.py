"""Checkpoints of others: what is known about them, reading them safely, telling what they are, converting them."""
