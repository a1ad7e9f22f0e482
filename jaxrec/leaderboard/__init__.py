"""Baselines and every model that fits a data set, tuned within a budget of wall-clock seconds, in one table."""
