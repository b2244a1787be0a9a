"""`python -m tools.house` (`make house`): the structure of the repository in one table, and the limits that it has to keep.

For each folder with Python code: files, floors (the longest chain of imports between the folder's rooms), code lines
without blanks, comments and docstrings, and functions of more than 50 lines. Below it: circles of imports, the longest
import chain over all files, and the ratio of test code to code. The exit status is 1 where a limit is exceeded.

This module does not know which imports are allowed; tests/project/test_layers.py does.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

from tools.imports import FOLDERS, ROOT, Graph, circles, longest_chain, module_graph, module_name, room_graph, sources

FILES_LIMIT, FLOORS_LIMIT, CHAIN_LIMIT, FUNCTION_LINES, CODE_LINES_LIMIT = 20, 10, 15, 50, 26_000
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
Definition = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text: str) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings (nor the strings that describe a constant)."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def long_functions(path: Path) -> list[str]:
    """Functions of more than 50 lines, as `file:line name`."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Definition) and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    ]


def folder_rows(graph: Graph) -> list[tuple[str, int, int, int, int]]:
    """For each folder: its name, files, floors, code lines and long functions, those of its subfolders not included."""
    rows = []
    for folder in sorted({path.parent for path in sources(*FOLDERS)}):
        files = sorted(folder.glob("*.py"))
        rooms = room_graph(graph, module_name(folder / "__init__.py"))
        floors = 0 if circles(rooms) else len(longest_chain(rooms))
        lines = sum(code_lines(path.read_text()) for path in files)
        long = sum(len(long_functions(path)) for path in files)
        rows.append((str(folder.relative_to(ROOT)), len(files), floors, lines, long))
    return rows


def main() -> int:
    """Print the table; 1 where a limit is exceeded."""
    graph = module_graph(sources(*FOLDERS))
    rows = folder_rows(graph)
    print(f"{'folder':<28}{'files':>6}{'floors':>8}{'code lines':>12}{'long functions':>16}")
    for name, files, floors, lines, long in rows:
        print(f"{name:<28}{files:>6}{floors:>8}{lines:>12}{long:>16}")
    found = circles(graph)
    chain = [] if found else longest_chain(graph)
    code, test = sum(row[3] for row in rows), sum(code_lines(p.read_text()) for p in sources("tests"))
    print(f"circles of imports: {len(found)}" + "".join(f"\n  {', '.join(group)}" for group in found))
    print(f"longest import chain: {len(chain)} files ({' → '.join(chain)})")
    print(f"code lines outside tests: {code}; tests: {test}; ratio of test code to code: {test / code:.2f}")
    too_much = [
        *(f"{row[0]}: {row[1]} files" for row in rows if row[1] > FILES_LIMIT),
        *(f"{row[0]}: {row[2]} floors" for row in rows if row[2] > FLOORS_LIMIT),
        *(f"long function: {name}" for path in sources(*FOLDERS) for name in long_functions(path)),
        *(["circles of imports"] if found else []),
        *([f"import chain of {len(chain)}"] if len(chain) > CHAIN_LIMIT else []),
        *([f"{code} code lines"] if code > CODE_LINES_LIMIT else []),
    ]
    for line in too_much:
        print(f"limit exceeded: {line}", file=sys.stderr)
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
