"""Recognisers for every modality, their verb, noun and action heads, and the registry."""
