"""Drawn scenes, training and evaluation of the droplet checkpoint."""
