"""MATLAB files of level 5 (its options -v6 and -v7): integer matrices and name lists.

scipy reads these too, but a few damaged bytes can crash it together with the process,
and it stops before the checksum of compressed data. No TensorFlow here.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_HEADER = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_CELL, _CHAR, _DOUBLE, _UINT64, _OPAQUE = 1, 4, 6, 15, 17
_KINDS = {1: "a cell array", 2: "a struct", 3: "an object", 4: "text", 5: "sparse"}
_COMPLEX = 0x800
_LARGEST = 1 << 29

_Element = tuple[int, memoryview]


class OtherKind(Exception):
    """A variable that holds something else; the text says what."""


class _Variable(NamedTuple):
    """A variable whose head was read."""

    name: str
    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    parts: Iterator[_Element]
    order: str


def read_matrix(encoded: bytes, name: str) -> np.ndarray | None:
    """The numbers of a variable, in MATLAB's order; None where it is not there.

    The dtype is the one they are stored in, which MATLAB chooses to fit the values.

    Raises:
      ValueError: damaged, or no file of level 5.
      OtherKind: the variable is no matrix of real numbers.
    """
    variable = _find(encoded, name)
    if variable is None:
        return None
    if not _DOUBLE <= variable.kind <= _UINT64:
        raise OtherKind(_KINDS.get(variable.kind, "of an unknown class"))
    if variable.is_complex:
        raise OtherKind("complex")
    stored, content = _only(variable.parts)
    if stored not in _NUMBERS:
        raise ValueError("a matrix without numbers")
    dtype = np.dtype(f"{variable.order}{_NUMBERS[stored]}")
    if math.prod(variable.shape) * dtype.itemsize != len(content):
        raise ValueError("another size than declared")
    values = np.frombuffer(content, dtype).reshape(variable.shape, order="F")
    return values.astype(dtype.newbyteorder("="), copy=False)


def read_names(encoded: bytes, name: str) -> list[str] | None:
    """The texts of a cell array; None where the variable is not there.

    Raises:
      ValueError: damaged, or no file of level 5.
      OtherKind: the variable is no cell array of texts.
    """
    variable = _find(encoded, name)
    if variable is None:
        return None
    if variable.kind != _CELL:
        raise OtherKind(_KINDS.get(variable.kind, "a matrix"))
    cells = [_read_head(part, variable.order) for _, part in variable.parts]
    if math.prod(variable.shape) != len(cells):
        raise ValueError("another number of cells than declared")
    return [_text(cell) for cell in cells]


def _find(encoded: bytes, name: str) -> _Variable | None:
    order = _ORDERS.get(encoded[126:_HEADER])
    if order is None:
        raise ValueError("no MATLAB file of level 5")
    for kind, content in _elements(memoryview(encoded)[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, content = _only(_elements(_inflate(content), order))
        if kind != _MATRIX:
            raise ValueError("something that is no variable")
        variable = _read_head(content, order)
        if variable.name == name:
            return variable
    return None


def _inflate(content: memoryview) -> memoryview:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(content, _LARGEST)
    except zlib.error as error:
        raise ValueError("damaged compressed data") from error
    # zlib compares the checksum when it comes to the end, so it must.
    if not inflater.eof:
        raise ValueError("compressed data that does not end, or not in time")
    return memoryview(inflated)


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    """Splits data into elements: (type, bytes)."""
    place = 0
    while place < len(content):
        if len(content) - place < 8:
            raise ValueError("ends in the middle of a variable")
        kind, length = struct.unpack_from(f"{order}II", content, place)
        start, padding = place + 8, 0
        if kind >> 16:  # type, length and up to four bytes of data in eight bytes
            kind, length, start = kind & 0xFFFF, kind >> 16, place + 4
            padding = 4 - length
        elif kind != _COMPRESSED:
            padding = -length % 8
        place = start + length + padding
        if padding < 0 or start + length > len(content):
            raise ValueError("ends in the middle of a variable")
        yield kind, content[start : start + length]


def _read_head(content: memoryview, order: str) -> _Variable:
    """Flags, shape and name of a variable; its other parts are left to read."""
    parts = _elements(content, order)
    head = [part for _, part in itertools.islice(parts, 3)]
    if len(head) < 3 or len(head[0]) != 8:
        raise ValueError("a variable without a head")
    flags = struct.unpack_from(f"{order}I", head[0])[0]
    kind = flags & 0xFF
    if kind == _OPAQUE:  # strings, tables and the like, of another structure
        return _Variable("", kind, False, (), parts, order)
    if len(head[1]) < 8 or len(head[1]) % 4:
        raise ValueError("a variable without a shape")
    shape = struct.unpack(f"{order}{len(head[1]) // 4}i", head[1])
    if min(shape) < 0:
        raise ValueError("a variable without a shape")
    name = bytes(head[2]).decode("latin-1")
    return _Variable(name, kind, bool(flags & _COMPLEX), shape, parts, order)


def _text(variable: _Variable) -> str:
    if variable.kind != _CHAR or variable.shape[0] > 1:
        raise OtherKind("a cell array of other things than texts")
    if 0 in variable.shape:
        return ""
    stored, content = _only(variable.parts)
    encoding = _TEXTS.get(stored, "")
    if not encoding:
        raise ValueError("a text without characters")
    if encoding == "utf-16":
        encoding += {"<": "-le", ">": "-be"}[variable.order]
    return bytes(content).decode(encoding)


def _only(parts: Iterator[_Element]) -> _Element:
    found = list(parts)
    if len(found) != 1:
        raise ValueError(f"{len(found)} parts instead of one")
    return found[0]
