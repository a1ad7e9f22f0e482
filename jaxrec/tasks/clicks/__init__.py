"""Labels of rows."""
