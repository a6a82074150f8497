"""The measures of the memory plan on a real tiny pipeline: each changes where and how, not what comes out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers import AutoencoderKLWan

from egoloom.exo2ego.latents import decode_pixels, encode_video
from egoloom.exo2ego.pipeline import EgoXPipeline

FEW_STEPS = {"num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.fixture
def open_wan(wan_folder: Path) -> Callable[[], EgoXPipeline]:
    def read() -> EgoXPipeline:
        pipeline = EgoXPipeline.from_wan(wan_folder, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return read


def random_lora() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"transformer.blocks.{block}.attn{number}.{name}.lora_{side}.weight": 0.3
        * torch.randn(shape, generator=generator)
        for block in (0, 1)
        for number in (1, 2)
        for name in ("to_q", "to_k", "to_v", "to_out.0")
        for side, shape in (("A", (4, 32)), ("B", (32, 4)))
    }


def test_an_8_bit_base_carries_an_unfused_lora(open_wan, make_sample) -> None:
    clip, lora = make_sample(5), random_lora()
    whole, small = open_wan(), open_wan()
    plain = whole(clip, **FEW_STEPS).latents
    whole.load_lora(lora)
    expected = whole(clip, **FEW_STEPS).latents
    small.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    small.load_lora(lora)
    layer = small.transformer.blocks[0].attn1.to_q
    assert layer.base_layer.weight.dtype == torch.float8_e4m3fn
    assert layer.lora_A["default"].weight.dtype == torch.float32
    torch.testing.assert_close(
        layer.lora_A["default"].weight.data, lora["transformer.blocks.0.attn1.to_q.lora_A.weight"]
    )
    error = (small(clip, **FEW_STEPS).latents - expected).abs().mean()
    # Three bits of mantissa cost a few percent of what the LoRA does.
    assert error < 0.15 * (expected - plain).abs().mean()


def test_streamed_blocks_give_the_same_clip(open_wan, make_sample) -> None:
    clip = make_sample(5)
    expected = open_wan()(clip, **FEW_STEPS).latents
    streamed = open_wan()
    streamed.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1,
    )  # fmt: skip
    assert torch.equal(streamed(clip, **FEW_STEPS).latents, expected)


def test_text_is_encoded_once_and_only_the_ego_half_is_decoded(open_wan, make_sample) -> None:
    pipeline = open_wan()
    encoded, decoded = [], []
    pipeline.text_encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    decode = pipeline.vae.decode
    pipeline.vae.decode = lambda latents, **options: decoded.append(latents.shape[-1]) or decode(latents, **options)
    clip = replace(make_sample(9), caption="a person kicks the ball")
    pipeline(clip, num_inference_steps=4, guidance_scale=3.0, window_frames=5)
    assert len(encoded) == 2  # the caption and no caption, whatever the number of steps and windows
    assert decoded == [32 // 8, 32 // 8]  # of two windows; the canvas is (48 + 32) / 8 wide


def test_an_offloaded_autoencoder_gets_its_input_where_it_computes() -> None:
    """Offloading keeps weights on one device and computes on another; without a GPU, the meta device is the other."""
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    frames = torch.zeros(1, 5, 3, 16, 16, dtype=torch.uint8)
    cpu_offload_with_hook(vae, torch.device("meta"))
    latents = encode_video(vae, frames)
    assert latents.shape == (1, 16, 2, 2, 2)
    assert latents.device.type == "meta"
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    cpu_offload_with_hook(vae, torch.device("meta"))
    assert decode_pixels(vae, torch.zeros(1, 16, 2, 2, 2)).device.type == "meta"
