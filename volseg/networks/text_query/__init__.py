"""The text-query network: an encoder-decoder over windows, and queries that look for structures in them."""
