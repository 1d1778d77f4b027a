"""Is an encoded file whole? What decoders do not look at. No TensorFlow here."""

from __future__ import annotations

import re
import zlib

JPEG_SIGNATURE, PNG_SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"

_SCAN_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE, _START_OF_SCAN, _FILL = 0xD9, 0xDA, 0xFF


def jpeg_ends(encoded: bytes) -> bool:
    """True when an end-of-image marker follows the last scan (ITU T.81, B.1.1.3).

    Cameras append data of their own after it, and previews inside have one too.
    """
    if encoded.rstrip(b"\0\r\n ")[-2:] == b"\xff\xd9":
        return True
    place = 2
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker == _END_OF_IMAGE:
            return True
        if marker == _FILL:
            place += 1
            continue
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
        if marker == _START_OF_SCAN:
            found = _SCAN_MARKER.search(encoded, place)
            if found is None:
                return False
            place = found.start()
    return encoded[place : place + 2] == b"\xff\xd9"


def check_png(encoded: bytes) -> None:
    """Compares the checksum of every chunk, which decoders skip for pixel data.

    Raises:
      ValueError: says what is wrong.
    """
    place, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        length = int.from_bytes(encoded[place : place + 4], "big")
        chunk = encoded[place + 4 : place + 8 + length]
        check = encoded[place + 8 + length : place + 12 + length]
        if len(check) < 4:
            raise ValueError("truncated PNG")
        if zlib.crc32(chunk).to_bytes(4, "big") != check:
            raise ValueError("damaged PNG (a checksum differs)")
        kind = chunk[:4]
        place += 12 + length
