"""Latents on disk: bit for bit those in memory, one take at a time, continued, refused when stale or broken."""

import json
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from threading import Barrier

import pytest
import torch
from safetensors.torch import load_file, save_file

from egoloom.errors import UserError
from egoloom.exo2ego.autoencoder_training import stored_tiny_vae, train_tiny_vae
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.latent_cache import LatentCache, cache_latents
from egoloom.exo2ego.latent_manifest import origins
from egoloom.exo2ego.lazy_samples import LazySamples, LazySequence, SampleSource
from egoloom.exo2ego.pixel_loss import PixelLoss
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_pipeline
from egoloom.exo2ego.training import train_generator
from egoloom.exo2ego.training_cache import CachedClip, ClipCoding, cache_clips, stack_clips
from egoloom.exo2ego.training_config import AutoencoderTraining, GeneratorTraining

QUICK = GeneratorTraining(num_steps=6, batch_size=2, learning_rate=3e-3, warmup_steps=3, lora_rank=None)


@pytest.fixture
def clips(make_sample) -> list[GeneratorSample]:
    """Three layouts and one clip without geometry; the wearer is known in one."""
    first = make_sample(seed=1)
    wearer = first.truth_TCHW[:, 0] > 128
    return [
        replace(first, wearer_THW=wearer),
        make_sample(seed=2),
        make_sample(5, seed=3),
        replace(make_sample(seed=4), geometry=None),
        make_sample(exo_width=32, seed=5),
    ]


def lazy(samples: list[GeneratorSample], read: Callable[[int], object] = lambda index: None) -> LazySamples:
    """The samples, each copied when it is asked for; ``read`` is told which."""

    def source(index: int, sample: GeneratorSample) -> SampleSource:
        def make() -> GeneratorSample:
            read(index)
            return replace(sample, exo_TCHW=sample.exo_TCHW.clone())

        return SampleSource(
            sample.name, {"seed": index}, make, lambda: (sample.exo_TCHW.clone(), sample.truth_TCHW.clone())
        )

    return LazySamples(source(index, sample) for index, sample in enumerate(samples))


def forbid(index: int) -> None:
    raise AssertionError(f"sample {index} is read")


def assert_same(one: CachedClip, other: CachedClip) -> None:
    """Equal values in the same order in memory, on which the last digit of a sum depends."""
    for field in fields(CachedClip):
        pairs = [(getattr(one, field.name), getattr(other, field.name))]
        if isinstance(pairs[0][0], DirectionTables):
            pairs = [(getattr(pairs[0][0], f.name), getattr(pairs[0][1], f.name)) for f in fields(DirectionTables)]
        for x, y in pairs:
            if isinstance(x, torch.Tensor):
                assert (x.dtype, x.shape, x.stride()) == (y.dtype, y.shape, y.stride()), field.name
                assert torch.equal(x, y), field.name
            else:
                assert x == y, field.name


@pytest.mark.parametrize("coding", [ClipCoding(), ClipCoding(window_frames=5, keep_frames=True)])
def test_what_is_read_is_what_was_coded(pipeline, clips, tmp_path: Path, coding: ClipCoding) -> None:
    in_memory = cache_clips(pipeline, clips, coding)
    on_disk = cache_latents(pipeline, lazy(clips), coding, tmp_path)
    assert len(on_disk) == len(in_memory) == (5 if coding.window_frames is None else 9)
    assert on_disk.bucket_of == [clip.bucket for clip in in_memory]
    assert len(set(on_disk.bucket_of)) >= 3
    for one, other in zip(in_memory, on_disk, strict=True):
        assert_same(stack_clips([one]), stack_clips([other]))
    assert on_disk[-1].layout.exo_width == 8
    if coding.keep_frames:
        assert in_memory[0].wearer.any()
    stored = load_file(on_disk.paths[0])
    assert "given" not in stored  # it repeats exo and prior
    assert sum(value.nbytes for value in stored.values()) < on_disk.paths[0].stat().st_size < 1.1 * 2**20


