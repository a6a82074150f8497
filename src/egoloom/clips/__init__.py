"""The one data model: clips, modalities, the clip store, decoding, sampling, transforms, datasets."""

from egoloom.clips.schema import Clip, Modality, StoreInfo, Video
from egoloom.clips.store import ClipStore

__all__ = ["Clip", "ClipStore", "Modality", "StoreInfo", "Video"]
