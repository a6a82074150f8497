"""The one data model: clips, modalities, the clip store, decoding, sampling, transforms, datasets."""
