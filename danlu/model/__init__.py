"""Configuration, transformer, attention cache and checkpoint formats (recipe section 3)."""
