"""Anatomical vocabulary, phrases and reports, and encoders that turn words into vectors."""