def caption_reader(text_dim: int):
    """A small UMT5 with random weights, and a tokenizer that knows five words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1, "cook": 2, "cuts": 3, "bread": 4, "?": 5}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=8, d_model=text_dim, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>"), UMT5EncoderModel(config).eval()


def test_captions_take_the_room_of_their_words_and_drawn_latents_stay(clips, tmp_path: Path, tiny_config) -> None:
    tiny = tiny_config.model_copy(update={"latent": "wan", "vae_base_dim": 4, "text_length": 64})
    pipeline = build_tiny_pipeline(tiny)
    tokenizer, encoder = caption_reader(tiny.text_dim)
    pipeline.register_modules(tokenizer=tokenizer, text_encoder=encoder)
    pipeline.register_to_config(sample_latents=True)
    told = [replace(clips[0], caption="a cook cuts bread"), replace(clips[1], caption="a"), clips[1], clips[0]]
    coding = ClipCoding(window_frames=5, seed=3)
    in_memory = cache_clips(pipeline, told, coding)
    on_disk = cache_latents(pipeline, lazy(told), coding, tmp_path)
    for one, other in zip(in_memory, on_disk, strict=True):
        assert_same(stack_clips([one]), stack_clips([other]))
    assert [len(load_file(path)["text"][0]) for path in on_disk.paths[::2]] == [4, 1, 0, 0]
    assert in_memory[0].text[0, 3].any()
    # Each window has its own randomness, whatever was coded before it.
    (tmp_path / "000003-1-of-2.safetensors").unlink()
    assert_same(cache_latents(pipeline, lazy(told), coding, tmp_path)[7], on_disk[7])
    assert not torch.equal(in_memory[0].exo, in_memory[6].exo)
    assert not torch.equal(cache_clips(pipeline, told[:1], ClipCoding(5, seed=4))[0].exo, in_memory[0].exo)


@pytest.mark.parametrize("pixels", [None, PixelLoss(wearer=3.0, gradients=1.0)])
def test_training_from_disk_equals_training_from_memory(clips, tmp_path: Path, tiny_config, pixels) -> None:
    config = QUICK.model_copy(update={"pixels": pixels, "window_frames": 5})
    vae = train_tiny_vae([clip.truth_TCHW for clip in clips], tiny_config, show_progress=False)
    pipelines = [build_tiny_pipeline(tiny_config, vae=vae) for _ in range(3)]
    expected = train_generator(clips, config, pipelines[0], show_progress=False)
    lists = train_generator(clips, config, pipelines[1], run_dir=tmp_path / "list", show_progress=False)
    result = train_generator(lazy(clips), config, pipelines[2], run_dir=tmp_path / "lazy", show_progress=False)
    assert result.num_clips == expected.num_clips == 9
    assert result.losses == lists.losses == expected.losses
    whole = pipelines[0].transformer.state_dict()
    for other in pipelines[1:]:
        assert all(torch.equal(value, whole[name]) for name, value in other.transformer.state_dict().items())


def test_one_take_is_in_memory_at_a_time(pipeline, clips, tmp_path: Path) -> None:
    read: list[weakref.ref[GeneratorSample]] = []

    def watched(sample: GeneratorSample) -> SampleSource:
        def make() -> GeneratorSample:
            assert all(earlier() is None for earlier in read)
            copy = replace(sample)
            read.append(weakref.ref(copy))
            return copy

        return SampleSource(sample.name, {}, make, lambda: (sample.exo_TCHW, sample.truth_TCHW))

    cache = cache_latents(pipeline, LazySamples(map(watched, clips)), ClipCoding(), tmp_path)
    assert len(read) == len(cache) == 5
    clip = weakref.ref(cache[0])
    assert clip() is None


def test_an_interrupted_coding_continues_and_a_finished_one_reads_nothing(pipeline, clips, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop(index: int) -> None:
        seen.append(index)
        if index == 2:
            raise KeyboardInterrupt

    coding = ClipCoding(window_frames=5)
    with pytest.raises(KeyboardInterrupt):
        cache_latents(pipeline, lazy(clips, stop), coding, tmp_path)
    (tmp_path / "000001-0-of-2.safetensors").unlink()  # stopped within a take
    (tmp_path / ".000001-0-of-2.abcd.safetensors").write_bytes(b"half")  # killed while it wrote
    before = (tmp_path / "000000-0-of-2.safetensors").stat().st_mtime_ns
    seen.clear()
    cache = cache_latents(pipeline, lazy(clips, seen.append), coding, tmp_path)
    assert seen == [1, 2, 3, 4]
    assert (tmp_path / "000000-0-of-2.safetensors").stat().st_mtime_ns == before
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in cache.paths} | {"manifest.json"}
    again = cache_latents(pipeline, lazy(clips, forbid), coding, tmp_path)
    for one, other in zip(cache_clips(pipeline, clips, coding), again, strict=True):
        assert_same(stack_clips([one]), stack_clips([other]))


def test_a_run_continues_from_its_latents_alone(clips, tmp_path: Path, tiny_config) -> None:
    def pipeline():
        samples = lazy(clips)
        vae = stored_tiny_vae(samples.videos(), origins(samples), tiny_config, tmp_path / "latents")
        return build_tiny_pipeline(tiny_config, vae=vae)

    expected = train_generator(lazy(clips), QUICK, pipeline(), run_dir=tmp_path / "whole", show_progress=False)
    short = QUICK.model_copy(update={"num_steps": 4})
    train_generator(lazy(clips), short, pipeline(), run_dir=tmp_path, show_progress=False)
    result = train_generator(lazy(clips, forbid), QUICK, pipeline(), run_dir=tmp_path, show_progress=False)
    assert result.losses == expected.losses


def test_processes_share_the_coding(pipeline, clips, tmp_path: Path) -> None:
    barrier = Barrier(2)

    def run(rank: int) -> tuple[list[int], LatentCache]:
        seen: list[int] = []
        samples = lazy(clips, seen.append)
        share = {"process": (rank, 2), "wait": lambda: barrier.wait(60)}
        return seen, cache_latents(pipeline, samples, ClipCoding(), tmp_path, **share)

    with ThreadPoolExecutor(2) as threads:
        (first, whole), (second, same) = threads.map(run, range(2))
    assert (first, second) == ([0, 2, 4], [1, 3])
    assert len(whole) == 5
    assert whole.paths == same.paths


def test_stale_latents_are_refused_by_name(pipeline, clips, tmp_path: Path, tiny_config) -> None:
    cache_latents(pipeline, clips, ClipCoding(), tmp_path)

    def refused(match: str, samples=clips, coding=ClipCoding(), model=pipeline) -> None:  # noqa: B008
        with pytest.raises(UserError, match=match) as error:
            cache_latents(model, samples, coding, tmp_path)
        assert f"rm -r {tmp_path}" in str(error.value)

    refused("window_frames was None, is 5", coding=ClipCoding(window_frames=5))
    refused("keep_frames was False, is True", coding=ClipCoding(keep_frames=True))
    refused("5 takes were there, now 4", samples=clips[:4])
    refused("take wall2 is another one", samples=[clips[0], replace(clips[1], caption="new"), *clips[2:]])
    moved = replace(clips[1].geometry, ego_centres_FC=clips[1].geometry.ego_centres_FC + 1)
    refused("take wall2 is another one", samples=[clips[0], replace(clips[1], geometry=moved), *clips[2:]])
    other = build_tiny_pipeline(tiny_config, vae=train_tiny_vae([clips[1].exo_TCHW], tiny_config, show_progress=False))
    refused("vae was PatchAutoencoder .*, is PatchAutoencoder", model=other)
    no_mask = build_tiny_pipeline(tiny_config.model_copy(update={"use_hole_mask": False}), vae=pipeline.vae)
    refused("use_hole_mask was True, is False", model=no_mask)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    refused("format was 0, is 1")
    (tmp_path / "manifest.json").write_text("{")
    refused("Cannot read .*manifest.json")
    (tmp_path / "manifest.json").unlink()
    refused("holds clips, but nothing says what of")
    # What the cached clips do not depend on may change.
    deeper = build_tiny_pipeline(tiny_config.model_copy(update={"num_layers": 3}), vae=pipeline.vae)
    cache_latents(pipeline, clips, ClipCoding(), tmp_path / "other")
    cache_latents(deeper, lazy(clips), ClipCoding(seed=5), tmp_path / "third")
    cache_latents(deeper, clips, ClipCoding(seed=5), tmp_path / "other")


def test_a_broken_file_is_named_with_what_mends_it(pipeline, clips, tmp_path: Path) -> None:
    cache = cache_latents(pipeline, clips, ClipCoding(), tmp_path)
    path, expected = cache.paths[1], stack_clips([cache[1]])
    whole = path.read_bytes()
    for broken in (whole[:-100], b"", b"no latents at all"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="000001-0-of-1") as error:
            cache_latents(pipeline, clips, ClipCoding(), tmp_path)
        assert f"rm {path}" in str(error.value)
    stored = load_file(cache.paths[0])
    stored.pop("prior")
    save_file(stored, path)
    with pytest.raises(UserError, match="000001-0-of-1"):
        cache_latents(pipeline, clips, ClipCoding(), tmp_path)
    path.unlink()
    assert_same(stack_clips([cache_latents(pipeline, clips, ClipCoding(), tmp_path)[1]]), expected)
    path.unlink()
    with pytest.raises(UserError, match="000001-0-of-1"):  # gone in the middle of a run
        cache[1]


def test_lazy_videos_give_the_same_autoencoders_and_are_read_once(clips, tmp_path: Path, tiny_config) -> None:
    videos = [video for clip in clips for video in (clip.exo_TCHW, clip.truth_TCHW)]
    reads: list[int] = []
    counted = LazySequence(len(videos), lambda index: (reads.append(index), videos[index])[1])
    expected = train_tiny_vae(videos, tiny_config, show_progress=False)
    ours = train_tiny_vae(counted, tiny_config, show_progress=False)
    assert reads == list(range(10))
    assert torch.equal(ours.basis_ZD, expected.basis_ZD)
    assert torch.equal(ours.mean_D, expected.mean_D)
    assert dict(ours.config) == dict(expected.config)
    assert all(torch.equal(one, other) for one, other in zip(lazy(clips).videos(), videos, strict=True))
    wan = TinyConfig(latent="wan", z_dim=8, vae_base_dim=4)
    recipe = AutoencoderTraining(num_steps=3, batch_size=2, crop_px=16, num_frames=5)
    one, other = (train_tiny_vae(source, wan, recipe, show_progress=False) for source in (videos, counted))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_autoencoder_of_a_run_is_kept(clips, tmp_path: Path, tiny_config) -> None:
    videos, takes = [clip.truth_TCHW for clip in clips], origins(clips)
    expected = train_tiny_vae(videos, tiny_config, show_progress=False)
    for source in (videos, LazySequence(len(videos), forbid)):
        vae = stored_tiny_vae(source, takes, tiny_config, tmp_path, show_progress=False)
        assert torch.equal(vae.basis_ZD, expected.basis_ZD)
        assert vae.config["latents_std"] == expected.config["latents_std"]
    assert [path.name for path in tmp_path.iterdir()] == ["autoencoder"]
    with pytest.raises(UserError, match="z_dim was 12, is 8"):
        stored_tiny_vae(videos, takes, tiny_config.model_copy(update={"z_dim": 8}), tmp_path)
    with pytest.raises(UserError, match="5 takes were there, now 4"):
        stored_tiny_vae(videos, takes[:4], tiny_config, tmp_path)
    (tmp_path / "autoencoder" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="Cannot read the autoencoder") as error:
        stored_tiny_vae(videos, takes, tiny_config, tmp_path)
    assert f"rm -r {tmp_path / 'autoencoder'}" in str(error.value)
