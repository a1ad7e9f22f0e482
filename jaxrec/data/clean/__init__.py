"""Cleaning: from events as they were read to the splits of a data set, in DuckDB; and from rows to their numbers."""
