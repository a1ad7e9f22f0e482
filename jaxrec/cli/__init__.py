"""Command lines: what all commands share. Nothing here imports JAX but ``runtime``."""
