"""What accelerators would run, compiled on any machine: never how fast."""
