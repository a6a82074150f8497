"""Controlled comparisons: several settings, several seeds, intervals, gains and losses alike."""
