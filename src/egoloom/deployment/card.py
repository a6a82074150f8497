"""The card of an artefact: everything that a device needs to know beside the weights."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from egoloom.errors import UserError

CARD_NAME = "card.json"
FORMAT = "egoloom-artefact"
FORMAT_VERSION = 1
Precision = Literal["fp32", "fp16", "int8"]

FROZEN = ConfigDict(frozen=True, extra="forbid")


class InputCard(BaseModel):
    """What goes in: uint8 RGB frames ``[batch, num_frames, 3, size_px, size_px]``; normalisation is in the graph.

    Attributes:
        sampling: How the training chose moments; devices use ``seconds_between_frames``.
        mean: Subtracted inside the graph, on 0..1; for information.
        std: Divided by inside the graph, on 0..1; for information.
    """

    model_config = FROZEN

    num_frames: PositiveInt = 8
    size_px: PositiveInt = 224
    seconds_between_frames: PositiveFloat = 0.25
    sampling: str = "strided"
    layout: Literal["BTCHW"] = "BTCHW"
    dtype: Literal["uint8"] = "uint8"
    colour_order: Literal["RGB"] = "RGB"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def window_s(self) -> float:
        """Seconds from the first to the last frame of a clip."""
        return (self.num_frames - 1) * self.seconds_between_frames


class StreamCard(BaseModel):
    """The step graph: one frame and the cached features in, logits (over temperature) and new features out."""

    model_config = FROZEN

    file: str
    state_shapes: dict[str, tuple[int, ...]]


class Card(BaseModel):
    """``card.json`` of an artefact; the same text is embedded in an ONNX file's metadata.

    Attributes:
        class_names: Head to the names of its classes.
        temperature: Head to temperature; it is applied inside the graph, so that outputs are calibrated.
        files: Role (``"clip"``, ...) to file name.
        parity: What the gate measured against PyTorch.
        latency_ms: Median of one clip on the exporting machine.
    """

    model_config = FROZEN

    format: Literal["egoloom-artefact"] = FORMAT
    format_version: int = FORMAT_VERSION
    architecture: str = ""
    num_parameters: int = 0
    gmacs_per_clip: float | None = None
    target: str = "onnx"
    precision: Precision = "fp32"
    dynamic_batch: bool = True
    class_names: dict[str, list[str]] = Field(min_length=1)
    temperature: dict[str, PositiveFloat] = Field(default_factory=dict)
    input: InputCard = Field(default_factory=InputCard)
    files: dict[str, str] = Field(default_factory=dict)
    stream: StreamCard | None = None
    parity: dict[str, float | int | str | None] = Field(default_factory=dict)
    latency_ms: float | None = None
    weights_hash: str = ""
    licence_note: str = ""
    trained_on: dict[str, Any] = Field(default_factory=dict)
    written_by: str = ""

    @property
    def main_head(self) -> str:
        """The head that names an action: ``"action"`` where it exists, else the first."""
        return "action" if "action" in self.class_names else next(iter(self.class_names))

    def to_json(self) -> str:
        """Returns the text of ``card.json``."""
        return self.model_dump_json(indent=1) + "\n"


def parse_card(text: str, origin: str) -> Card:
    """Returns the card in a text.

    Args:
        text: JSON.
        origin: Where it came from, for messages.

    Raises:
        UserError: If it is no card, or one of a newer version.
    """
    fix = "export the checkpoint again: egoloom export RUN"
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{origin} is not readable JSON: {error}", fix=fix) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{origin} does not describe an EgoLoom artefact", allowed=f'"format": "{FORMAT}"', fix=fix)
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{origin} has format version {version}: a newer EgoLoom wrote it",
            allowed=f"up to {FORMAT_VERSION}",
            fix="pip install --upgrade egoloom",
        )
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{origin}: {field} = {first.get('input')!r}: {first['msg']}", fix=fix) from error


def read_card(folder: Path) -> Card:
    """Returns the card of an artefact folder.

    Raises:
        UserError: If it is missing or damaged.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise UserError(
            f"No artefact at {folder}: {CARD_NAME} is missing", fix="egoloom export RUN --out " + str(folder)
        )
    return parse_card(path.read_text(encoding="utf-8", errors="replace"), str(path))


def training_card(folder: Path, heads: dict[str, int]) -> dict[str, Any]:
    """Returns the content of a checkpoint's ``card.json`` as arguments of `Card`; gaps are filled with plain defaults.

    Args:
        folder: The checkpoint folder; its ``card.json`` may be absent.
        heads: Head to number of classes of the network.

    Raises:
        UserError: If the card is not JSON, or its class names do not fit the network.
    """
    path = folder / CARD_NAME
    content: dict[str, Any] = {}
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not readable JSON: {error}", fix="train again, or remove the file") from error
    names = {head: content.get("class_names", {}).get(head) for head in heads}
    for head, count in heads.items():
        names[head] = names[head] or [f"{head} {index}" for index in range(count)]
        if len(names[head]) != count:
            raise UserError(
                f"{path} names {len(names[head])} classes for the head {head!r}, the network has {count}",
                fix="use the card.json that training wrote beside these weights",
            )
    view = content.get("view", {})
    fields = {key: view[key] for key in ("num_frames", "size_px", "seconds_between_frames", "sampling") if key in view}
    return {
        "class_names": names,
        "temperature": {head: float(content.get("temperature", {}).get(head, 1.0)) for head in heads},
        "input": fields,
        "licence_note": content.get("licence_note", ""),
        "trained_on": content.get("trained_on", {}),
    }
