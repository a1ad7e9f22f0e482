"""Reading: raw files of any kind into the DuckDB table ``raw``."""
