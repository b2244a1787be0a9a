"""Reading recorded answers: their shape without ids, times and text."""

import json
import re
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"
FREE = {
    "id",
    "created",
    "content",
    "reasoning",
    "text",
    "message",
    "token_ids",
    "prompt_token_ids",
    "system_fingerprint",
}
KEPT = {"object", "model", "index", "role", "finish_reason", "type", "param", "code", "owned_by"}


def body(recording: str) -> str:
    """What follows the headers, where there are any."""
    return recording.split("\n\n", 1)[1] if recording.startswith("HTTP/") else recording


def events(stream: str) -> list[str]:
    """The `data:` payloads."""
    return [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]


def shape(value: Any, key: str = "") -> Any:
    """Keys in order, and kinds of values; the values themselves where they are part of the protocol."""
    if isinstance(value, dict):
        return [(k, shape(v, k)) for k, v in value.items()]
    if isinstance(value, list):
        return [shape(value[0], key)] if value else []
    if value is None or isinstance(value, bool) or key in KEPT:
        return value
    if isinstance(value, str):
        return "text" if value or key in FREE else ""
    return "number"


def shapes(stream: str) -> list[Any]:
    """The shape of each event, repeats of the one before left out."""
    found: list[Any] = []
    for payload in events(stream):
        one = payload if payload == "[DONE]" else shape(json.loads(payload))
        if not found or found[-1] != one:
            found.append(one)
    return found


def headers(recording: str) -> dict[str, str]:
    """Status and header names with their values, those that vary left as their names."""
    head = recording.split("\n\n", 1)[0].splitlines()
    pairs = dict(line.split(": ", 1) for line in head[1:])
    varying = dict.fromkeys({"date", "content-length", "x-request-id"} & set(pairs), "any")
    return {"status": head[0], **pairs, **varying}


def catalogue(exposition: str) -> dict[str, tuple[str, frozenset[tuple[str, ...]], tuple[str, ...]]]:
    """Each metric's type, label sets and buckets."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE))
    found: dict[str, tuple[str, frozenset[tuple[str, ...]], tuple[str, ...]]] = {}
    for name, kind in kinds.items():
        suffix = "(?:_bucket|_count|_sum)" if kind in {"histogram", "summary"} else ""
        lines = re.findall(rf"^{re.escape(name)}{suffix}(?:\{{(.*)\}})? \S+$", exposition, re.MULTILINE)
        labels = [dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line)) for line in lines]
        buckets = dict.fromkeys(one["le"] for one in labels if "le" in one)
        sets = frozenset(tuple(sorted(key for key in one if key != "le")) for one in labels)
        found[name] = (kind, sets, tuple(buckets))
    return found
