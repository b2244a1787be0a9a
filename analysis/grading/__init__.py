"""Find the answer in an output and decide whether it is correct. Only this package knows mathematics.

`extract` finds the answer in an output's text. `normalize` rewrites it to one notation. `answer_parser` and `latex_parser` parse it.
`equivalence` compares it with the reference answer. `grader` does this for many pairs and uses math-verify for what `equivalence`
cannot read. The TOML files are the tables of words, units and regular expressions; `patterns` reads them. docs/grading.md lists the rules
and the limits.

This package does not know runs, budgets or records.
"""
