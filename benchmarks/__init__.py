"""Programs that time the engine against a baseline in the same run."""
