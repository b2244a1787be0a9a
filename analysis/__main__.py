"""Entry point of `python -m analysis COMMAND`: choose the command and run it.

A command is a module with the functions `add_arguments(parser)` and `main(args) -> exit status`. The module is imported only
when its command is used. An InputError is printed as one line, and the exit status is 2.
"""

import argparse
import importlib
import sys
from types import ModuleType

from loadgen.option_types import LoadgenParser
from loadgen.terminal import outlast_terminal, printable

COMMANDS = {
    "grade": "grade every answer of a run, or pairs of reference and answer",
    "report": "write an HTML page, its figures and its tables from run folders",
    "claims": "test the findings of the paper (arXiv 2509.19645) on your data",
    "import": "convert a result of vllm bench, SGLang, guidellm, AIPerf, evalscope or inference-perf into run folders",
    "compare": "find regressions beyond noise; exit status 0: none, 1: some, 2: the data cannot tell",
    "recommend": "recommend what to deploy for a required accuracy and latency",
}


def module(command: str) -> ModuleType:
    """Import the module of a command. The module of `import` is `import_`, because `import` is a Python keyword."""
    return importlib.import_module(f"analysis.{command}" + ("_" if command == "import" else ""))


def main(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    parser = LoadgenParser(
        prog="python -m analysis",
        description="Analyze run folders: report, recommendation, tests of claims, comparison, grading.",
        epilog="example: python -m analysis report results/study",
    )
    names = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        # The example at the end stays on its line, so that it can be pasted.
        sub = names.add_parser(name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        if argv[:1] == [name]:
            module(name).add_arguments(sub)
    try:
        args = parser.parse_args(argv)
        status: int = module(args.command).main(args)
    except argparse.ArgumentTypeError as error:  # an InputError, or what the parser raises
        print(f"analysis: {printable(str(error))}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    outlast_terminal()
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("analysis: interrupted\n")
        status = 130
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
