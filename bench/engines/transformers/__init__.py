"""Stock transformers: models as it makes them, stepped in eager mode."""
