"""Whether an ONNX file has constants in other files, told without the onnx package.

onnxruntime 1.20 reads whatever file a model names, also outside its folder; later versions read any
in it. A bundle's model is one file, whose bytes the manifest knows.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 20
KEY: Final = b"location"
"""The key under which a constant names its file; most models do not have the word at all."""

_EXTERNAL: Final = "StringStringEntryProto"
_INSIDE: Final[Mapping[str, Mapping[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: _EXTERNAL},
}
"""The messages of onnx.proto that lead to `external_data`: by field number, what is in it."""

DEEPEST: Final = 100
"""Messages inside messages, as parsers of protobuf allow."""


def has_external_data(path: Path) -> bool:
    """Whether a constant of the model in this file names another one.

    Raises:
        ValueError: the file is no protobuf message.
        OSError: it cannot be read.
    """
    return _has_word(path) and _names_files(path.read_bytes())


def _has_word(path: Path) -> bool:
    """In pieces: one search through a large model would keep other threads waiting."""
    before = b""
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            if KEY in before + piece:
                return True
            before = piece[-len(KEY) :]
    return False


def _names_files(content: bytes) -> bool:
    """Looks into messages that have the word, and into no others: those of trees are long."""
    level = [("ModelProto", (0, len(content)))]
    for _ in range(DEEPEST):
        level = [
            (_INSIDE[kind][number], inner)
            for kind, span in level
            for number, inner in _fields(content, *span)
            if number in _INSIDE[kind] and content.find(KEY, *inner) >= 0
        ]
        if any(kind == _EXTERNAL for kind, _ in level):
            return True
    if level:
        raise ValueError(f"more than {DEEPEST} messages inside each other")
    return False


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """The number of each field of a message, and where its content is."""
    while start < end:
        tag, start = _varint(content, start)
        match tag & 7:
            case 0:
                size = _varint(content, start)[1] - start
            case 1:
                size = 8
            case 2:
                size, start = _varint(content, start)
            case 5:
                size = 4
            case other:
                raise ValueError(f"a field of wire type {other}, which ONNX does not use")
        if start + size > end:
            raise ValueError("a field ends after the message that it is in")
        yield tag >> 3, (start, start + size)
        start += size


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(start, min(start + 10, len(content))):
        value |= (content[place] & 127) << (7 * (place - start))
        if content[place] < 128:
            return value, place + 1
    raise ValueError("a number that does not end")
