"""How the text-query network covers a volume."""
