"""Multi-view protocol, metrics, calibration, data-set protocols, video quality, significance."""
