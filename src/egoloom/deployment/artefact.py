"""Opens what can be deployed: an artefact folder, a single ONNX file, or a checkpoint folder.

Shape letters: V clips (views), T frames, H height, W width, K classes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from egoloom.deployment.card import CARD_NAME, Card, parse_card, read_card
from egoloom.deployment.targets import Runtime, get_target
from egoloom.errors import UserError

ALLOWED = "an .onnx file that `egoloom export` wrote, an artefact folder, or a checkpoint folder"


class DeployedStudent:
    """A student ready to run on frames, whatever the runtime.

    Args:
        card: What it is.
        runtime: The loaded clip graph.
        path: Where it came from.
    """

    def __init__(self, card: Card, runtime: Runtime, path: Path) -> None:
        self.card = card
        self.runtime = runtime
        self.path = path

    def __repr__(self) -> str:
        size = self.card.input
        heads = ", ".join(f"{head} {len(names)}" for head, names in self.card.class_names.items())
        return (
            f"DeployedStudent({self.card.architecture}, {self.card.target} {self.card.precision}, "
            f"{size.num_frames} x {size.size_px} px, {heads})"
        )

    def log_probs(self, frames_VTCHW: np.ndarray) -> dict[str, np.ndarray]:
        """Returns calibrated log-probabilities ``[V, K]`` a head.

        Args:
            frames_VTCHW: uint8 RGB ``[V, num_frames, 3, size_px, size_px]`` as the card says.

        Raises:
            ValueError: If the frames do not fit the card.
        """
        size = self.card.input
        wanted = (size.num_frames, 3, size.size_px, size.size_px)
        if frames_VTCHW.dtype != np.uint8 or frames_VTCHW.shape[1:] != wanted:
            raise ValueError(
                f"Frames must be uint8 [V, {', '.join(map(str, wanted))}], got {frames_VTCHW.dtype} "
                f"{list(frames_VTCHW.shape)}"
            )
        if self.card.dynamic_batch:
            return self.runtime.run({"rgb": frames_VTCHW})
        parts = [self.runtime.run({"rgb": frames_VTCHW[i : i + 1]}) for i in range(len(frames_VTCHW))]
        return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}


def average_views(log_probs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns log-probabilities ``[K]`` of a video from those of its views ``[V, K]``.

    The mean of the logits, normalised again; a log-softmax is its logits up to a constant, so the result is the same.
    """
    means = {head: scores.mean(axis=0, dtype=np.float64) for head, scores in log_probs.items()}
    return {head: mean - np.log(np.exp(mean - mean.max()).sum()) - mean.max() for head, mean in means.items()}


def load_student(path: Path | str, *, num_threads: int = 0) -> DeployedStudent:
    """Opens a student for inference.

    Args:
        path: An ``.onnx`` file written by ``egoloom export``, an artefact folder, or a checkpoint (or run) folder.
        num_threads: Threads of the runtime; 0 uses all cores.

    Raises:
        UserError: If the path is missing, is none of these, is damaged, comes from a newer version, or its runtime is
            not installed.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no model at {path}", allowed=ALLOWED, fix="egoloom export RUN --out " + str(path))
    if path.is_file():
        return _load_onnx_file(path, num_threads)
    folder = checkpoint_folder(path)
    if is_checkpoint(folder):
        return _load_checkpoint(folder, num_threads)
    if not (path / CARD_NAME).is_file():
        raise UserError(f"{path} holds no model", allowed=ALLOWED)
    card = read_card(path)
    target = get_target(card.target)
    target.require()
    return DeployedStudent(card, target.load(_file_of(path, card, "clip"), num_threads=num_threads), path)


def load_step(path: Path | str, *, num_threads: int = 0) -> tuple[Card, Runtime]:
    """Opens the step graph of an artefact or checkpoint, for streaming.

    Raises:
        UserError: As `load_student`, or if the student cannot stream.
    """
    path = Path(path)
    if path.is_file():
        raise UserError(
            f"{path} is a single file for whole clips; a stream needs the step graph beside it",
            fix="egoloom export RUN --out FOLDER, then egoloom stream FOLDER",
        )
    folder = checkpoint_folder(path)
    if path.is_dir() and is_checkpoint(folder):
        from egoloom.deployment.card import StreamCard
        from egoloom.deployment.graph import step_graph
        from egoloom.deployment.targets.torch_runtime import TorchRuntime
        from egoloom.models import Recogniser

        model = Recogniser.from_pretrained(folder)
        card = checkpoint_card(folder, model)
        graph = step_graph(model, card.temperature, card.input, batch=1)
        shapes = {name: tuple(value.shape[1:]) for name, value in graph.inputs.items() if name != "frame"}
        return card.model_copy(update={"stream": StreamCard(file="", state_shapes=shapes)}), TorchRuntime(
            graph, num_threads
        )
    if not path.is_dir():
        raise UserError(f"There is no model at {path}", allowed=ALLOWED, fix="egoloom export RUN --out " + str(path))
    card = read_card(path)
    if card.stream is None:
        raise UserError(
            f"{path} cannot stream: its network is not causal",
            fix='train with --model.options \'{"temporal_shift": "causal"}\' and export again',
        )
    target = get_target(card.target)
    target.require()
    return card, target.load(_file_of(path, card, "stream"), num_threads=num_threads)


def checkpoint_folder(path: Path) -> Path:
    """Returns the checkpoint that a path means: itself, or ``checkpoints/best`` of a run folder."""
    best = path / "checkpoints" / "best"
    return best if best.is_dir() else path


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds trained weights and no artefact card of ours (a ``torch`` artefact holds both)."""
    if not (folder / "config.json").is_file():
        return False
    path = folder / CARD_NAME
    return not path.is_file() or '"egoloom-artefact"' not in path.read_text(encoding="utf-8", errors="replace")


def checkpoint_card(folder: Path, model) -> Card:
    """Returns the card of a checkpoint that is run by PyTorch as it is."""
    from egoloom.deployment.card import training_card

    return Card.model_validate(
        {
            "architecture": model.architecture,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "target": "torch",
            **training_card(folder, model.heads),
        }
    )


def _load_checkpoint(folder: Path, num_threads: int) -> DeployedStudent:
    from egoloom.deployment.graph import clip_graph
    from egoloom.deployment.targets.torch_runtime import TorchRuntime
    from egoloom.models import Recogniser

    model = Recogniser.from_pretrained(folder)
    card = checkpoint_card(folder, model)
    graph = clip_graph(model, card.temperature, card.input, batch=1)
    return DeployedStudent(card, TorchRuntime(graph, num_threads), folder)


def _load_onnx_file(path: Path, num_threads: int) -> DeployedStudent:
    from egoloom.deployment.targets.onnx_runtime import METADATA_KEY, load_session

    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path} is not a model", allowed=ALLOWED)
    runtime = load_session(path, num_threads=num_threads)
    text = runtime.metadata.get(METADATA_KEY)
    if not text:
        raise UserError(f"{path} is an ONNX model, but not one of EgoLoom: it carries no card", allowed=ALLOWED)
    return DeployedStudent(parse_card(text, f"the card in {path}"), runtime, path)


def _file_of(folder: Path, card: Card, role: str) -> Path:
    name = card.files.get(role, "")
    path = folder / name
    if not name or Path(name).name != name or (card.target != "torch" and not path.is_file()):
        raise UserError(
            f"The artefact {folder} is damaged: its {role} file {name!r} is missing",
            fix=f"egoloom export RUN --out {folder}",
        )
    return path
