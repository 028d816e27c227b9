"""Training of slice-wise networks: partial labels, simulated prompts, clips through memory, synthetic volumes."""
