"""Next items of sessions."""
