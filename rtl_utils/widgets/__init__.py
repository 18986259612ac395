"""Sliders: panels for notebooks, for the lecture page and for the explorer."""
