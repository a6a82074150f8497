"""Writes small Project Aria recordings (Gen 1): the parts of the VRS container that such a file needs.

Format: the comments of ``FileFormat.h``, ``IndexRecord.h`` and ``DescriptionRecord.cpp`` in facebookresearch/vrs, and
the layouts that Gen 1 recordings carry in the tags of their streams. Nothing is compressed.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIGURATION, DATA = 2, 3  # kinds of records
VRS_DESCRIPTION, VRS_INDEX = 1, 2  # streams of VRS itself
DESCRIPTION_VERSION, INDEX_VERSION = 2, 2
FILE_HEADER, RECORD_HEADER = struct.Struct("<4s4sQIIqqq24x4s4s"), struct.Struct("<IIiIdHBBI")
END_OF_TIME = float.fromhex("0x1.fffffffffffffp+1023")
CODES = {"uint8_t": "B", "Bool": "B", "uint32_t": "I", "uint64_t": "Q", "int64_t": "q", "double": "d", "float": "f"}


@dataclass(frozen=True)
class Layout:
    """Named values of one record: fixed ones (type, and length of arrays), then strings or vectors.

    Attributes:
        version: Format version of the record.
        fixed: Name to type, or to type and length.
        variable: Name to ``"string"`` or the type of a vector's elements.
        content: What follows, in VRS's words, for instance ``image/jpg``.
    """

    version: int
    fixed: dict[str, str | tuple[str, int]]
    variable: dict[str, str] = field(default_factory=dict)
    content: str = ""

    def describe(self) -> str:
        """Returns the layout as VRS writes it into a stream's tags."""
        pieces: list[dict[str, Any]] = []
        offset = 0
        for name, kind in self.fixed.items():
            type_name, length = (kind, 0) if isinstance(kind, str) else kind
            container = "DataPieceArray" if length else "DataPieceValue"
            pieces.append({"name": name, "type": f"{container}<{type_name}>", "offset": offset})
            if length:
                pieces[-1]["size"] = length
            offset += struct.calcsize(f"<{max(1, length)}{CODES[type_name]}")
        for index, (name, kind) in enumerate(self.variable.items()):
            type_name = "DataPieceString" if kind == "string" else f"DataPieceVector<{kind}>"
            pieces.append({"name": name, "type": type_name, "index": index})
        return json.dumps({"data_layout": pieces}, separators=(",", ":"))

    def pack(self, values: dict[str, Any]) -> bytes:
        """Returns the bytes of a record; what is not given is zero or empty."""
        packed = b""
        for name, kind in self.fixed.items():
            type_name, length = (kind, 1) if isinstance(kind, str) else kind
            value = values.get(name, 0)
            packed += struct.pack(
                f"<{length}{CODES[type_name]}", *(value if isinstance(value, tuple) else [value] * length)
            )
        table, tail = b"", b""
        for name, kind in self.variable.items():
            value = values.get(name, "")
            coded = value.encode() if kind == "string" else struct.pack(f"<{len(value)}{CODES[kind]}", *value)
            table += struct.pack("<II", len(tail), len(coded))
            tail += coded
        return packed + table + tail


@dataclass
class Stream:
    """One sensor: its type (214 RGB camera, 1202 IMU, 231 microphones), number, layouts and records."""

    type_id: int
    number: int
    name: str
    configuration_layout: Layout
    data_layout: Layout
    configuration: dict[str, Any]
    records: list[tuple[float, dict[str, Any], bytes]]  # seconds, values, content behind them

    def tags(self) -> dict[str, str]:
        """Returns VRS's own tags, which describe the records."""
        tags = {"VRS_Original_Recordable_Name": self.name, "VRS_Recordable_Flavor": "device/aria"}
        for kind, layout in (("Configuration", self.configuration_layout), ("Data", self.data_layout)):
            tags[f"DL:{kind}:{layout.version}:0"] = layout.describe()
            tags[f"RF:{kind}:{layout.version}"] = "data_layout" + layout.content
        return tags


def write_vrs(path: Path, streams: list[Stream], file_tags: dict[str, str]) -> None:
    """Writes a recording: header, description, records in the order of time, index."""
    records = [
        (s.configuration_layout, 5e-324, s, CONFIGURATION, s.configuration_layout.pack(s.configuration))
        for s in streams
    ]
    records += [
        (s.data_layout, time_s, s, DATA, s.data_layout.pack(values) + content)
        for s in streams
        for time_s, values, content in s.records
    ]
    records.sort(key=lambda record: record[1])
    description = struct.pack("<I", len(streams))
    for stream in streams:
        description += struct.pack("<iH", stream.type_id, stream.number) + _map({}) + _map(stream.tags())
    description += _map(file_tags)
    body = _record(VRS_DESCRIPTION, 0, DESCRIPTION_VERSION, END_OF_TIME, DATA, description, 0)
    previous, index = len(body), b""
    for layout, time_s, stream, kind, payload in records:
        coded = _record(stream.type_id, stream.number, layout.version, time_s, kind, payload, previous)
        index += struct.pack("<dIBiH", time_s, len(coded), kind, stream.type_id, stream.number)
        body, previous = body + coded, len(coded)
    ids = b"".join(struct.pack("<iH", stream.type_id, stream.number) for stream in streams)
    index = struct.pack("<I", len(streams)) + ids + struct.pack("<I", len(records)) + index
    index_at = FILE_HEADER.size + len(body)
    header = (1, FILE_HEADER.size, RECORD_HEADER.size, index_at, FILE_HEADER.size, 0)
    with path.open("wb") as handle:
        handle.write(FILE_HEADER.pack(b"Visi", b"onRe", *header, b"cord", b"VRS1") + body)
        handle.write(_record(VRS_INDEX, 0, INDEX_VERSION, END_OF_TIME, DATA, index, previous))


def _record(
    type_id: int, number: int, version: int, time_s: float, kind: int, payload: bytes, previous_size: int
) -> bytes:
    size = RECORD_HEADER.size + len(payload)
    return RECORD_HEADER.pack(size, previous_size, type_id, version, time_s, number, kind, 0, 0) + payload


def _map(entries: dict[str, str]) -> bytes:
    texts = [text.encode() for pair in entries.items() for text in pair]
    return struct.pack("<I", len(entries)) + b"".join(struct.pack("<I", len(text)) + text for text in texts)
