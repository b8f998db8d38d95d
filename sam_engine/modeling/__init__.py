"""The networks, key for key those of the published checkpoints."""
