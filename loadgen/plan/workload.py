"""Makes the requests of a run from problems, budgets and samples, in a seeded random order.

The same options give the same requests, so that a request's `seq` means the same after a crash. One pass holds each
(problem, budget, sample) exactly once. Further passes (`--repeats`, `--requests`, `--duration`) have another order. Bodies are
built when a request is needed, so that a run of 200,000 requests holds only a few small integers for each.

This module does not know when a request is due or what comes back.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from loadgen.exchange import Request
from loadgen.options import RunOptions
from loadgen.plan import budgets
from loadgen.plan.problems import Problem
from loadgen.plan.prompts import Style, style_of

STREAM = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


class Item(NamedTuple):
    """What one request asks."""

    problem: int
    """Index in the list of problems."""
    budget: int
    sample: int
    repeat: int
    """Number of the pass, from 0; -1 for warm-up requests."""
    warmup: bool = False


@dataclass(frozen=True)
class Workload:
    """The requests of a run. The n-th item, counted from 0, is what the request with `seq` n asks."""

    problems: list[Problem]
    options: RunOptions
    model: str
    style: Style
    run_id: str
    limit_field: str = "max_tokens"
    """What the server calls the limit of a chat reply."""

    def items(self) -> Iterator[Item]:
        """Yield the warm-up items and then the items of one pass after another, without end.

        With --one-pass, all passes at one budget come before those at the next one, and there is an end.
        """
        sent = budgets.sent_budgets(self.options)
        warmup = itertools.cycle(self._pass_items(-1, sent[:1] if self.options.one_pass else sent))
        yield from (item._replace(warmup=True) for item in itertools.islice(warmup, self.options.warmup))
        if self.options.one_pass:
            for budget, repeat in itertools.product(sent, range(self.options.repeats)):
                yield from self._pass_items(repeat, [budget])
            return
        for repeat in itertools.count():
            yield from self._pass_items(repeat, sent)

    def _pass_items(self, repeat: int, asked: Sequence[int]) -> list[Item]:
        """Return the items of one pass at these budgets, in random order."""
        keys = itertools.product(range(len(self.problems)), asked, range(self.options.samples))
        items = [Item(*key, repeat) for key in keys]
        random.Random(f"{self.options.seed}/{repeat}").shuffle(items)
        return items

    def phases(self, planned: int | None) -> list[tuple[int, int | None]]:
        """Return the first `seq` of each part of `planned` measured requests, and the `seq` after its last one.

        A part begins when all requests of the part before have ended. With --one-pass, every budget is a part.
        """
        first = self.options.warmup
        if planned is None:
            return [(first, first + self.options.requests if self.options.requests else None)]
        parts = len(budgets.sent_budgets(self.options)) if self.options.one_pass else 1
        size = planned // parts
        return [(first + part * size, first + (part + 1) * size) for part in range(parts)]

    @property
    def planned(self) -> int | None:
        """Number of measured requests, or None where a duration ends the run."""
        if self.options.duration_s is not None:
            return None
        pass_length = len(self.problems) * len(budgets.sent_budgets(self.options)) * self.options.samples
        return self.options.requests or pass_length * self.options.repeats

    @property
    def planned_with_warmup(self) -> int:
        """Number of requests that are sent; the `seq` of derived records begins here."""
        return self.options.warmup + (self.planned or 0)

    def requests(self, first: int, last: int | None) -> Iterator[Request]:
        """Yield the requests with `seq` from `first` to `last` - 1, or without end where `last` is None."""
        for seq, item in enumerate(itertools.islice(self.items(), first, last), start=first):
            yield self.request(seq, item)

    def request(self, seq: int, item: Item) -> Request:
        """Return one request, ready to be sent."""
        problem = self.problems[item.problem]
        options, style = self.options, self.style if problem.answer else self.style.as_written
        body: dict[str, Any] = {
            "model": self.model,
            **budgets.body(options, style, problem.problem, problem.output_tokens or item.budget, self.limit_field),
            **_sampling(options, self.style, problem.unique_id, item),
            **(STREAM if options.stream else {"stream": False}),
            **self.style.body,
            **({"cache_salt": f"{self.run_id}/{seq}"} if options.cache == "salt" else {}),
            **options.extra_body,
        }
        return Request(
            seq=seq,
            problem_id=problem.unique_id,
            sample=item.sample,
            budget=item.budget,
            budget_mode=options.budget_mode,
            path=budgets.path(options),
            body=body,
            warmup=item.warmup,
            repeat=max(item.repeat, 0),
            force=budgets.forced_answer(options, self.style),
        )


def small_body(options: RunOptions, model: str, limit_field: str, text: str, tokens: int) -> dict[str, Any]:
    """Return the body of a small request with the parameters of the run, for a check beside the load."""
    raw = budgets.uses_completions(options)
    prompt = {"prompt": text} if raw else {"messages": [{"role": "user", "content": text}]}
    limit = {"max_tokens" if raw else limit_field: tokens}
    chosen = sampling(options, style_of(model, options.prompt)[1])
    return {"model": model, **prompt, **limit, **chosen, **options.extra_body}


def sampling(options: RunOptions, style: Style) -> dict[str, Any]:
    """Return the sampling parameters that all requests have in common."""
    chosen = {"temperature": 0.0} if options.sampling == "greedy" else style.recommended
    given = {"temperature": options.temperature, "top_p": options.top_p}
    return chosen | {name: value for name, value in given.items() if value is not None}


def _sampling(options: RunOptions, style: Style, problem_id: str, item: Item) -> dict[str, Any]:
    """Return the sampling parameters: each (problem, sample, pass) has its own seed, which is the same at every budget."""
    chosen = sampling(options, style)
    if chosen.get("temperature") == 0:
        return chosen
    seed = random.Random(f"{options.seed}/{problem_id}/{item.sample}/{max(item.repeat, 0)}").randrange(2**31)
    return chosen | {"seed": seed}
