"""Takes as users have them: every length, moving cameras, what is missing or broken, an interruption in between."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from egoloom.augmentation.generator_inputs import find_takes
from egoloom.cli.exo2ego import main
from egoloom.cli.main import main as console
from egoloom.clips.media import VideoReader
from egoloom.errors import UserError
from egoloom.exo2ego import generation
from egoloom.exo2ego.lora import save_lora
from egoloom.exo2ego.schedule import build_scheduler, flow_shift
from egoloom.exo2ego.shipped import load_generator
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_pipeline


def frames_of(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return reader.all_frames()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A generator with random weights that have a say."""
    pipeline = build_tiny_pipeline(TinyConfig(z_dim=8, num_layers=1, num_heads=1, head_dim=16, ffn_dim=16))
    torch.nn.init.normal_(pipeline.transformer.proj_out.weight, std=0.1)
    folder = tmp_path_factory.mktemp("small")
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("num_frames", [5, 48, 50, 97])
def test_takes_of_any_length(egox_folder, small: Path, tmp_path: Path, capsys, num_frames: int) -> None:
    folder = egox_folder(num_frames)
    options = ["generate", str(folder), "--model", str(small), "--num-frames", str(num_frames), "--json"]
    main([*options, "--out", str(tmp_path / "whole")])
    main([*options, "--out", str(tmp_path / "windows"), "--window-frames", "17"])
    rows = [json.loads(line)["clips"][0] for line in capsys.readouterr().out.splitlines()]
    for name, row in zip(("whole", "windows"), rows, strict=True):
        assert frames_of(tmp_path / name / "wall.mp4").shape == (num_frames, 3, 64, 64)
        assert row["psnr_db"] > 5
    assert (rows[0]["psnr_db"] == rows[1]["psnr_db"]) == (num_frames <= 17)


def test_a_moving_exo_camera_moves_points_and_prior(egox_folder, small: Path, tmp_path: Path) -> None:
    """A camera that moves sideways past a still wall sees other points; the wearer, who stands still, does not move."""
    poses = np.repeat(np.eye(4)[None, :3], 9, 0)
    poses[:, 0, 3] = -np.linspace(0, 0.8, 9)
    still = np.repeat(np.eye(4)[None, :3], 9, 0).tolist()
    folder = egox_folder(9, camera_extrinsics=poses.tolist(), ego_extrinsics=still)
    moving, _ = find_takes(folder, 64, 9)[0].sample()
    assert moving.geometry is not None
    centres = [torch.nanmean(points.flatten(0, 1), dim=0) for points in moving.geometry.exo_points_FHWC]
    for earlier, later in pairwise(centres):
        torch.testing.assert_close(later - earlier, torch.tensor([0.4, 0.0, 0.0]), atol=2e-2, rtol=0)
    frames = generation.generate(load_generator(small), [moving])[0]
    assert frames.shape == (9, 3, 64, 64)


def test_null_poses_are_bridged_and_a_take_without_any_is_refused(egox_folder, small: Path, tmp_path: Path) -> None:
    whole = egox_folder(9)
    entry = json.loads((whole / "meta.json").read_text())["test_datasets"][0]
    expected, _ = find_takes(whole, 64, 9)[0].sample()
    for index in (0, 3, 4):
        entry["ego_extrinsics"][index] = None
    options = ["generate", str(whole), "--model", str(small), "--num-frames", "9", "--out", str(tmp_path / "out")]
    (whole / "meta.json").write_text(json.dumps({"test_datasets": [entry]}))
    bridged, _ = find_takes(whole, 64, 9)[0].sample()
    # The wearer moves evenly, so what lies between two poses is exact; before the first one nothing is known of it.
    torch.testing.assert_close(bridged.geometry.ego_centres_FC[1:], expected.geometry.ego_centres_FC[1:])
    main(options)
    assert frames_of(tmp_path / "out/wall.mp4").shape[0] == 9
    (tmp_path / "out/wall.mp4").unlink()
    for poses in ([None] * 9, []):
        (whole / "meta.json").write_text(json.dumps({"test_datasets": [{**entry, "ego_extrinsics": poses}]}))
        with pytest.raises(UserError, match="pose"):
            main(options)
    assert not list((tmp_path / "out").iterdir())


