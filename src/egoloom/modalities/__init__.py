"""Computes the modalities that a store lacks: flow, spectrogram, hands, objects, IMU windows, depth."""
