"""Wrong answers that a model might give: near the right one, of its kind, and never equal to it.

Rules: the same answer has always the same candidates in the same order, likeliest first. Works on the answer's
text only; whether two texts mean the same is the grader's business, so changes are such as cannot keep the meaning.
"""

import re

NUMBER = re.compile(r"\d+")
WORDS = ("even", "odd", "neither", "Tuesday", "circle", "line", "east", "west", "no solution", "both")
SIGNS = ((" - ", " + "), (" + ", " - "), ("-", ""), (r"\sin", r"\cos"), (r"\cos", r"\sin"))


def wrong_answers(answer: str) -> list[str]:
    """Up to eight wrong answers; at least three."""
    found = [*_other_numbers(answer), *_other_signs(answer)]
    if not found:
        found = [f"\\text{{{word}}}" for word in WORDS if word not in answer]
    distinct = dict.fromkeys(each for each in found if each != answer)
    return list(distinct)[:8]


def _other_numbers(answer: str) -> list[str]:
    """The answer with one of its numbers changed, the last first: that is where slips happen."""
    changed = []
    numbers = list(NUMBER.finditer(answer))
    for times, plus in ((1, 1), (2, 0), (1, -1), (1, 10), (3, 0)):
        for number in reversed(numbers[-3:]):
            right = int(number.group())
            value = right * times + plus
            value = right + 4 if value in {right, -1} else value
            text = str(value).zfill(len(number.group())) if number.group().startswith("0") else str(value)
            changed.append(answer[: number.start()] + text + answer[number.end() :])
    return changed


def _other_signs(answer: str) -> list[str]:
    return [answer.replace(one, other, 1) for one, other in SIGNS if one in answer]
