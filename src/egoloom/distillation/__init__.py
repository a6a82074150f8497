"""Losses, teacher ensembles and the soft-label cache that teach an RGB-only student."""
