"""``egoloom demo``: every stage of the loop once, with the same classes that run at full size."""

import json
from pathlib import Path
from typing import Any

from egoloom.clips.files import write_text
from egoloom.recipes.demo import exo2ego, recognition
from egoloom.recipes.demo.config import DemoConfig
from egoloom.recipes.demo.data import DemoData, describe_data, make_data
from egoloom.recipes.demo.stages import Stages
from egoloom.recipes.run_config import prepare_run_folder


def run_demo(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Runs the whole loop, or what an interrupted run has left to do.

    Args:
        config: Sizes and data.
        out: Run folder; gets ``metrics.json``, ``report.html``, ``student.onnx`` and everything on the way.

    Returns:
        The content of ``metrics.json``.
    """
    from egoloom.report import write_report

    prepare_run_folder(out, config, resume=True)
    data = describe_data(config, out)
    stages = Stages(out / "stages")
    sources = {} if config.data is None else stages.run("sources", "every folder", lambda: bring_in(config, out))
    sizes = stages.run("data", f"data: {data.source}", lambda: make_data(config, data))
    teachers = stages.run("teachers", "one teacher a modality", lambda: recognition.train_teachers(config, data, out))
    student = stages.run(
        "student", "RGB-only student, taught by all", lambda: recognition.train_student(config, data, out)
    )
    generator = stages.run(
        "generator", "tiny EgoX: a LoRA on the takes at hand", lambda: exo2ego.adapt_tiny_egox(config, data, out)
    )
    pictures = stages.run(
        "pictures", "prior and generated against truth", lambda: exo2ego.measure_pictures(config, data, out)
    )
    generated = stages.run(
        "generated", "third-person clips become ego clips", lambda: exo2ego.generate_marked(config, data, out)
    )
    mixed = stages.run(
        "student_with_generated",
        "student with generated clips in the mixture",
        lambda: recognition.train_with_generated(config, data, out, out / "clips" / "generated"),
    )
    mixtures = {} if data.is_real else {"augmentation": _compare_mixtures(config, data, out, stages)}
    export = stages.run("export", "student to ONNX, checked", lambda: export_and_check(data, out))
    metrics: dict[str, Any] = {
        "source": data.source,
        **({"sources": sources} if sources else {}),
        **sizes,
        "recognition": {
            **{name: teachers[name] for name in data.teachers},
            "teacher": student["teacher"],
            "student": student["student"],
            "student_with_generated": mixed["student_with_generated"],
            "generated_share": mixed["generated_share"],
            "max_generated_share": mixed["max_generated_share"],
        },
        "exo2ego": {**pictures, "generator": generator},
        **generated,
        **mixtures,
        "export": export,
        "seconds_per_stage": stages.seconds,
    }
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    recognition.write_report_inputs(data, out)
    write_text(out / "report" / "notes.json", json.dumps(list(data.notes), indent=1))
    write_report(out)
    return metrics


def _compare_mixtures(config: DemoConfig, data: DemoData, out: Path, stages: Stages) -> dict[str, Any]:
    """The small augmentation experiment; real takes bring no labels, so there it cannot be run."""
    from egoloom.recipes.demo.experiment import compare_mixtures

    title = "small experiment: what third-person clips add to few labels"
    return stages.run("augmentation", title, lambda: compare_mixtures(config, data, out))


def bring_in(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Makes a store of every folder of recordings and prints what is in it."""
    from rich.console import Console

    from egoloom.recipes.demo.sources import ingest_every_source, show_sources

    assert config.data is not None
    found = ingest_every_source(config.data, out / "sources")
    show_sources(found, Console())
    return found


def export_and_check(data: DemoData, out: Path) -> dict[str, Any]:
    """Exports the student and compares it with PyTorch on clips of the test split."""
    from egoloom.clips import ClipStore, Modality
    from egoloom.clips.dataset import ClipDataset, ViewKey, collate, entries_of
    from egoloom.deployment import export_student

    entries = entries_of(ClipStore.open(data.recognition), split="test", labelled=True)
    dataset = ClipDataset(entries, [Modality.RGB], recognition.VIEW, is_training=False)
    clips = collate([dataset[ViewKey(index, 0)] for index in range(min(16, len(dataset)))])["inputs"]["rgb"].numpy()
    run = out / "student"
    export_student(run, out / "artefact", parity_clips=clips)
    result = export_student(run, out / "student.onnx", parity_clips=clips)
    return {
        "max_abs_diff": result.max_abs_diff,
        "top1_agreement": result.top1_agreement,
        "latency_ms": result.latency_ms,
        "num_bytes": (out / "student.onnx").stat().st_size,
    }
