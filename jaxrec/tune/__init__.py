"""The search for values of fields that do best on validation."""
