"""Third-person video becomes first-person video: depth, ego prior, conditioning, attention, pipeline."""
