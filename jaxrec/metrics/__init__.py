"""Metrics from ranks, scores and labels."""
