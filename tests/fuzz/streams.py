"""Sends damaged answers through the whole client: no exception, one Record for each, and no run that is VALID and wrong.

`python -m tests.fuzz.streams [--answers N] [--seed N]` starts a server that streams N mutated answers
(tests/fuzz/mutated_answers.py), asks for each one, and judges each Record as a run of its own. A judgement counts as wrong
where it is VALID although the tokens are not those that were generated, or the first or last token is not at the time at
which text was written. A busy machine delays events. So answers whose times differ are asked for again with fewer and fewer
requests in flight, and are wrong where they differ each time. The last line is JSON. The exit code is 1 where anything is wrong.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any, cast

import uvloop

from loadgen.client.client import Client
from loadgen.client.endpoint import endpoint_of
from loadgen.clock import RunClock
from loadgen.exchange import Request
from loadgen.measure.console_table import METRICS
from loadgen.measure.formulas import to_record
from loadgen.measure.observations import Observations
from loadgen.measure.run_facts import RunFacts
from loadgen.measure.verdict import judge
from loadgen.record import Record, RunInfo
from tests.fuzz.mutated_answers import GAP_MS, Answer, answer

STREAMS = 192
"""Requests in flight."""
FEWER_STREAMS = (32, 8, 2, 1, 1, 1, 1)
EARLY_MS, TOLERANCE_MS = -2, GAP_MS * 0.7
"""The clock of uvloop counts whole ms, so the server can write a little too early."""
MOST_SHOWN = 20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOO_FEW = "too few for"
"""A run of one request is too short, which is not what is tested here."""


async def serve(seed: int) -> None:
    """Answer requests for `/INDEX/…` with the answer of that index, until the standard input ends."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                began_s = loop.time()
                mutated = answer(seed, int(head.split(b"/")[2]))
                writer.write(HEAD)
                for at_ms, data in mutated.writes:
                    await asyncio.sleep(began_s + at_ms / 1000 - loop.time())
                    if writer.is_closing():
                        return
                    writer.write(b"%x\r\n%s\r\n" % (len(data), data) if data else b"")
                if mutated.cut or writer.is_closing():
                    return
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def serving(seed: int) -> Iterator[str]:
    """Run the server in a process of its own; yield its target."""
    command = [sys.executable, "-m", "tests.fuzz.streams", "--serve", "--seed", str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(cast("Any", process.stdout).readline())["url"]
        finally:
            process.terminate()


async def ask(url: str, indices: list[int], streams: int = STREAMS) -> dict[int, Record]:
    """Request the answers, `streams` at a time, and return the record of each."""
    records: dict[int, Record] = {}
    clock = RunClock(perf_counter_ns())
    remaining = iter(indices)
    async with Client(endpoint_of(url), timeout_s=60) as client:

        async def stream() -> None:
            for index in remaining:
                request = Request(index, "p", 0, 64, "cut", f"/{index}/chat/completions", {"stream": True})
                exchange = await client.send(request)
                assert index not in records
                records[index] = to_record(request, exchange, exchange.sent_ns, clock, run_id="fuzz")

        await asyncio.gather(*(stream() for _ in range(streams)))
    return records


def valid(record: Record) -> bool:
    """Tell whether a run of this one record would be VALID."""
    facts = RunFacts()
    facts.add(record, {})
    run = RunInfo(run_id="fuzz", config="fuzz", model="m", target="", started_at="", clock={}, load={"requests": 1})
    run.options = {"cache": "keep", "percentile": "p50"}
    run.summary = {name: {"p50": getattr(record, name)} for name in METRICS} | {"throughput": {}}
    _, reasons = judge(run, facts, Observations())
    return not [reason for reason in reasons if TOO_FEW not in reason]


def wrong_tokens(record: Record, true: Answer) -> bool:
    """Tell whether the number of tokens is not that which the server has generated."""
    return record.completion_tokens not in true.tokens


def wrong_times(record: Record, true: Answer) -> bool:
    """Tell whether the first or the last token was not seen soon after text was written."""
    seen = ((record.ttft_s, true.first_ms), (record.e2e_s, true.last_ms))
    return any(
        allowed and not (s is not None and any(EARLY_MS <= 1000 * s - at_ms <= TOLERANCE_MS for at_ms in allowed))
        for s, allowed in seen
    )


def check(url: str, seed: int, answers: int) -> dict[str, Any]:
    """Ask for every answer; return counts and what was wrong."""
    records = uvloop.run(ask(url, list(range(answers))))
    true = {index: answer(seed, index) for index in records}
    judged = {index: valid(record) for index, record in records.items()}
    tokens = [i for i, record in records.items() if judged[i] and wrong_tokens(record, true[i])]
    times = [i for i, record in records.items() if judged[i] and wrong_times(record, true[i])]
    for streams in FEWER_STREAMS:
        again = uvloop.run(ask(url, times, streams))
        times = [i for i, record in again.items() if wrong_times(record, true[i])]
        records |= again
    kinds = Counter(f"{record.outcome}{' VALID' if judged[i] else ''}" for i, record in records.items())
    return {
        "answers": answers,
        "seed": seed,
        "records": len(records),
        "judged": dict(kinds.most_common()),
        "unchanged": sum(not true[i].mutations for i in records),
        "unchanged_and_valid": sum(judged[i] and not true[i].mutations for i in records),
        "wrong_tokens": len(tokens),
        "wrong_times": len(times),
        "wrong": [describe(i, records[i], true[i]) for i in dict.fromkeys((*tokens[:MOST_SHOWN], *times[:MOST_SHOWN]))],
    }


def describe(index: int, record: Record, true: Answer) -> str:
    """Say what differs in one answer."""
    times = [None if s is None else round(1000 * s) for s in (record.ttft_s, record.e2e_s)]
    return (
        f"answer {index} ({', '.join(true.mutations)}): {record.completion_tokens} tokens by {record.token_source}, "
        f"first and last at {times} ms; true: {sorted(true.tokens)} tokens, {sorted(true.first_ms)}, {sorted(true.last_ms)} ms"
    )


def main() -> int:
    """Run the check and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=20_000, help="number of mutated answers [20000]")
    parser.add_argument("--seed", type=int, default=1, help="chooses the answers [1]")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.seed))
        return 0
    with serving(options.seed) as url:
        found = check(url, options.seed, options.answers)
    for line in found["wrong"]:
        print(line)
    print(json.dumps(found))
    complete = found["records"] == found["answers"]
    return 0 if complete and not found["wrong"] else 1


if __name__ == "__main__":
    sys.exit(main())
