"""Denoising of one window of clips: guided velocities, clean exo latents, frames that an earlier window fixed.

Legend: B batch, F latent frames, Z latent channels, H rows, W columns, L text tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from egoloom.errors import UserError
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.conditioning import join_views, transformer_input, zero_exo_velocity
from egoloom.exo2ego.exo_memory import ExoMemory
from egoloom.exo2ego.guided_attention import ActiveGuidance, GuidanceMode, check_mode
from egoloom.exo2ego.latents import encode_video, latent_strides
from egoloom.exo2ego.layout import CanvasLayout
from egoloom.exo2ego.prediction import ego_velocity
from egoloom.exo2ego.schedule import set_noise_levels
from egoloom.exo2ego.windows import known_latent_frames

if TYPE_CHECKING:
    from egoloom.exo2ego.pipeline import EgoXPipeline


@dataclass
class PreparedClips:
    """Everything of a batch of clips that stays the same over all denoising steps.

    Args:
        layout: The canvas.
        exo: Clean exo latents.
        prior: Latents of the ego prior.
        given: Mask and condition channels.
        tables: Pooled directions, if there is geometry.
    """

    layout: CanvasLayout
    exo: torch.Tensor
    prior: torch.Tensor
    given: torch.Tensor
    tables: DirectionTables | None


@dataclass(frozen=True)
class StepOptions:
    """Options that every denoising step reads."""

    guidance_scale: float
    unconditional_every: int
    geometry_scale: float | None
    mode: GuidanceMode | None
    image_embeds: torch.Tensor | None
    callback: Callable[[int, int, torch.Tensor], None] | None
    seed: int = 0

    def exo_noise(self, like: torch.Tensor) -> torch.Tensor:
        """The noise of exo latents, the same at every step (only for models trained without clean exo latents)."""
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(self.seed + 1)).to(like)


class Denoiser:
    """One window of a batch of clips on its way from noise.

    Args:
        pipeline: Whose networks, scheduler and choices are used.
        clips: What stays the same over all steps.
        text_branches: Embeddings ``[B, L, D]`` of the conditional and, with guidance, of the unconditional branch.
        options: What every step reads.
    """

    def __init__(
        self,
        pipeline: "EgoXPipeline",
        clips: PreparedClips,
        text_branches: list[torch.Tensor],
        options: StepOptions,
    ) -> None:
        self.pipeline, self.clips, self.text_branches, self.options = pipeline, clips, text_branches, options
        self._difference: torch.Tensor | None = None
        self._guidance = self._choose_guidance()
        self._memories = [ExoMemory() for _ in text_branches]

    def run(
        self, num_steps: int, generator: torch.Generator, known_frames_BTCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the clean canvas latents ``[B, Z, F, H, W]``.

        Args:
            num_steps: Denoising steps.
            generator: Of the noise.
            known_frames_BTCHW: First ego frames, as an earlier window generated them.

        Raises:
            UserError: If the latents become NaN or infinite.
        """
        pipeline, clips = self.pipeline, self.clips
        device = clips.exo.device
        noise = randn_tensor(clips.prior.shape, generator=generator, device=device, dtype=clips.prior.dtype)
        known = self._known_latents(known_frames_BTCHW)
        set_noise_levels(pipeline.scheduler, num_steps)
        latents = join_views(clips.exo, noise)
        with self._progress_bar() as progress:
            for step, timestep in enumerate(pipeline.scheduler.timesteps):
                sigma = pipeline.scheduler.sigmas[step].to(device).expand(len(latents))
                latents = self._hold(latents, known, noise, sigma[0])
                velocity = self._velocity(latents, timestep, sigma, step)
                latents = pipeline.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if not bool(torch.isfinite(latents).all()):
                    raise UserError(
                        f"The latents became NaN or infinite at step {step + 1} of {num_steps}",
                        fix="check the weights and the LoRA; in half precision use bfloat16",
                    )
                if self.options.callback is not None:
                    self.options.callback(step, int(timestep), latents)
                progress.update()
        return self._hold(latents, known, noise, latents.new_zeros(()))

    def _progress_bar(self) -> Any:
        return self.pipeline.progress_bar(total=len(self.pipeline.scheduler.timesteps))  # type: ignore[call-arg]

    def _choose_guidance(self) -> ActiveGuidance | None:
        guidance, options, clips = self.pipeline.guidance, self.options, self.clips
        own = guidance.config
        if own.get("independent_exo") and not self.pipeline.config["clean_exo"]:
            raise UserError(
                "Noised exo latents differ at every step, so exo tokens cannot be kept", allowed="clean_exo"
            )
        scale = own["scale_inference"] if options.geometry_scale is None else options.geometry_scale
        mode = check_mode(options.mode or own["mode"])
        return guidance.guide(clips.layout, clips.tables, float(scale), mode, clips.exo.device)

    def _known_latents(self, frames_BTCHW: torch.Tensor | None) -> torch.Tensor | None:
        if frames_BTCHW is None:
            return None
        time_stride = latent_strides(self.pipeline.vae)[0]
        usable = known_latent_frames(frames_BTCHW.shape[1], time_stride)
        return encode_video(self.pipeline.vae, frames_BTCHW[:, : 1 + (usable - 1) * time_stride])

    def _hold(
        self, latents: torch.Tensor, known: torch.Tensor | None, noise: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """The canvas with the ego latents that an earlier window fixed set to them, at the present noise level."""
        if known is None:
            return latents
        count = known.shape[2]
        held = latents.clone()
        held[:, :, :count, :, self.clips.layout.exo_width :] = (1 - sigma) * known + sigma * noise[:, :, :count]
        return held

    def _velocity(self, latents: torch.Tensor, timestep: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        """The guided velocity of the canvas; the difference between the branches is kept between its computations."""
        config, clips, options = self.pipeline.config, self.clips, self.options
        exo_width = clips.layout.exo_width
        shown = latents
        if not config["clean_exo"]:
            level = sigma.view(-1, 1, 1, 1, 1)
            exo = (1 - level) * clips.exo + level * options.exo_noise(clips.exo)
            shown = join_views(exo, latents[..., exo_width:])
        x = transformer_input(shown, clips.given).to(self.pipeline.transformer.dtype)
        velocity = self._branch(x, timestep, 0)
        if len(self.text_branches) == 2:
            if self._difference is None or step % options.unconditional_every == 0:
                self._difference = velocity - self._branch(x, timestep, 1)
            velocity = velocity + (options.guidance_scale - 1.0) * self._difference
        ego = ego_velocity(
            config["prediction"], velocity[..., exo_width:], latents[..., exo_width:], clips.prior, sigma
        )
        return zero_exo_velocity(torch.cat([velocity[..., :exo_width], ego], dim=-1), exo_width)

    def _branch(self, x: torch.Tensor, timestep: torch.Tensor, branch: int) -> torch.Tensor:
        if self._guidance is not None and self._guidance.independent_exo:
            memory = self._memories[branch]
            self._guidance.memory = memory
            if not memory.is_filled:
                self._forward(x, torch.zeros_like(timestep), branch)
                memory.is_filled = True
        return self._forward(x, timestep, branch)

    def _forward(self, x: torch.Tensor, timestep: torch.Tensor, branch: int) -> torch.Tensor:
        image = self.options.image_embeds
        with self.pipeline.guidance.active(self._guidance):
            return self.pipeline.transformer(
                hidden_states=x,
                timestep=timestep.to(x.device).expand(len(x)),
                encoder_hidden_states=self.text_branches[branch].to(x).expand(len(x), -1, -1),
                encoder_hidden_states_image=None if image is None else image.to(x),
                return_dict=False,
            )[0].float()
