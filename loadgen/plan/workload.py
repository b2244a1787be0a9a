"""Problems × budgets × samples → Requests, in a seeded order.

Rules: pure; the same options give the same plan, so a request's `seq` means the same after a crash. Each (problem,
budget, sample) is in a pass exactly once; further passes (`--repeats`, `--requests`, `--duration`) are shuffled anew.
Bodies are built when a request is asked for: a plan of 200,000 holds three small integers each.

Does not know: when a request is due, or what comes back.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from loadgen.exchange import Request
from loadgen.options import RunOptions
from loadgen.plan import budgets
from loadgen.plan.datasets import Problem
from loadgen.plan.prompts import Style


class Item(NamedTuple):
    """What one request asks: positions in the problems, the budget, the sample, the pass."""

    problem: int
    budget: int
    sample: int
    repeat: int
    warmup: bool = False


@dataclass(frozen=True)
class Workload:
    """The plan of a run: `items[i]` is what request `seq` i asks. Without a number of requests it goes on for ever."""

    problems: list[Problem]
    options: RunOptions
    model: str
    style: Style
    run_id: str

    def items(self) -> Iterator[Item]:
        """Warm-ups, then pass after pass, without end."""
        one = self.one_pass_items(-1)
        yield from (
            item._replace(warmup=True) for item in itertools.islice(itertools.cycle(one), self.options.warmup)
        )
        for repeat in itertools.count():
            yield from self.one_pass_items(repeat)

    def one_pass_items(self, repeat: int) -> list[Item]:
        """Each (problem, budget, sample) once; under --one-pass the largest budget, then the one that checks it."""
        options = self.options
        rng = random.Random(f"{options.seed}/{repeat}")
        waves = [[b] for b in budgets.run_for_real(options)] if options.one_pass else [options.budgets]
        plan = []
        for wave in waves:
            part = [
                Item(*key, repeat)
                for key in itertools.product(range(len(self.problems)), wave, range(options.samples))
            ]
            rng.shuffle(part)
            plan += part
        return plan

    @property
    def pass_length(self) -> int:
        """Requests in one pass."""
        each = len(budgets.run_for_real(self.options)) if self.options.one_pass else len(self.options.budgets)
        return len(self.problems) * each * self.options.samples

    @property
    def planned(self) -> int | None:
        """Measured requests in all; None where a duration ends the run."""
        if self.options.duration_s is not None:
            return None
        return self.options.requests or self.pass_length * self.options.repeats

    @property
    def planned_with_warmup(self) -> int:
        """`seq` of the first record that is none of the plan's: derived ones begin there."""
        return self.options.warmup + (self.planned or 0)

    def requests(self, first: int, last: int | None) -> Iterator[Request]:
        """Requests `first` … `last` - 1 of the run, in order; without end where `last` is None."""
        for seq, item in enumerate(itertools.islice(self.items(), first, last), start=first):
            yield self.request(seq, item)

    def request(self, seq: int, item: Item) -> Request:
        """One request, ready to send."""
        problem = self.problems[item.problem]
        options = self.options
        body: dict[str, Any] = {
            "model": self.model,
            **budgets.body(options, self.style, problem.problem, item.budget),
            **sampling(options, self.style, problem.unique_id, item),
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
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
            force=budgets.force(options, self.style),
        )


def sampling(options: RunOptions, style: Style, problem_id: str, item: Item) -> dict[str, Any]:
    """Temperature, top_p and a seed of its own for each (problem, sample, pass), the same at every budget."""
    chosen = {"temperature": 0.0} if options.sampling == "greedy" else dict(style.recommended)
    given = {"temperature": options.temperature, "top_p": options.top_p}
    chosen |= {name: value for name, value in given.items() if value is not None}
    if chosen.get("temperature") == 0:
        return chosen
    seed = random.Random(f"{options.seed}/{problem_id}/{item.sample}/{max(item.repeat, 0)}").randrange(2**31)
    return chosen | {"seed": seed}
