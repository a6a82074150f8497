"""Whole runs and experiments as functions."""
