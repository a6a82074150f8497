"""``EgoXPipeline``: ego video from an exo video and an ego prior, on stock diffusers components.

Every size is read from the components' configurations, so Wan 2.1 14B with the published EgoX LoRA, smaller Wan
variants and the tiny model are this same code.

Legend: B batch, T pixel frames, F latent frames, Z latent channels, H rows, W columns, L text tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from diffusers.utils import BaseOutput

from egoloom.errors import UserError
from egoloom.exo2ego.attention import GeometryGuidance
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.codec import PatchAutoencoder
from egoloom.exo2ego.conditioning import canvas_mask, condition
from egoloom.exo2ego.denoising import Denoiser, PreparedClips, StepOptions
from egoloom.exo2ego.guided_attention import GuidanceMode
from egoloom.exo2ego.latents import decode_video, encode_video, latent_strides
from egoloom.exo2ego.layout import CanvasLayout
from egoloom.exo2ego.lora import LoraReport, LoraWeights, load_lora
from egoloom.exo2ego.samples import GeneratorSample, fill_holes
from egoloom.exo2ego.text import embed_texts
from egoloom.exo2ego.wan import load_wan_components
from egoloom.exo2ego.windows import plan_windows

# diffusers opens saved pipelines only from modules that are imported already: never code that a folder names.
SAVED_COMPONENTS = (GeometryGuidance, PatchAutoencoder)


@dataclass
class EgoXOutput(BaseOutput):
    """Generated clips.

    Args:
        frames: RGB ``uint8`` ``[B, T, 3, H, W]``.
        latents: Normalised canvas latents of the last window, ``[B, Z, F, h, w]``.
    """

    frames: torch.Tensor
    latents: torch.Tensor


class EgoXPipeline(DiffusionPipeline):
    """Generates ego video with EgoX (arXiv 2512.08269).

    Args:
        vae: ``AutoencoderKLWan``, or anything with its interface.
        transformer: Stock ``WanTransformer3DModel`` with ``2 Z + s`` input channels.
        scheduler: A flow-matching scheduler (UniPC or Euler).
        guidance: Geometry-guided attention; installed on the transformer here.
        tokenizer: Of the text encoder, optional.
        text_encoder: UMT5, optional; without it captions must be empty or given as embeddings.
        image_processor: Of the image encoder, optional.
        image_encoder: CLIP vision model, optional.
        prediction: What the network's output means.
        exo_mask: Which exo latents the mask marks as given; published weights want ``first_frame``.
        use_hole_mask: Fills the mask of the ego columns with the prior's coverage (ours; published weights want False).
        fill_prior_holes: Closes holes of the prior with surrounding colour before coding (ours; sharp black edges cost
            a small autoencoder and network much; published weights want False).
        sample_latents: Draws latents from the autoencoder's posterior, as the reference does, instead of its mode.
        clean_exo: Shows the network clean exo latents at every step; False noises them like the ego half (an
            ablation of the paper, for models trained that way).
        text_length: Text tokens; Wan models with image conditioning want 512.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"
    _optional_components = ["tokenizer", "text_encoder", "image_processor", "image_encoder"]  # noqa: RUF012
    _exclude_from_cpu_offload = ["guidance"]  # noqa: RUF012

    def __init__(
        self,
        vae: Any,
        transformer: WanTransformer3DModel,
        scheduler: Any,
        guidance: GeometryGuidance,
        tokenizer: Any = None,
        text_encoder: Any = None,
        image_processor: Any = None,
        image_encoder: Any = None,
        prediction: str = "velocity",
        exo_mask: str = "first_frame",
        use_hole_mask: bool = False,
        fill_prior_holes: bool = False,
        sample_latents: bool = False,
        clean_exo: bool = True,
        text_length: int = 512,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            transformer=transformer,
            scheduler=scheduler,
            guidance=guidance,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            image_processor=image_processor,
            image_encoder=image_encoder,
        )
        self.register_to_config(
            prediction=prediction,
            exo_mask=exo_mask,
            use_hole_mask=use_hole_mask,
            fill_prior_holes=fill_prior_holes,
            sample_latents=sample_latents,
            clean_exo=clean_exo,
            text_length=text_length,
        )
        time_stride, _ = latent_strides(vae)
        expected = 2 * vae.config["z_dim"] + time_stride
        if transformer.config["in_channels"] != expected:
            raise UserError(
                f"The transformer takes {transformer.config['in_channels']} channels, this needs {expected}: "
                f"{vae.config['z_dim']} of latents, {time_stride} of the mask, {vae.config['z_dim']} of the condition"
            )
        guidance.install(transformer)
        self._empty_caption: torch.Tensor | None = None

    # --- preparation ------------------------------------------------------------------------------------------

    def prepare(self, samples: Sequence[GeneratorSample], generator: torch.Generator | None = None) -> PreparedClips:
        """Returns the constant inputs of a batch of clips of one size.

        Raises:
            UserError: If sizes differ, are not divisible, or the frames cannot be coded.
        """
        self._check_sizes(samples)
        draw = {"sample": self.config["sample_latents"], "generator": generator}
        exo = encode_video(self.vae, torch.stack([sample.exo_TCHW for sample in samples]), **draw)
        priors = [sample.prior_TCHW for sample in samples]
        if self.config["fill_prior_holes"]:
            priors = [fill_holes(sample.prior_TCHW, sample.hole_THW) for sample in samples]  # type: ignore[arg-type]
        prior = encode_video(self.vae, torch.stack(priors), **draw)
        return self.prepare_latents(samples, exo, prior)

    def prepare_latents(
        self, samples: Sequence[GeneratorSample], exo_BZFHW: torch.Tensor, prior_BZFHW: torch.Tensor
    ) -> PreparedClips:
        """Returns the constant inputs from latents that are already there."""
        layout = CanvasLayout(
            exo_BZFHW.shape[2],
            exo_BZFHW.shape[3],
            exo_BZFHW.shape[4],
            prior_BZFHW.shape[4],
            tuple(self.transformer.config["patch_size"]),
        )
        known = None
        if self.config["use_hole_mask"]:
            known = torch.stack([~sample.hole_THW for sample in samples])  # type: ignore[operator]
        mask = canvas_mask(
            layout,
            time_stride=latent_strides(self.vae)[0],
            exo_mask=self.config["exo_mask"],
            ego_known_BTHW=known,
            batch=len(samples),
        )
        given = condition(exo_BZFHW, prior_BZFHW, mask.to(exo_BZFHW))
        with_geometry = [sample.geometry for sample in samples if sample.geometry is not None]
        tables = None
        if len(with_geometry) == len(samples):
            tables = DirectionTables.stack([geometry.tables(layout) for geometry in with_geometry])
        elif with_geometry:
            raise UserError("Some clips of a batch have geometry and some have none", fix="generate them apart")
        return PreparedClips(layout, exo_BZFHW, prior_BZFHW, given, tables)

    def _check_sizes(self, samples: Sequence[GeneratorSample]) -> None:
        time_stride, side = latent_strides(self.vae)
        patch = self.transformer.config["patch_size"]
        shapes = {(tuple(sample.exo_TCHW.shape), tuple(sample.prior_TCHW.shape)) for sample in samples}
        if len(shapes) != 1:
            raise UserError(f"The clips of a batch have {len(shapes)} different sizes", fix="generate them apart")
        sample = samples[0]
        if (sample.num_frames - 1) % time_stride:
            raise UserError(
                f"{sample.name} has {sample.num_frames} frames",
                allowed=f"{time_stride} k + 1",
                fix="sample.fit_length()",
            )
        sizes = (
            ("height", sample.prior_TCHW.shape[2], side * patch[1]),
            ("ego width", sample.prior_TCHW.shape[3], side * patch[2]),
            ("exo width", sample.exo_TCHW.shape[3], side * patch[2]),
        )
        for name, value, step in sizes:
            if value % step:
                raise UserError(
                    f"{sample.name}: the {name} of {value} px is not divisible by {step}",
                    allowed=f"multiples of {step}, e.g. {max(step, round(value / step) * step)}",
                    fix="resize or pad the video",
                )

    # --- generation -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        samples: GeneratorSample | Sequence[GeneratorSample],
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        unconditional_every: int = 1,
        geometry_scale: float | None = None,
        mode: GuidanceMode | None = None,
        window_frames: int | None = None,
        overlap_frames: int = 1,
        seed: int = 0,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        callback_on_step_end: Callable[[int, int, torch.Tensor], None] | None = None,
    ) -> EgoXOutput:
        """Generates one ego clip per sample.

        Args:
            samples: Clips of one size; any number of frames.
            num_inference_steps: Denoising steps.
            guidance_scale: Classifier-free guidance; at 1 the unconditional branch is not computed (few-step LoRAs).
            unconditional_every: Computes the unconditional branch at every n-th step and keeps the difference between.
            geometry_scale: The factor lambda; the guidance component's own by default, 0 switches geometry off.
            mode: How geometry is applied; the guidance component's own by default.
            window_frames: Frames generated at once; the whole clip by default.
            overlap_frames: Frames that neighbouring windows share.
            seed: Seed of the noise.
            prompt_embeds: ``[B, L, D]`` in place of captions.
            negative_prompt_embeds: ``[B, L, D]`` of the unconditional branch.
            image_embeds: ``[B, I, D]`` for transformers with image conditioning.
            callback_on_step_end: Called with step, timestep and latents.
        """
        samples = [samples] if isinstance(samples, GeneratorSample) else list(samples)
        if not samples:
            raise UserError("There is no clip to generate")
        time_stride, _ = latent_strides(self.vae)
        num_frames = samples[0].num_frames
        padded = [sample.fit_length(time_stride) for sample in samples]
        total = padded[0].num_frames
        branches = self._text_branches(samples, guidance_scale, prompt_embeds, negative_prompt_embeds)
        image_embeds = self.encode_images(samples) if image_embeds is None else image_embeds
        options = StepOptions(
            guidance_scale, unconditional_every, geometry_scale, mode, image_embeds, callback_on_step_end, seed
        )
        generator = torch.Generator("cpu").manual_seed(seed)
        frames: torch.Tensor | None = None
        latents = torch.empty(0)
        for start, stop in plan_windows(total, window_frames or total, overlap_frames, time_stride):
            part = [sample.window(start, stop, time_stride) for sample in padded]
            known = None if frames is None else frames[:, start:]
            clips = self.prepare(part, generator)
            latents = Denoiser(self, clips, branches, options).run(num_inference_steps, generator, known)
            fresh = decode_video(self.vae, latents[..., clips.layout.exo_width :])
            # The shared frames stay as they were first generated; the window continues them.
            frames = fresh if frames is None else torch.cat([frames, fresh[:, frames.shape[1] - start :]], dim=1)
        if frames is None:
            raise UserError("There are no frames to generate")
        self.maybe_free_model_hooks()
        return EgoXOutput(frames=frames[:, :num_frames], latents=latents)

    # --- text, image, weights ---------------------------------------------------------------------------------

    def _text_branches(self, samples, guidance_scale, prompt_embeds, negative_prompt_embeds) -> list[torch.Tensor]:
        """Embeddings of the conditional and, with guidance, of the unconditional branch; encoded once per call."""
        text_dim, length = self.transformer.config["text_dim"], self.config["text_length"]
        if prompt_embeds is None:
            captions = [sample.caption for sample in samples]
            if any(captions) and self.text_encoder is None:
                captions = [""] * len(captions)
            prompt_embeds = embed_texts(self.tokenizer, self.text_encoder, captions, length, text_dim)
        if guidance_scale == 1.0:
            return [prompt_embeds]
        if negative_prompt_embeds is None:
            negative_prompt_embeds = self.empty_caption()
        is_same_size = prompt_embeds.shape[1:] == negative_prompt_embeds.shape[1:]  # given ones may be shorter
        if is_same_size and torch.equal(prompt_embeds, negative_prompt_embeds.expand_as(prompt_embeds)):
            return [prompt_embeds]  # both branches are the same network on the same input
        return [prompt_embeds, negative_prompt_embeds]

    def empty_caption(self) -> torch.Tensor:
        """Returns the embedding ``[1, L, D]`` of no caption, with which guidance compares, here and in training."""
        if self._empty_caption is None:
            length, text_dim = self.config["text_length"], self.transformer.config["text_dim"]
            self._empty_caption = embed_texts(self.tokenizer, self.text_encoder, [""], length, text_dim)
        return self._empty_caption

    @torch.no_grad()
    def encode_images(self, samples: Sequence[GeneratorSample]) -> torch.Tensor | None:
        """Returns image tokens ``[B, I, D]`` of each first exo frame, for transformers with image conditioning.

        The exo frame alone, prepared as the image encoder expects. (The reference encodes ``[exo | noise]`` without
        rescaling in generation, and ``[exo | truth]`` divided by 255 twice in training.) Without an image encoder
        one zero token.
        """
        image_dim = self.transformer.config["image_dim"]
        if image_dim is None:
            return None
        if self.image_encoder is None:
            return torch.zeros(len(samples), 1, image_dim)
        pictures = [sample.exo_TCHW[0].permute(1, 2, 0).numpy() for sample in samples]
        pixels = self.image_processor(images=pictures, return_tensors="pt").to(
            self.image_encoder.device, self.image_encoder.dtype
        )
        return self.image_encoder(**pixels, output_hidden_states=True).hidden_states[-2].float()

    @classmethod
    def from_wan(
        cls, folder: str | Path, *, torch_dtype: torch.dtype = torch.bfloat16, geometry_scale: float = 3.0
    ) -> "EgoXPipeline":
        """Returns a pipeline on a Wan image-to-video checkpoint in diffusers layout, ready for the published LoRA.

        Args:
            folder: Local folder with ``transformer``, ``vae`` and, optionally, text and image encoders.
            torch_dtype: Type of transformer and encoders; the autoencoder stays in float32.
            geometry_scale: The factor lambda in generation; 3 is the reference's.

        Raises:
            UserError: If the folder holds no such checkpoint.
        """
        return cls(**load_wan_components(Path(folder), torch_dtype, geometry_scale), sample_latents=True)

    def load_lora(
        self, source: str | Path | Mapping[str, torch.Tensor] | LoraWeights, *, scale: float = 1.0, strict: bool = True
    ) -> LoraReport:
        """Adds a LoRA under any of the accepted namings, unfused; returns the key report."""
        return load_lora(self.transformer, source, scale=scale, strict=strict)
