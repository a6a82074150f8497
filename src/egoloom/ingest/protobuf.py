"""Just enough of the protocol-buffer wire format and of pickle to read EPIC's hand-object files without unpickling.

The published files are pickled lists of byte strings; each is one serialised ``Detections`` message:
``video_id = 1, frame_number = 2, hands = 3 {bbox = 1, score = 2, state = 3, object_offset = 4, side = 5},
objects = 4 {bbox = 1, score = 2}``, a box being four floats left, top, right, bottom.
"""

import pickletools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from egoloom.errors import UserError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
BYTE_STRINGS = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
# Opcodes that only build a list of byte strings. Anything else could name code to run, and is refused.
HARMLESS = BYTE_STRINGS | {
    "PROTO",
    "FRAME",
    "EMPTY_LIST",
    "MARK",
    "MEMOIZE",
    "BINPUT",
    "LONG_BINPUT",
    "BINGET",
    "LONG_BINGET",
    "APPEND",
    "APPENDS",
    "STOP",
}


@dataclass(frozen=True)
class Detection:
    """One detected hand or object.

    Attributes:
        is_hand: Whether it is a hand.
        score: Confidence.
        ltrb: Left, top, right, bottom, as stored (relative to the frame's size).
        side: 0 left, 1 right; -1 for objects.
        state: Contact state 0-4 (none, self, another person, portable object, stationary object); -1 for objects.
    """

    is_hand: bool
    score: float
    ltrb: tuple[float, float, float, float]
    side: int = -1
    state: int = -1


@dataclass(frozen=True)
class FrameDetections:
    """All detections of one frame."""

    video_id: str
    frame_number: int
    detections: tuple[Detection, ...] = field(default=())


def read_hand_object_file(path: Path) -> list[FrameDetections]:
    """Reads a published hand-object file of EPIC-KITCHENS-100.

    Raises:
        UserError: If it is damaged, or a pickle of anything but byte strings.
    """
    return [parse_frame(message, f"{path}: entry {index}") for index, message in enumerate(pickled_bytes(path))]


def pickled_bytes(path: Path) -> list[bytes]:
    """Returns the byte strings of a pickled list without executing the pickle.

    Raises:
        UserError: If it holds anything else, with the way to convert it.
    """
    messages: list[bytes] = []
    try:
        content = path.read_bytes()
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in HARMLESS:
                raise UserError(
                    f"{path} is a pickle that could run code ({opcode.name}); it is not opened",
                    allowed="a pickled list of byte strings",
                    fix="convert it to CSV, JSON or npz with the program that wrote it",
                )
            if opcode.name in BYTE_STRINGS:
                assert isinstance(argument, bytes)
                messages.append(argument)
            elif opcode.name in {"BINGET", "LONG_BINGET"}:
                raise UserError(f"{path}: repeated entries are not expected in a hand-object file")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except (ValueError, IndexError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise UserError(f"{path} is not a pickle, or is damaged: {error}", fix="download it again") from error
    return messages


def parse_frame(message: bytes, where: str) -> FrameDetections:
    """Parses one ``Detections`` message.

    Raises:
        UserError: If it is malformed.
    """
    video_id, frame_number, detections = "", 0, []
    try:
        for number, value in _fields(message):
            if number == 1 and isinstance(value, bytes):
                video_id = value.decode("utf-8")
            elif number == 2 and isinstance(value, int):
                frame_number = value
            elif number in (3, 4) and isinstance(value, bytes):
                detections.append(_detection(value, is_hand=number == 3))
    except (IndexError, struct.error, ValueError) as error:
        raise UserError(f"{where} is not a hand-object message: {error}") from error
    return FrameDetections(video_id, frame_number, tuple(detections))


def _detection(message: bytes, *, is_hand: bool) -> Detection:
    values: dict[int, int | float] = {}
    box: dict[int, float] = {}
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            box = {n: v for n, v in _fields(value) if isinstance(v, float)}
        elif isinstance(value, int | float):
            values[number] = value
    ltrb = (box.get(1, 0.0), box.get(2, 0.0), box.get(3, 0.0), box.get(4, 0.0))  # proto3 leaves zeros out
    side, state = (int(values.get(5, 0)), int(values.get(3, 0))) if is_hand else (-1, -1)
    return Detection(is_hand, float(values.get(2, 0.0)), ltrb, side, state)


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(message, position)
            yield number, value
        elif kind == FIXED32:
            yield number, struct.unpack_from("<f", message, position)[0]
            position += 4
        elif kind == FIXED64:
            yield number, struct.unpack_from("<d", message, position)[0]
            position += 8
        elif kind == LENGTH:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("a field ends beyond its message")
            yield number, message[position : position + length]
            position += length
        else:
            raise ValueError(f"unknown wire type {kind}")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
