"""Make a PNG of text and lines small enough to commit: drop the alpha channel, keep 32 levels per color, compress at the highest level.

A dashboard of 1800×1700 pixels takes 0.9 MB as vl-convert writes it and a fifth of that afterwards, without a visible difference.
The module reads only the format that vl-convert writes: eight-bit RGBA with no row filter or the filter Sub.
"""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _read_chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Type and content of each chunk."""
    found, position = [], len(SIGNATURE)
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        found.append((kind, png[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def _chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def compress(png: bytes) -> bytes:
    """Return the same picture in fewer bytes, or the same bytes if they are not in vl-convert's format."""
    parts = _read_chunks(png)
    width, height, *form = struct.unpack(">IIBBBBB", parts[0][1])
    packed = b"".join(content for kind, content in parts if kind == b"IDAT")
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    if form != [8, 6, 0, 0, 0] or rows[:, 0].max() > 1:
        return png
    pixels = rows[:, 1:].reshape(height, width, 4).copy()
    differences = rows[:, 0] == 1
    pixels[differences] = np.cumsum(pixels[differences], axis=1, dtype=np.uint8)
    levels = (pixels[:, :, :3].astype(np.uint16) + 4) // 8 * 8
    rgb = np.minimum(levels, 255).astype(np.uint8).reshape(height, -1)
    unfiltered = np.hstack([np.zeros((height, 1), np.uint8), rgb])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(unfiltered.tobytes(), 9)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
