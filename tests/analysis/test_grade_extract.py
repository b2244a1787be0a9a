r"""The answer is found in the right part of an output."""

import json
from pathlib import Path

import pytest

from analysis.grading.extract import Extract, extract, last_box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{1} … \boxed{\frac{1}{", "1"),
        (r"\boxed{1} … \boxed{}", "1"),
        (r"\boxed{\text{if } \boxed{3}}", "3"),
        (r"\boxed", None),
        ("no box: 42", None),
        (r"\boxed{" * 2000, None),
    ],
)
def test_last_balanced_box(text: str, box: str | None) -> None:
    assert last_box(text) == box


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"x=\boxed{1} or x=\boxed{2}", r"x = 1 \text{ or } x = 2"),
        (r"$\boxed{x=1}$, $\boxed{y=2}$", "x=1, y=2"),
        (r"\boxed{1} \text{ and } \boxed{2}", "1, 2"),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}.", "1, 2, 3"),
        (r"\boxed{7} and \boxed{7}", "7"),
        (r"\boxed{1}. Then \boxed{2}", "2"),
        (r"\boxed{5}. Wait, that is wrong. \boxed{6}", "6"),
        (r"It is \boxed{6}, not \boxed{5}.", "6"),
        (r"\boxed{6} rather than $\boxed{7}$", "6"),
        (r"\boxed{6}. The value \boxed{7} is incorrect.", "6"),
        (r"\boxed{6}. No, this is wrong.", None),
        (r"The final answer is $\frac{1}{2}$. I hope it is correct.", r"$\frac{1}{2}$"),
        ("so 42\n#### 42", "42"),
        ("8 * 7 * 6 = 336.\n\nThe answer is 336.", "336"),
        ("The answer is **60 km/h**.", "60 km/h"),
        ("Hence $n = 6$. Final Answer: $6$", "$6$"),
        ("### Final Answer\n\n$12$", "$12$"),
        ("**Final answer:**\n12", "12"),
        ("<answer>\n12\n</answer>", "12"),
        ("**Answer:** There are 35 cows.", "35 cows"),
        ("There are 35 cows.", "35 cows"),
        ("The train arrives at **7:45**.", "7:45"),
        ("**Réponse :** 18 bonbons", "18 bonbons"),
        ("**Antwort:** 2,5 km", "2.5 km"),
        ("Die Antwort lautet 7.", "7"),
        ("**Ответ:** 48 см²", "48 см²"),
        ("Ответ: 2; 5", "2; 5"),
        ("La respuesta final es $9$.", "$9$"),
        ("因此，答案为：25", "25"),
        ("Answer: 2,5", "2,5"),
        ('{"reasoning": "5 + 3", "answer": "8"}', "8"),
        ('{"final_answer": 8.5}', "8.5"),
        (r'{"answer": "\\frac{1}{2}"}', r"\frac{1}{2}"),
        ("which is choice **(C)**.", "(C)"),
        ("Die richtige Antwort lautet B.", "B"),
        ("## Answer\n\n- $x = 5$\n- $x = 3$", "$x = 5$, $x = 3$"),
        ("so they pay **$110** together.", "$110"),
        ("- Rent: $80\n- **Total: $120**", "$120"),
        ("It arrives at **7:45**.", "7:45"),
        ("The oldest is **Magda**.", "Magda"),
        ("**Magda** is not the oldest.", None),
        ("It is **5**, or **6**.", None),
        ("**5** is the first value.\nThe rest follows.", None),
        ("the power 2**3**2", None),
        ("The answer is not 5.", None),
        ("the answer is 5 times the sum of 2 and 3", None),
        ("Every answer is 5 or 6 here", None),
        ("the final answer is the sum of both", None),
    ],
)
def test_boxes_and_sentences_that_state_the_answer(text: str, answer: str | None) -> None:
    """Boxes joined by words are one answer, and a box that is taken back is none."""
    found = extract(text, None, thinks=False, finished=True)
    assert (found and found.answer) == answer


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        (r"thinking \boxed{1}</think>so \boxed{2}", None, Extract("2", in_thinking=False)),
        (r"thinking \boxed{1}</think>so it is one.", None, Extract("1", in_thinking=True)),
        (r"\boxed{2}", r"\boxed{1}", Extract("2", in_thinking=False)),
        ("", r"\boxed{1}", Extract("1", in_thinking=True)),
        (None, r"\boxed{1}", Extract("1", in_thinking=True)),
        ("<|im_start|>think\nso 1\n<|im_start|>answer\nAnswer: 7", None, Extract("7", in_thinking=False)),
        ("think\nso \\boxed{1}\nanswer\nFinal Answer: 7\n", None, Extract("7", in_thinking=False)),
        ("x</think>\n\n**Final Answer:** 12", None, Extract("12", in_thinking=False)),
        ("the answer: 5 is near", None, None),
        ("x</think>nothing", None, None),
        (None, None, None),
    ],
)
def test_answer_after_the_reasoning_counts_first(
    text: str | None, reasoning: str | None, answer: Extract | None
) -> None:
    """An answer after the reasoning takes precedence over one inside it, and the result says where it was."""
    assert extract(text, reasoning, thinks=True, finished=True) == answer


def test_a_cut_output_of_a_thinking_model_is_all_reasoning() -> None:
    assert extract(r"so \boxed{1}, wait", None, thinks=True, finished=False) == Extract("1", in_thinking=True)
    assert extract(r"so \boxed{1}, wait", None, thinks=False, finished=False) == Extract("1", in_thinking=False)


def test_an_answer_line_that_the_cut_may_have_shortened_is_none() -> None:
    assert extract("x</think>Final Answer: 1", None, thinks=True, finished=False) is None
    assert extract("x</think>Final Answer: 1\n", None, thinks=True, finished=False) == Extract("1", in_thinking=False)


def test_solutions_cut_before_their_first_box_have_no_answer(shared: Path) -> None:
    """None of 500 cut solutions has an answer, because nothing is guessed from other text."""
    for line in (shared / "math500.jsonl").read_text().splitlines():
        solution = json.loads(line)["solution"]
        cut = solution[: solution.index(r"\boxed")]
        for thinks in (False, True):
            for finished in (False, True):
                assert extract(cut, None, thinks=thinks, finished=finished) is None


@pytest.mark.parametrize("line", ["* part\n", "- a\n", "so  ", "one such ", "root of "])
def test_a_repetitive_end_is_read_in_a_bounded_time(line: str) -> None:
    """The patterns of sentences do not try the same text in many ways: an exponential one would not end."""
    assert extract("x\n" + line * 60 + "5 5", None, thinks=False, finished=True) is None
