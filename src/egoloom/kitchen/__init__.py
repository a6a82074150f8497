"""The built-in data: a seeded kitchen seen by ego and exo cameras, with every modality and its ground truth."""
