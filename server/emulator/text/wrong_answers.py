"""Wrong answers that a model might give: near the right one, of its kind, and never equal to it.

Rules: the same answer has always the same candidates in the same order, likeliest first. Works on the answer's
text only; whether two texts mean the same is the grader's business, so changes are such as cannot keep the meaning
even for a grader that forgives much (one that drops a number's base, or a unit's power, still sees a wrong value).
"""

import re

# Not an index or a base, not a power of a unit; the digits of \frac43 are two numbers.
NUMBER = re.compile(
    r"(?<![_\d])(?<!_\{)(?<!\}\^)(?<!\}\^\{)(?:(?<=\\[dt]frac)\d|(?<=\\frac)\d|(?<=\\frac )\d|(?<=\\frac\d)\d|\d+)"
)
CHANGES = ((1, 1), (2, 0), (1, -1), (1, 10), (3, 0), (7, 0))  # times, plus: the likeliest slip first
SMALL_DECIMAL = re.compile(r"\.0\d")  # one more in its last place is no difference to a tolerant grader
WORDS = ("even", "odd", "neither", "Tuesday", "circle", "line", "east", "west", "no solution", "both")
SIGNS = ((" - ", " + "), (" + ", " - "), (r"\sin", r"\cos"), (r"\cos", r"\sin"))


def wrong_answers(answer: str) -> list[str]:
    """Three to eight wrong answers."""
    found = [*_other_numbers(answer), *_other_signs(answer)]
    if "\\text" in answer or answer.isalpha():
        found += [f"\\text{{{word}}}" for word in WORDS if word.lower() not in answer.lower()]
    distinct = list(dict.fromkeys(each for each in found if each != answer))[:8]
    if len(distinct) < 3:  # an expression without numbers
        distinct += [f"2({answer})", f"{answer} + 1", f"{answer} + 2"]
    return distinct


def _other_numbers(answer: str) -> list[str]:
    """The answer with one of its numbers changed, the last first: that is where slips happen."""
    numbers = list(NUMBER.finditer(answer))
    small = SMALL_DECIMAL.search(answer) is not None
    changed = []
    for times, plus in CHANGES:
        if small and times == 1:
            continue
        for number in reversed(numbers[-3:]):
            right = int(number.group())
            value = right * times + plus
            value = right + 4 if value in {right, -1} else value
            text = str(value)
            if (
                len(number.group()) == 1
                and value > 9
                and answer[: number.start()].endswith(("frac", "frac ", *"0123456789"))
            ):
                continue  # \frac43 has room for one digit
            changed.append(
                answer[: number.start()] + text.zfill(len(number.group())) + answer[number.end() :]
            )
    return changed


def _other_signs(answer: str) -> list[str]:
    return [answer.replace(one, other, 1) for one, other in SIGNS if one in answer]