def test_faults_end_with_one_sentence_and_code_2(egox_folder, small: Path, tmp_path: Path, capsys) -> None:
    """Each fault through the console script: no traceback, the fault named, nothing written."""
    no_depth = egox_folder(5, with_depth=False)
    takes = egox_folder(9)
    broken = load_generator(small)
    broken.transformer.proj_out.bias.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    other = build_tiny_pipeline(TinyConfig(z_dim=8, num_layers=1, num_heads=2, head_dim=16, ffn_dim=16))
    from peft import LoraConfig

    other.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    save_lora(other.transformer, tmp_path / "foreign")
    faults = {
        "no depth maps": [no_depth],
        "not divisible by 8": [takes, "--size-px", "60"],
        "NaN or infinite at step 1": [takes, "--model", tmp_path / "nan"],
        "does not fit this transformer": [takes, "--lora", tmp_path / "foreign"],
        "Cannot read LoRA": [takes, "--lora", tmp_path / "absent"],
        "cannot be coded": [takes, "--window-frames", "16"],
        "--num-frames 0 is too few": [takes, "--num-frames", "0"],
        "num_steps": [takes, "--steps", "0"],
    }
    for message, (source, *options) in faults.items():
        model = [] if "--model" in options else ["--model", small]
        words = ["exo2ego", "generate", source, "--num-frames", "9", *model, *options, "--out", tmp_path / "out"]
        with pytest.raises(SystemExit) as stop:
            console([str(word) for word in words])
        said = capsys.readouterr().err
        assert stop.value.code == 2, message
        assert message in said, (message, said)
        assert "Traceback" not in said
    assert not list((tmp_path / "out").glob("*"))


def test_an_interruption_keeps_finished_clips_and_the_rest_follows(
    wall_store: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Stopped while the second video is written: the first is whole, no half one is left, and the end is the same."""
    options = ["exo2ego", "generate", str(wall_store), "--model", str(small), "--num-frames", "9", "--json", "--out"]
    console([*options, str(tmp_path / "whole")])
    encoding = sys.modules["egoloom.clips.media.encoding"]
    frame_class, frames_written = encoding.av.VideoFrame, []

    class Stopping:
        @staticmethod
        def from_ndarray(*arguments, **keywords):
            frames_written.append(1)
            if len(frames_written) == 9 + 4:
                raise KeyboardInterrupt
            return frame_class.from_ndarray(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(encoding.av, "VideoFrame", Stopping)
        with pytest.raises(SystemExit) as stop:
            console([*options, str(tmp_path / "stopped")])
    assert stop.value.code == 130
    assert "the same command continues" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "stopped").glob("*.mp4")] == ["take0_exo.mp4"]
    assert len(frames_of(tmp_path / "stopped/take0_exo.mp4")) == 9
    console([*options, str(tmp_path / "stopped")])
    rows = json.loads(capsys.readouterr().out)["clips"]
    assert [row["kept"] for row in rows] == [True, False]
    for name in ("take0_exo.mp4", "take1_exo.mp4"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_several_loras_add_up_in_few_steps_with_either_solver(
    egox_folder, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step-distilled LoRA on top of another: both count, one branch a step, against weights merged by hand."""
    takes = egox_folder(5)
    merged, generator = load_generator(small), torch.Generator().manual_seed(0)
    for name in ("first", "second"):
        lora = {
            f"transformer.blocks.0.attn{number}.{layer}.lora_{side}.weight": torch.randn(shape, generator=generator)
            for number in (1, 2)
            for layer in ("to_q", "to_k", "to_v", "to_out.0")
            for side, shape in (("A", (2, 16)), ("B", (16, 2)))
        }
        (tmp_path / name).mkdir()
        save_file(lora, tmp_path / name / "pytorch_lora_weights.safetensors")
        for key in (key for key in lora if "lora_A" in key):
            layer = merged.transformer.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_A.weight"))
            layer.weight.data += lora[key.replace("lora_A", "lora_B")] @ lora[key]
    passes, generated = [], []
    real = generation.generate

    def watch(pipeline, samples, config):
        handle = pipeline.transformer.register_forward_pre_hook(lambda module, inputs: passes.append(1))
        generated.extend(real(pipeline, samples, config))
        handle.remove()
        assert type(pipeline.scheduler).__name__ == solvers[len(generated) - 1]
        return generated[-1:]

    monkeypatch.setattr(generation, "generate", watch)
    solvers = ["UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"]
    loras = ["--lora", str(tmp_path / "first"), str(tmp_path / "second")]
    words = ["generate", str(takes), "--model", str(small), "--num-frames", "5", "--steps", "4", "--guidance", "1"]
    main([*words, "--solver", "unipc", *loras, "--out", str(tmp_path / "a")])
    main([*words, "--solver", "euler", *loras, "--out", str(tmp_path / "b")])
    main([*words, "--solver", "euler", "--lora", str(tmp_path / "second"), "--out", str(tmp_path / "c")])
    assert len(passes) == 3 * 4
    sample, _ = find_takes(takes, 64, 5)[0].sample()
    for solver, frames in zip(("unipc", "euler"), generated, strict=False):
        merged.scheduler = build_scheduler(solver, flow_shift(merged.scheduler))
        expected = real(merged, [sample], generation.GenerationConfig(num_steps=4))[0]
        assert (frames.int() - expected.int()).abs().max() <= 1
    assert (generated[2].int() - generated[1].int()).abs().max() > 1
    with pytest.raises(UserError, match="Unknown solver: 'heun'"):
        main([*words, "--solver", "heun", "--out", str(tmp_path / "d")])
