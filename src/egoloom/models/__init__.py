"""Recognisers for every modality, their verb, noun and action heads, and the registry."""

from egoloom.models import edge, fusion, imu, omnivorous, spectrogram, stlt, video_swin  # noqa: F401 (they register)
from egoloom.models.base import Inputs, Recogniser, RecogniserConfig, num_parameters
from egoloom.models.cost import count_gmacs
from egoloom.models.hand_object import decode_hand_object, hand_object_heads
from egoloom.models.registry import create_model, describe_models, list_models

__all__ = [
    "Inputs",
    "Recogniser",
    "RecogniserConfig",
    "count_gmacs",
    "create_model",
    "decode_hand_object",
    "describe_models",
    "hand_object_heads",
    "list_models",
    "num_parameters",
]
