"""The list of sources: which module turns which recordings into a store, and which files it expects."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from egoloom.clips import ClipStore
from egoloom.errors import UserError


@dataclass(frozen=True)
class ExpectedFile:
    """A file or folder that a source reads, relative to ``--source``."""

    pattern: str
    what: str
    is_required: bool = True


@dataclass(frozen=True)
class Source:
    """One kind of input: the module below ``egoloom.ingest`` with its ``ingest`` function, and what it needs.

    Attributes:
        name: As on the command line.
        module: Module below ``egoloom.ingest``.
        summary: One line.
        origin: Where users get the files.
        expected: What must or may lie in the source folder.
    """

    name: str
    module: str
    summary: str
    origin: str
    expected: tuple[ExpectedFile, ...]

    def load(self) -> Callable[..., ClipStore]:
        """Imports the module and returns its ``ingest`` function."""
        return importlib.import_module(f"egoloom.ingest.{self.module}").ingest

    def help_text(self) -> str:
        """Says what the source is, which files are expected and where they come from."""
        width = max(len(file.pattern) for file in self.expected)
        lines = [f"{self.summary}.", "", f"Where to get it: {self.origin}", "", "Files below --source:"]
        for file in self.expected:
            lines.append(f"  {file.pattern.ljust(width)}  {'' if file.is_required else '(optional) '}{file.what}")
        return "\n".join(lines)


def require_paths(paths: dict[Path, str], *, source: str) -> None:
    """Checks that all inputs exist.

    Args:
        paths: Path to a description of what it is.
        source: Name of the source, for the hint.

    Raises:
        UserError: Naming every missing path.
    """
    missing = [f"    {path}  ({what})" for path, what in paths.items() if not path.exists()]
    if missing:
        raise UserError(
            "Missing input:\n" + "\n".join(missing), fix=f"egoloom ingest {source} --help says where to get it"
        )


def first_existing(folder: Path, candidates: tuple[str, ...]) -> Path | None:
    """Returns the first of several possible names that exists below ``folder``."""
    return next((folder / name for name in candidates if (folder / name).exists()), None)


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "something-else",
            "something_else",
            "Something-Something V2 and Something-Else: webm videos or jpg folders, boxes, compositional splits",
            "the Something-Something V2 site (videos, labels) and github.com/joaanna/something_else (boxes, splits)",
            (
                ExpectedFile("videos/<id>/0001.jpg ... or videos/<id>.webm", "frames at 12 fps, or the videos"),
                ExpectedFile("labels.json | labels/{train,validation}.json", "what is in each video"),
                ExpectedFile(
                    "labels/labels.json | ssv2_174_labels_in_index_order.json",
                    "class index of every template; sorted template names if absent",
                    False,
                ),
                ExpectedFile("bounding_box_annotations*.json", "boxes: public or flat-list format", False),
                ExpectedFile("dataset_splits/<split>/{train,validation,labels}.json", "for --split-name", False),
            ),
        ),
        Source(
            "epic-kitchens",
            "epic_kitchens",
            "EPIC-KITCHENS-100: videos, frame folders or tars, flow, sound, hand and object boxes",
            "github.com/epic-kitchens/epic-kitchens-100-annotations (tables), the EPIC-KITCHENS site (media)",
            (
                ExpectedFile("EPIC_100_{train,validation}.csv, EPIC_100_test_timestamps.csv", "segments, at least one"),
                ExpectedFile("EPIC_100_{verb,noun}_classes.csv", "class names"),
                ExpectedFile("EPIC_100_video_info.csv", "frame rates and durations", False),
                ExpectedFile("EPIC_100_{tail_verbs,tail_nouns}.csv", "rare classes", False),
                ExpectedFile("EPIC_100_unseen_participant_ids_{validation,test}.csv", "unseen participants", False),
                ExpectedFile("PXX/videos/PXX_YY.MP4", "the videos, or"),
                ExpectedFile("PXX/rgb_frames/PXX_YY/frame_%010d.jpg or PXX_YY.tar", "their frames"),
                ExpectedFile("PXX/flow_frames/PXX_YY/{u,v}/frame_%010d.jpg or .tar", "published flow", False),
                ExpectedFile("EPIC_audio.hdf5", "one waveform a video (needs h5py)", False),
                ExpectedFile("hand-objects/PXX/PXX_YY.pkl", "hand and object boxes; parsed, never unpickled", False),
            ),
        ),
        Source(
            "ego4d",
            "ego4d",
            "Ego4D with FHO annotations: actions, narrations, state changes, hand boxes, IMU, sound",
            "ego4d-data.org (licence agreement), with its downloader ego4d",
            (
                ExpectedFile("annotations/fho_lta_{train,val}.json", "for --task fho_lta; likewise the other tasks"),
                ExpectedFile("annotations/fho_lta_taxonomy.json", "class names of fho_lta", False),
                ExpectedFile("clips/<clip_uid>.mp4 or full_scale/<video_uid>.mp4", "the videos"),
                ExpectedFile("imu/<video_uid>.csv", "accelerometer and gyroscope", False),
            ),
        ),
        Source(
            "ego-exo4d",
            "ego_exo4d",
            "Ego-Exo4D takes: frame-aligned Aria ego and GoPro exo videos, cameras, trajectories, keysteps",
            "ego-exo4d-data.org (licence agreement), with its downloader egoexo",
            (
                ExpectedFile("takes/<take>/frame_aligned_videos/aria01_214-1.mp4", "ego; or <take>/aria*.mp4"),
                ExpectedFile("takes/<take>/frame_aligned_videos/cam01.mp4 ...", "exo; or <take>/cam*.mp4", False),
                ExpectedFile("takes/<take>/trajectory/gopro_calibs.csv", "exo cameras", False),
                ExpectedFile("takes/<take>/trajectory/online_calibration.jsonl", "ego camera", False),
                ExpectedFile("takes/<take>/trajectory/closed_loop_trajectory.csv", "poses of the glasses", False),
                ExpectedFile("captures/<capture>/timesync.csv", "times of the frames, to place the poses", False),
                ExpectedFile("takes.json, annotations/splits.json", "take ids and splits", False),
                ExpectedFile("annotations/keystep_{train,val,test}.json", "labels", False),
            ),
        ),
        Source(
            "aria",
            "aria",
            "Project Aria recordings, Gen 1 and Gen 2: RGB, sound, IMUs, calibration, hands, gaze",
            "your glasses, or projectaria.com/datasets; needs the extra 'aria' (projectaria-tools)",
            (
                ExpectedFile("**/*.vrs", "the recordings"),
                ExpectedFile("mps_<name>_vrs/slam/closed_loop_trajectory.csv", "poses", False),
            ),
        ),
        Source(
            "gopro",
            "gopro",
            "GoPro videos with their telemetry: RGB, sound, accelerometer and gyroscope",
            "your own recordings, as the camera wrote them (editors drop the telemetry)",
            (ExpectedFile("**/*.MP4", "the videos"),),
        ),
        Source(
            "videos",
            "videos",
            "A folder of videos from a phone, glasses or anything that FFmpeg reads, with an optional table",
            "your own recordings",
            (
                ExpectedFile("**/*.{mp4,mov,mkv,webm,avi,m4v,mts}", "the videos"),
                ExpectedFile(
                    "clips.csv",
                    "columns path,start_s,end_s,verb,noun,action,narration,split,participant_id,view,take_id",
                    False,
                ),
            ),
        ),
        Source(
            "egox",
            "egox_store",
            "Takes in the EgoX layout: exo, ego, depth, cameras",
            "github.com/DAVIAN-Robotics/EgoX (folder example), or your own in the same layout",
            (
                ExpectedFile("meta.json", "paths, cameras and captions of the takes"),
                ExpectedFile("videos/<take>/{exo,ego_GT,ego_Prior}.mp4", "the videos"),
                ExpectedFile("depth_maps/<take>/NNNNN.npy", "metric depth of the exo view"),
            ),
        ),
    )
}


def find_source(name: str) -> Source:
    """Returns a source by its name.

    Raises:
        UserError: If there is none.
    """
    if name not in SOURCES:
        raise UserError(f"Unknown source: {name!r}", allowed=", ".join(SOURCES), fix="egoloom ingest --help")
    return SOURCES[name]
