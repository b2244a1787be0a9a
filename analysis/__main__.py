"""`python -m analysis COMMAND`: which command, and nothing else.

Rules: a command is a module with `add_arguments(parser)` and `main(args) -> exit status`, imported only when asked for.
The operator's mistakes end here: one line, exit 2.
"""

import argparse
import importlib
import sys
from types import ModuleType
from typing import NoReturn

COMMANDS = {
    "grade": "a verdict for every record of a run, or for pairs of reference and answer",
    "report": "one HTML page, its figures and its tables, from run folders",
    "claims": "the paper's findings, tested on your data",
    "import": "another tool's result (vllm bench serve, guidellm, AIPerf) as a run folder",
    "compare": "has anything become worse, beyond noise: exit 0 no, 1 yes, 2 cannot tell",
    "recommend": "what to deploy for an accuracy and a latency, in plain words",
}


def module(command: str) -> ModuleType:
    """The command's module; `import` is a word of Python's own."""
    return importlib.import_module(f"analysis.{command}" + ("_" if command == "import" else ""))


class AnalysisParser(argparse.ArgumentParser):
    """argparse whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Say it and exit."""
        self.exit(2, f"analysis: {message.removeprefix('argument ')} (see {self.prog} --help)\n")


def main(argv: list[str]) -> int:
    """Run one command."""
    parser = AnalysisParser(
        prog="python -m analysis",
        description="From run folders to conclusions.",
        epilog="example: python -m analysis report results/study",
    )
    names = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = names.add_parser(name, help=text, description=text, add_help=True)
        if argv[:1] == [name]:
            module(name).add_arguments(sub)
    args = parser.parse_args(argv)
    from analysis.errors import InputError  # noqa: PLC0415  # keeps --help light

    try:
        status: int = module(args.command).main(args)
    except InputError as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
