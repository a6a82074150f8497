"""Random access to video: clips a CPU-second, ratios in one run, and what the codec itself would allow.

    python benchmarks/decode.py [--source FILE] [--minutes 5] [--num-clips 60] [--memory]

A clip is 16 frames, stride 4, cropped to 224 px, at a random moment of a 456x256 H.264 file. Compared are the
long-GOP original (as cameras and data sets ship it) read with OpenCV, decord and torchcodec where they are installed
and with EgoLoom; EgoLoom's own short-GOP store; the optional frame cache (JPEG shards, simplejpeg where it is
installed) at its own quality and at that of the reference; and the way of the reference repository (jpg frames of
quality 85 as byte strings in an HDF5 array, decoded one by one with PIL; needs h5py). The limit is libavcodec decoding
the same frames without converting them. Times are CPU time of this process, the best of three rounds, so that other
work on the machine matters little.

The frame cache is told the crop and decodes only the tiles that it touches (240 x 224 of 456 x 256 px); a row shows
what it does for whole frames. The reference decodes whole frames, because its jpgs allow nothing else, and all other
readers do too; they are cropped afterwards.
"""

import argparse
import importlib
import io
import itertools
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import VideoReader
from egoloom.clips.media.encoding import encode_frames
from egoloom.clips.media.frame_cache import FrameCacheReader, Region, index_path, write_frame_cache

WIDTH, HEIGHT, FPS = 456, 256, 30
NUM_FRAMES, STRIDE, CROP_PX = 16, 4, 224
SPAN_S = ((NUM_FRAMES - 1) * STRIDE + 1) / FPS
TOP, LEFT = (HEIGHT - CROP_PX) // 2, (WIDTH - CROP_PX) // 2
REGION: Region = (slice(TOP, TOP + CROP_PX), slice(LEFT, LEFT + CROP_PX))
REFERENCE = "jpg in HDF5, PIL (reference repository)"
REFERENCE_QUALITY = 85
FramesAt = Callable[[np.ndarray], np.ndarray]


def synthetic_frames(num_frames: int) -> Iterator[np.ndarray]:
    """A hand-held look around a textured scene with a moving thing and sensor noise, RGB."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT * 4, WIDTH * 4, 3)).astype(np.float32), (0, 0), 4)
    scene = (scene - scene.min()) / np.ptp(scene) * 255
    scene += cv2.GaussianBlur(rng.normal(0, 40, scene.shape).astype(np.float32), (0, 0), 1)
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    x, y, vx, vy = 300.0, 300.0, 0.0, 0.0
    for number in range(num_frames):
        vx, vy = 0.9 * vx + rng.normal(0, 0.8), 0.9 * vy + rng.normal(0, 0.8)
        x, y = float(np.clip(x + vx, 0, 3 * WIDTH - 1)), float(np.clip(y + vy, 0, 3 * HEIGHT - 1))
        frame = cv2.getRectSubPix(scene, (WIDTH, HEIGHT), (x + WIDTH / 2, y + HEIGHT / 2))
        centre = (int(WIDTH / 2 + 120 * np.sin(number / 20)), int(HEIGHT / 2 + 60 * np.cos(number / 13)))
        yield cv2.circle(frame, centre, 30, (number % 255, 80, 200), -1)


def write_original(path: Path, frames: Iterator[np.ndarray]) -> None:
    """x264's defaults: GOP 250, B-frames, CABAC."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decoded(path: Path) -> Iterator[np.ndarray]:
    """All frames of a video, RGB, 456x256."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24").to_ndarray()


def crop(frames_TCHW: np.ndarray) -> np.ndarray:
    """Returns the centre crop as a contiguous array, as a batch needs it, of whole frames or of crops."""
    cut_TCHW = frames_TCHW if frames_TCHW.shape[2:] == (CROP_PX, CROP_PX) else frames_TCHW[:, :, *REGION]
    if cut_TCHW.strides[-1] == 1 or not len(cut_TCHW):
        return np.ascontiguousarray(cut_TCHW)
    # Interleaved colours are taken apart by OpenCV in a third of the time that NumPy needs.
    out_TCHW = np.empty(cut_TCHW.shape, np.uint8)
    for cut_HWC, out_CHW in zip(cut_TCHW.transpose(0, 2, 3, 1), out_TCHW, strict=True):
        for plane_HW, out_HW in zip(cv2.split(cut_HWC), out_CHW, strict=True):
            np.copyto(out_HW, plane_HW)
    return out_TCHW


def opencv_reader(path: Path) -> FramesAt:
    """OpenCV: seek by frame number, grab what lies between, retrieve what is wanted."""
    capture = cv2.VideoCapture(str(path))

    def frames_at(times_s: np.ndarray) -> np.ndarray:
        first = round(times_s[0] * FPS)
        capture.set(cv2.CAP_PROP_POS_FRAMES, first)
        frames = []
        for number in range(round(times_s[-1] * FPS) - first + 1):
            capture.grab()
            if number % STRIDE == 0:
                frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        return np.stack(frames).transpose(0, 3, 1, 2)

    return frames_at


def decord_reader(path: Path) -> FramesAt:
    """Decord on one thread."""
    decord = importlib.import_module("decord")
    reader = decord.VideoReader(str(path), num_threads=1)
    return lambda times_s: (
        reader.get_batch(np.round(times_s * FPS).astype(int).tolist()).asnumpy().transpose(0, 3, 1, 2)
    )


def torchcodec_reader(path: Path) -> FramesAt:
    """Torchcodec on one thread."""
    decoders = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="exact")
    return lambda times_s: decoder.get_frames_played_at(times_s.tolist()).data.numpy()


def write_hdf5(path: Path, encoded: list[bytes]) -> None:
    """The reference repository's file: one array of byte strings a video."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError:
        return
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=np.array(encoded, dtype="S"))


