"""What an output answers and whether that answer is right: the one place of this suite that knows mathematics.

An output's text → `extract` (which words are the answer) → `clean` (one notation) → `compare` (same value, same form)
→ `judge` (math-verify in killable processes, for what `compare` cannot read). Rules and limits: docs/grading.md.

Does not know: runs, budgets, records.
"""
