"""A golden record of what the library computes, and what made it."""
