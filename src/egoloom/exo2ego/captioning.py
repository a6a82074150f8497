"""Captions for clips that have none, by an image-text model that lies in a local folder; nothing is downloaded.

EgoX was trained with captions of two parts, ``[Exo view]`` and ``[Ego view]``, each with a scene overview and an
analysis of the action, made from four frames of the exo video and the ego prior (arXiv 2512.08269). The ego part is
described from the prior, in training too, because generation has nothing else. The wording of the questions is ours.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError

from egoloom._optional import require_package
from egoloom.errors import UserError
from egoloom.exo2ego.lazy_samples import LazySamples, SampleSource
from egoloom.exo2ego.samples import GeneratorSample, fill_holes

if TYPE_CHECKING:
    from egoloom.exo2ego.pipeline import EgoXPipeline

NUM_FRAMES = 4
# Four parts and their headings fit into the 512 tokens that the text encoder of Wan reads.
MAX_PART_TOKENS = 112
SCENE, ACTION = "**Scene Overview:**", "**Action Analysis:**"
_FRAMES = "These frames of one video follow each other in time. "
_HALVES = (
    "Each picture has two halves of the same moment. The left half was filmed by a camera in the room. The right half "
    "is a rough rendering of what the person in it sees; its black parts are unknown, so say nothing about them. "
)
_QUESTIONS = {
    ("exo", SCENE): f"{_FRAMES}Describe the place and the objects in it.",
    (
        "exo",
        ACTION,
    ): f"{_FRAMES}Describe what the person does, step by step.",
    ("ego", SCENE): f"{_HALVES}Describe the place and the objects as that person sees them.",
    ("ego", ACTION): f"{_HALVES}Describe step by step what that person's hands and body do, as the person sees it.",
}


class Captioner:
    """Writes captions in the form that EgoX was trained with.

    A model with a chat template answers a question for each part. A plain captioner, such as BLIP, knows single
    pictures only: its sentences about the four frames become the scene overviews, and the action is not analysed.

    Args:
        folder: Local folder of a ``transformers`` image-text model with its processor; weights as safetensors.

    Raises:
        UserError: If there is no such model, or not all of its weights are there. Code in the folder is never run.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(
                f"There is no captioner at {folder}",
                allowed="a local folder of an image-text model of transformers, such as BLIP or LLaVA",
                fix="download such a model with its processor and give its folder",
            )
        transformers: Any = require_package("transformers", extra="exo2ego")
        own = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(folder, **own)
            self._model, loaded = transformers.AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **own
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder} holds no captioner that transformers can read: {error}",
                allowed="an image-text model with its processor, weights as safetensors, without code of its own",
            ) from error
        if loaded["missing_keys"]:
            raise UserError(
                f"{folder} lacks weights of its captioner, e.g. {min(loaded['missing_keys'])}",
                fix="download the model again, whole",
            )
        self._model.eval()
        self._chats = bool(getattr(self._processor, "chat_template", None))

    def __call__(self, sample: GeneratorSample) -> str:
        """Returns the caption of a clip; the same for the same clip, as no word is drawn at random."""
        frames = np.linspace(0, sample.num_frames - 1, NUM_FRAMES).round().astype(int)
        exo, prior = sample.exo_TCHW[frames], sample.prior_TCHW[frames]
        if self._chats:
            pictures = {"exo": exo, "ego": torch.cat([exo, prior], dim=3)}
            parts = {key: self._answer(pictures[key[0]], question) for key, question in _QUESTIONS.items()}
        else:
            assert sample.hole_THW is not None
            filled = fill_holes(prior, sample.hole_THW[frames])
            parts = {("exo", SCENE): self._sentences(exo), ("ego", SCENE): self._sentences(filled)}
        blocks = []
        for view, title in (("exo", "[Exo view]"), ("ego", "[Ego view]")):
            told = [f"{part}\n{text}" for (owner, part), text in parts.items() if owner == view and text]
            blocks += ["\n".join([title, told[0]]), *told[1:]] if told else []
        return "\n\n".join(blocks)

    def _answer(self, frames_TCHW: torch.Tensor, question: str) -> str:
        shown = [{"type": "image", "image": picture} for picture in _pictures(frames_TCHW)]
        turn = {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
        inputs = self._processor.apply_chat_template(
            [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return self._write(inputs)[0]

    def _sentences(self, frames_TCHW: torch.Tensor) -> str:
        said = self._write(self._processor(images=_pictures(frames_TCHW), return_tensors="pt"))
        return " ".join(f"{text.rstrip('.')}." for text in dict.fromkeys(said) if text)

    @torch.inference_mode()
    def _write(self, inputs: Any) -> list[str]:
        inputs = inputs.to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, max_new_tokens=MAX_PART_TOKENS, do_sample=False)
        asked = inputs["input_ids"].shape[1] if self._chats else 0  # a chat model repeats the question
        return [text.strip() for text in self._processor.batch_decode(tokens[:, asked:], skip_special_tokens=True)]


def _pictures(frames_TCHW: torch.Tensor) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames_TCHW]


def captions_of(samples: Iterable[GeneratorSample], folder: Path | None, pipeline: "EgoXPipeline") -> dict[str, str]:
    """Returns the caption of every clip by its name; a given caption stays. Without a folder nothing is read.

    Raises:
        UserError: If the pipeline cannot read captions, or there is no captioner in the folder.
    """
    if folder is None:
        return {}
    captioner = _captioner_for(pipeline, folder)
    return {sample.name: sample.caption or captioner(sample) for sample in samples}


def with_captions(samples: LazySamples, folder: Path | None, pipeline: "EgoXPipeline") -> LazySamples:
    """Returns samples that get a caption when they are read, where they have none; unchanged without a folder.

    Raises:
        UserError: As :func:`captions_of`.
    """
    if folder is None:
        return samples
    captioner = _captioner_for(pipeline, folder)

    def read(source: SampleSource) -> GeneratorSample:
        sample = source.read()
        return sample if sample.caption else replace(sample, caption=captioner(sample))

    # The captioner is part of what cached text embeddings are made from.
    return LazySamples(
        replace(source, origin={**source.origin, "captioner": str(folder)}, read=partial(read, source))
        for source in samples.sources
    )


def _captioner_for(pipeline: "EgoXPipeline", folder: Path) -> Captioner:
    if pipeline.text_encoder is None:
        raise UserError(
            "This generator has no text encoder, so captions would change nothing",
            allowed="--captioner with a Wan checkpoint that has text_encoder/ and tokenizer/",
            fix="leave --captioner out",
        )
    return Captioner(folder)