def whole_jpegs(path: Path) -> list[bytes]:
    """Ordinary jpgs of every frame, as the reference repository keeps them."""
    options = [cv2.IMWRITE_JPEG_QUALITY, REFERENCE_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return [cv2.imencode(".jpg", frame[..., ::-1], options)[1].tobytes() for frame in decoded(path)]


def cache_reader(path: Path) -> FramesAt:
    """The frame cache, asked for the crop alone."""
    reader = FrameCacheReader(path)
    return lambda times_s: reader.frames_at(times_s, REGION)


def pil_reader(path: Path) -> FramesAt:
    """The reference repository's way: PIL opens one byte string of the HDF5 file after the other."""
    pil = importlib.import_module("PIL.Image")
    encoded = importlib.import_module("h5py").File(path, "r")["v"]

    def frames_at(times_s: np.ndarray) -> np.ndarray:
        numbers = np.round(times_s * FPS).astype(int)
        frames = [np.asarray(pil.open(io.BytesIO(encoded[number])).convert("RGB")) for number in numbers]
        return np.stack(frames).transpose(0, 3, 1, 2)

    return frames_at


def libavcodec_only(path: Path) -> FramesAt:
    """The limit: decode the frames that a clip needs and convert none."""
    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
    time_base = float(stream.time_base or 1)

    def frames_at(times_s: np.ndarray) -> np.ndarray:
        container.seek(int(times_s[0] / time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            if (frame.pts or 0) * time_base >= times_s[-1] - 1e-4:
                break
        return np.empty((0, 3, HEIGHT, WIDTH), np.uint8)

    return frames_at


def clips_a_cpu_second(frames_at: FramesAt, starts_s: np.ndarray) -> float:
    """Returns the rate of one round."""
    offsets = np.arange(NUM_FRAMES) * STRIDE / FPS
    begin = time.process_time()
    for start_s in starts_s:
        crop(frames_at(start_s + offsets))
    return len(starts_s) / (time.process_time() - begin)


def compare(
    makers: dict[str, Callable[[], FramesAt]], starts_s: np.ndarray, num_rounds: int = 3
) -> dict[str, float | str]:
    """Returns each reader's best rate; they take turns, so that other work on the machine meets all of them."""
    rates: dict[str, float | str] = {}
    readers: dict[str, FramesAt] = {}
    for name, make in makers.items():
        try:
            readers[name] = make()
            rates[name] = clips_a_cpu_second(readers[name], starts_s)
        except (ImportError, RuntimeError, OSError) as error:
            readers.pop(name, None)
            rates[name] = f"not measured: {type(error).__name__}"
    for _ in range(num_rounds - 1):
        for name, frames_at in readers.items():
            rates[name] = max(float(rates[name]), clips_a_cpu_second(frames_at, starts_s))
    rates = {name: rate if isinstance(rate, str) else round(rate, 1) for name, rate in rates.items()}
    for name, rate in rates.items():
        print(f"{name:48s} {rate}", flush=True)
    return rates


def memory_of_loader(store_path: Path, num_clips: int) -> dict[str, float]:
    """Reads clips with a DataLoader of two spawned workers; returns the memory of the workers at both ends."""
    from torch.utils.data import DataLoader

    from egoloom.clips.dataset import ClipDataset, collate, entries_of
    from egoloom.clips.transforms import ViewConfig

    store = ClipStore.open(store_path)
    dataset = ClipDataset(
        entries_of(store), [Modality.RGB], ViewConfig(num_frames=8, size_px=112), is_training=True, cache_bytes=0
    )
    keys = [(index % len(dataset), index) for index in range(num_clips)]
    context = multiprocessing.get_context("spawn")
    loader = DataLoader(
        dataset, batch_size=8, sampler=keys, num_workers=2, collate_fn=collate, multiprocessing_context=context
    )
    sizes, begin = [], time.perf_counter()
    for number, _ in enumerate(loader):
        if number % 10 == 0:
            sizes.append(sum(_resident_mb(child.pid) for child in multiprocessing.active_children()))
    fifth = max(1, len(sizes) // 5)
    return {
        "num_clips": num_clips,
        "worker_mb_first_fifth": round(float(np.mean(sizes[1 : fifth + 1])), 1),
        "worker_mb_last_fifth": round(float(np.mean(sizes[-fifth - 1 : -1])), 1),
        "clips_a_second": round(num_clips / (time.perf_counter() - begin), 1),
        "parent_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _resident_mb(pid: int | None) -> float:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(source: Path | None, minutes: float, num_clips: int, folder: Path, *, memory: bool) -> dict:
    """Builds the files and measures; returns everything as one dictionary."""
    num_frames = round(minutes * 60 * FPS)
    original = source or folder / "original.mp4"
    if source is None:
        write_original(original, synthetic_frames(num_frames))
    store = ClipStore.create(folder / "store", name="bench", source="bench", splits=["train"])
    short = store.media_path(Modality.RGB, "v")
    num_frames = encode_frames(
        short,
        (av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p") for frame in decoded(original)),
        (WIDTH, HEIGHT),
        "yuv420p",
        Fraction(FPS),
    )
    cache = folder / "v.jpegs"
    write_frame_cache(cache, decoded(short), np.arange(num_frames) / FPS)
    same = folder / "same.jpegs"
    write_frame_cache(same, decoded(short), np.arange(num_frames) / FPS, quality=REFERENCE_QUALITY)
    write_hdf5(folder / "v.hdf5", whole_jpegs(short))
    starts_s = np.random.default_rng(1).uniform(0, num_frames / FPS - SPAN_S - 0.2, num_clips)
    starts_s = np.round(starts_s * FPS) / FPS
    ours = {path: VideoReader(path) for path in (original, short)}
    readers: dict[str, Callable[[], FramesAt]] = {
        "original, libavcodec only (limit)": lambda: libavcodec_only(original),
        "original, EgoLoom": lambda: ours[original].frames_at,
        "original, OpenCV": lambda: opencv_reader(original),
        "original, decord": lambda: decord_reader(original),
        "original, torchcodec": lambda: torchcodec_reader(original),
        "store, libavcodec only (limit)": lambda: libavcodec_only(short),
        "store, EgoLoom": lambda: ours[short].frames_at,
        "frame cache, EgoLoom": lambda: cache_reader(cache),
        "frame cache, EgoLoom, quality 85": lambda: cache_reader(same),
        "frame cache, EgoLoom, whole frames": lambda: FrameCacheReader(cache).frames_at,
        REFERENCE: lambda: pil_reader(folder / "v.hdf5"),
    }
    rates = compare(readers, starts_s)
    result = {"clips_a_cpu_second": rates, "ratios": _ratios(rates)}
    result["megabytes"] = {
        "original": round(original.stat().st_size / 1e6, 1),
        "store": round(short.stat().st_size / 1e6, 1),
        "frame cache": _megabytes(cache),
        "frame cache, quality 85": _megabytes(same),
        "jpg in HDF5": round(sum(path.stat().st_size for path in folder.glob("v.hdf5")) / 1e6, 1),
    }
    result["psnr_db_to_the_store"] = {
        "frame cache": _psnr_db(cache, short),
        "quality 85": _psnr_db(same, short),
    }
    if memory:
        duration_s = num_frames / FPS
        video = Video("v", "media/rgb/v.mp4", Fraction(FPS), WIDTH, HEIGHT, num_frames, duration_s)
        starts = np.arange(0, duration_s - 3, 3.0)
        clips = [Clip(f"c{i}", "v", "", "ego", "", float(s), float(s + 3), "train") for i, s in enumerate(starts)]
        store.append(videos=[video], clips=clips)
        result["loader"] = memory_of_loader(store.path, 2000)
    return result


def _megabytes(cache: Path) -> float:
    return round((cache.stat().st_size + index_path(cache).stat().st_size) / 1e6, 1)


def _psnr_db(cache: Path, original: Path) -> float:
    """Returns how near cached frames are to those that they were made of, a mean over ten."""
    frames = list(itertools.islice(decoded(original), 0, 300, 30))
    cached = FrameCacheReader(cache).frames_at(np.arange(0, 300, 30) / FPS).transpose(0, 2, 3, 1)
    return round(float(np.mean([cv2.PSNR(a, b) for a, b in zip(frames, cached, strict=True)])), 1)


def _ratios(rates: dict[str, float | str]) -> dict[str, float]:
    pairs = {
        "original: EgoLoom / OpenCV": ("original, EgoLoom", "original, OpenCV"),
        "original: EgoLoom / decord": ("original, EgoLoom", "original, decord"),
        "original: EgoLoom / torchcodec": ("original, EgoLoom", "original, torchcodec"),
        "store / original, both EgoLoom": ("store, EgoLoom", "original, EgoLoom"),
        "frame cache / reference": ("frame cache, EgoLoom", REFERENCE),
        "frame cache, quality 85 / reference": ("frame cache, EgoLoom, quality 85", REFERENCE),
        "frame cache, whole frames / reference": ("frame cache, EgoLoom, whole frames", REFERENCE),
        "EgoLoom / limit, original": ("original, EgoLoom", "original, libavcodec only (limit)"),
        "EgoLoom / limit, store": ("store, EgoLoom", "store, libavcodec only (limit)"),
    }
    ratios = {}
    for name, (above, below) in pairs.items():
        if isinstance(rates.get(above), float) and isinstance(rates.get(below), float):
            ratios[name] = round(float(rates[above]) / float(rates[below]), 2)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a long-GOP 456x256 H.264 file at 30 fps; default: a synthetic one")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the synthetic file")
    parser.add_argument("--num-clips", type=int, default=60)
    parser.add_argument("--memory", action="store_true", help="also read 2,000 clips with two workers")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = run(options.source, options.minutes, options.num_clips, Path(folder), memory=options.memory)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
