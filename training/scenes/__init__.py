"""Drawn scenes: pictures of droplets, bubbles and particles whose every outline is known."""

from training.scenes.compose import KINDS, Scene, draw_scene

__all__ = ["KINDS", "Scene", "draw_scene"]
