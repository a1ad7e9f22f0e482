"""Sentence embeddings of item names and columns."""
