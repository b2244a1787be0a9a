"""Wrong answers that a model might give: similar to the right answer, of the same kind, and never equal to it.

Rules: the same answer always has the same candidates in the same order, the most likely one first. Only the text of the
answer is changed. The changes alter the value even for a tolerant grader, for example one that ignores the base of a
number or the power of a unit. This module does not grade answers.
"""

import re

# A number that is not an index, a base or the power of a unit; the digits of \frac43 are two numbers.
NUMBER = re.compile(
    r"(?<![_\d])(?<!_\{)(?<!\}\^)(?<!\}\^\{)(?:(?<=\\[dt]frac)\d|(?<=\\frac)\d|(?<=\\frac )\d|(?<=\\frac\d)\d|\d+)"
)
# (factor, addend), the most likely mistake first.
CHANGES = ((1, 1), (2, 0), (1, -1), (1, 10), (3, 0), (7, 0))
SMALL_DECIMAL = re.compile(r"\.0\d")  # adding 1 to the last digit makes no difference to a tolerant grader
WORDS = ("even", "odd", "neither", "Tuesday", "circle", "line", "east", "west", "no solution", "both")
SIGNS = ((" - ", " + "), (" + ", " - "), (r"\sin", r"\cos"), (r"\cos", r"\sin"))


def wrong_answers(answer: str) -> list[str]:
    """Three to eight wrong answers."""
    found = [*_other_numbers(answer), *_other_signs(answer)]
    if "\\text" in answer or answer.isalpha():
        found += [f"\\text{{{word}}}" for word in WORDS if word.lower() not in answer.lower()]
    distinct = list(dict.fromkeys(each for each in found if each != answer))[:8]
    if len(distinct) < 3:  # the expression contains no numbers
        distinct += [f"2({answer})", f"{answer} + 1", f"{answer} + 2"]
    return distinct


def _other_numbers(answer: str) -> list[str]:
    """The answer with one of its numbers changed, the last number first because mistakes are most likely there."""
    numbers = list(NUMBER.finditer(answer))
    small = SMALL_DECIMAL.search(answer) is not None
    changed = []
    for factor, addend in CHANGES:
        if small and factor == 1:
            continue
        for number in reversed(numbers[-3:]):
            right = int(number.group())
            value = right * factor + addend
            value = right + 4 if value in {right, -1} else value
            text = str(value)
            if (
                len(number.group()) == 1
                and value > 9
                and answer[: number.start()].endswith(("frac", "frac ", *"0123456789"))
            ):
                continue  # each argument of \frac43 has one digit
            changed.append(answer[: number.start()] + text.zfill(len(number.group())) + answer[number.end() :])
    return changed


def _other_signs(answer: str) -> list[str]:
    return [answer.replace(one, other, 1) for one, other in SIGNS if one in answer]
