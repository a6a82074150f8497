"""Picks exo clips, generates their ego view, scores, filters and marks them, and mixes them into training."""
