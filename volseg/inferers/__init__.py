"""How a network covers a volume."""
