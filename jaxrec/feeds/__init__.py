"""Feeds: a split and a position to blocks of steps."""
