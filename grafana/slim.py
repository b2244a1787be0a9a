"""Make a PNG of text and lines small enough to keep in a repository: no alpha, 32 levels a channel, packed well.

A dashboard of 1800×1700 pixels takes 0.9 MB as vl-convert writes it and a fifth of that afterwards; the eye sees no difference.
Knows the one form that vl-convert writes: eight-bit RGBA, rows filtered by difference to the left or not at all.
"""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk."""
    found, at = [], len(SIGNATURE)
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        found.append((kind, png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def slim(png: bytes) -> bytes:
    """Return the same picture in fewer bytes, or the same bytes where it is not in vl-convert's form."""
    parts = chunks(png)
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
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(unfiltered.tobytes(), 9)) + chunk(b"IEND", b"")
    )
    return SIGNATURE + body
