"""The compiled block of steps, and what stands around it."""
