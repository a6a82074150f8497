"""Reading and writing the media of a clip store: video, flow, audio, arrays and tables."""

from egoloom.clips.media.arrays import read_arrays, read_table, write_arrays, write_table
from egoloom.clips.media.audio import read_audio, write_audio
from egoloom.clips.media.decoding import VideoReader
from egoloom.clips.media.encoding import write_flow, write_video

__all__ = [
    "VideoReader",
    "read_arrays",
    "read_audio",
    "read_table",
    "write_arrays",
    "write_audio",
    "write_flow",
    "write_table",
    "write_video",
]
