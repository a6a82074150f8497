"""Captions: from real, tiny, random image-text models against their own words; given ones win; bad folders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from egoloom.augmentation.generator_inputs import find_takes
from egoloom.cli.exo2ego import main
from egoloom.errors import UserError
from egoloom.exo2ego.captioning import Captioner, captions_of, with_captions
from egoloom.exo2ego.lazy_samples import LazySamples, SampleSource
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.samples import GeneratorSample, fill_holes
from egoloom.exo2ego.training import generator_loss, train_generator
from egoloom.exo2ego.training_cache import cache_clips, stack_clips
from egoloom.exo2ego.training_config import GeneratorTraining

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<image>", "user", ":", "a", "person", "kicks", "the", "ball", "red",
    "room", "in", "and", "table",
]  # fmt: skip
ANSWER_FRAMES = [0, 3, 5, 8]  # four of nine frames, evenly


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory) -> Path:
    """BLIP with random weights: a captioner of single pictures."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 256,
            "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}  # fmt: skip
    torch.manual_seed(3)
    config = BlipConfig(vision_config={**sizes, "image_size": 32, "patch_size": 8}, text_config=text)
    model = BlipForConditionalGeneration(config)
    for name, parameter in model.named_parameters():  # words that depend on the picture
        if "crossattention" in name or "vision_model.embeddings" in name:
            parameter.data = torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(processor, BertTokenizerFast(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory) -> Path:
    """LLaVA with random weights: it has a chat template and answers questions about several pictures."""
    from transformers import (
        BertTokenizerFast,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = tmp_path_factory.mktemp("llava")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=16, projection_dim=16)
    language = LlamaConfig(**sizes, vocab_size=len(WORDS), max_position_embeddings=1024, eos_token_id=3, pad_token_id=0)
    torch.manual_seed(0)
    image_token = WORDS.index("<image>")
    config = LlavaConfig(vision_config=vision, text_config=language, image_token_id=image_token, image_seq_length=4)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), additional_special_tokens=["<image>"])
    template = (
        "{% for m in messages %}user : {% for part in m['content'] %}"
        "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        pictures, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def pictures(frames_TCHW: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(frames_TCHW[index].permute(1, 2, 0).numpy()) for index in ANSWER_FRAMES]


def test_a_plain_captioners_sentences_become_both_scenes(blip_folder: Path, sample: GeneratorSample) -> None:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    captioner = Captioner(blip_folder)
    caption = captioner(sample)
    model = BlipForConditionalGeneration.from_pretrained(blip_folder).eval()
    processor = BlipProcessor.from_pretrained(blip_folder)
    scenes = []
    for frames in (sample.exo_TCHW, fill_holes(sample.prior_TCHW, sample.hole_THW)):
        inputs = processor(images=pictures(frames), return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=112, do_sample=False)
        said = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
        scenes.append(" ".join(f"{text}." for text in dict.fromkeys(said)))
    assert len(scenes[0]) > 10
    assert scenes[0] != scenes[1]
    assert caption == f"[Exo view]\n**Scene Overview:**\n{scenes[0]}\n\n[Ego view]\n**Scene Overview:**\n{scenes[1]}"
    assert captioner(sample) == caption


def test_a_chat_model_answers_a_question_for_each_part(llava_folder: Path, sample: GeneratorSample) -> None:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    captioner = Captioner(llava_folder)
    seen = []
    tower = captioner._model.get_submodule("model.vision_tower")
    tower.register_forward_pre_hook(
        lambda module, inputs, given: seen.append(inputs[0] if inputs else given["pixel_values"]), with_kwargs=True
    )
    caption = captioner(sample)
    assert [len(pixels) for pixels in seen] == [4, 4, 4, 4]
    titles = [line for line in caption.splitlines() if line.startswith(("[", "**"))]
    part = ["**Scene Overview:**", "**Action Analysis:**"]
    assert titles == ["[Exo view]", *part, "[Ego view]", *part]
    # The first answer again, from words instead of the template.
    model, processor = (
        LlavaForConditionalGeneration.from_pretrained(llava_folder).eval(),
        LlavaProcessor.from_pretrained(llava_folder),
    )
    question = "These frames of one video follow each other in time. Describe the place and the objects in it."
    inputs = processor(images=pictures(sample.exo_TCHW), text=f"user : {'<image> ' * 4}{question}", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=112, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    answer = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert len(answer) > 10
    assert caption.startswith(f"[Exo view]\n**Scene Overview:**\n{answer}\n\n**Action Analysis:**\n")
    beside = torch.cat([sample.exo_TCHW, sample.prior_TCHW], dim=3)
    expected = processor.image_processor(images=pictures(beside), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(seen[2], expected)


def test_a_given_caption_wins(blip_folder: Path, wan_folder: Path, sample: GeneratorSample) -> None:
    pipeline = EgoXPipeline.from_wan(wan_folder, torch_dtype=torch.float32)
    clips = [sample, replace(sample, caption="a red room")]
    clips[1] = replace(clips[1], name="captioned")
    captions = captions_of(clips, blip_folder, pipeline)
    assert captions[sample.name].startswith("[Exo view]")
    assert captions["captioned"] == "a red room"
    assert captions_of(clips, None, pipeline) == {}
    sources = [
        SampleSource(
            clip.name, {"name": clip.name}, lambda clip=clip: clip, lambda clip=clip: (clip.exo_TCHW, clip.prior_TCHW)
        )
        for clip in clips
    ]
    lazy = LazySamples(sources)
    described = with_captions(lazy, blip_folder, pipeline)
    assert {clip.name: clip.caption for clip in described} == captions
    assert described.sources[0].origin == {"name": sample.name, "captioner": str(blip_folder)}
    assert with_captions(lazy, None, pipeline) is lazy


def test_captions_of_takes_reach_the_generator_and_lie_beside_the_videos(
    egox_folder, blip_folder: Path, wan_folder: Path, tmp_path: Path, capsys
) -> None:
    given = egox_folder(9, prompt="[Exo view] a person kicks the ball")
    clip, _ = find_takes(given, 64, 9)[0].sample()
    assert clip.caption == "[Exo view] a person kicks the ball"
    silent = egox_folder(5, prompt=None)
    options = ["--model", str(wan_folder), "--num-frames", "5", "--size-px", "32", "--steps", "1", "--guidance", "2"]
    options += ["--captioner", str(blip_folder), "--json"]
    for name, folder in (("given", given), ("silent", silent)):
        main(["generate", str(folder), *options, "--out", str(tmp_path / name)])
    assert (tmp_path / "given/wall.caption.txt").read_text() == "[Exo view] a person kicks the ball\n"
    text = (tmp_path / "silent/wall.caption.txt").read_text()
    assert text.startswith("[Exo view]\n**Scene Overview:**\n")
    assert "\n[Ego view]\n" in text
    capsys.readouterr()
    (tmp_path / "silent/wall.caption.txt").write_text("of the finished video")
    main(["generate", str(silent), *options, "--out", str(tmp_path / "silent")])
    assert json.loads(capsys.readouterr().out)["clips"][0]["kept"]
    assert (tmp_path / "silent/wall.caption.txt").read_text() == "of the finished video"


def test_training_captions_takes_too(egox_folder, blip_folder: Path, wan_folder: Path, tmp_path: Path) -> None:
    words = ["train", "tiny-lora", "--store", str(egox_folder(5)), "--steps", "1", "--captioner", str(blip_folder)]
    main([*words, "--base", str(wan_folder), "--out", str(tmp_path / "run")])
    assert (tmp_path / "run/lora/pytorch_lora_weights.safetensors").is_file()
    with pytest.raises(UserError, match="no text encoder, so captions would change nothing"):
        main([*words, "--out", str(tmp_path / "other")])


def test_bad_folders(blip_folder: Path, wan_folder: Path, egox_folder, sample: GeneratorSample, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no captioner at"):
        Captioner(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no captioner"):
        Captioner(empty)
    with pytest.raises(UserError, match="holds no captioner"):
        Captioner(wan_folder / "text_encoder")  # a model, but of text alone
    with pytest.raises(UserError, match="no text encoder"):
        main(["generate", str(egox_folder(5)), "--captioner", str(blip_folder), "--out", str(tmp_path / "out")])
    assert not list((tmp_path / "out").glob("*"))


def copy_without_weights(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_pickled_incomplete_and_foreign_weights_are_refused(blip_folder: Path, tmp_path: Path) -> None:
    weights = load_file(blip_folder / "model.safetensors")
    pickled = copy_without_weights(blip_folder, tmp_path / "pickled")
    torch.save(weights, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds no captioner"):
        Captioner(pickled)
    part = copy_without_weights(blip_folder, tmp_path / "part")
    name = next(key for key in weights if key.endswith("query.weight"))
    save_file(
        {key: value for key, value in weights.items() if key != name}, part / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match="lacks weights of its captioner"):
        Captioner(part)
    foreign = copy_without_weights(blip_folder, tmp_path / "foreign")
    mark = tmp_path / "code_was_run"
    (foreign / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Model: pass\nclass Config: pass\n")
    automatic = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    (foreign / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": automatic}))
    with pytest.raises(UserError, match="holds no captioner"):
        Captioner(foreign)
    assert not mark.exists()


def test_a_dropped_caption_is_the_unconditional_branch_of_generation(wan_folder: Path, make_sample) -> None:
    """Guidance compares with what training called no caption: the text encoder's own word for nothing, not zeros."""
    pipeline = EgoXPipeline.from_wan(wan_folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    clip = replace(make_sample(5), caption="a person kicks the ball")
    texts = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, inputs, given: texts.append(given["encoder_hidden_states"]), with_kwargs=True
    )
    pipeline(clip, num_inference_steps=1, guidance_scale=5.0)
    conditional, unconditional = texts
    batch = stack_clips(cache_clips(pipeline, [clip]))
    for dropout, expected in ((0.0, conditional), (1.0, unconditional)):
        config = GeneratorTraining(caption_dropout=dropout)
        generator_loss(pipeline, batch, config, torch.Generator().manual_seed(0))
        torch.testing.assert_close(texts[-1], expected)
    assert unconditional.abs().max() > 0
    assert not torch.allclose(conditional, unconditional)
    # Half of the clips: those that the generator's own draw picks.
    many = stack_clips([batch] * 64)
    generator_loss(pipeline, many, GeneratorTraining(caption_dropout=0.5), torch.Generator().manual_seed(0))
    is_empty = [torch.allclose(row, unconditional[0]) for row in texts[-1]]
    assert 16 < sum(is_empty) < 48
    assert all(empty or torch.allclose(row, conditional[0]) for row, empty in zip(texts[-1], is_empty, strict=True))


def test_a_lora_on_a_half_precision_base_learns_in_full_precision(wan_folder: Path, make_sample) -> None:
    pipeline = EgoXPipeline.from_wan(wan_folder)
    assert pipeline.transformer.dtype == torch.bfloat16
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    config = GeneratorTraining(num_steps=3, learning_rate=2e-5, warmup_steps=0, lora_rank=2, mixed_precision="bf16")
    train_generator([make_sample(5)], config, pipeline, show_progress=False)
    lora = {name: value for name, value in pipeline.transformer.named_parameters() if "lora_" in name}
    assert {value.dtype for value in lora.values()} == {torch.float32}
    # Steps of 2e-5 are below half of bfloat16's spacing around the first weights of A, 0.1 to 1.
    assert any((value != value.bfloat16().float()).any() for name, value in lora.items() if "lora_A" in name)
    after = pipeline.transformer.state_dict()
    for name, value in before.items():
        stem, _, leaf = name.rpartition(".")
        assert torch.equal(after[name] if name in after else after[f"{stem}.base_layer.{leaf}"], value), name
