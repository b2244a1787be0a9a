"""`thinkload COMMAND …`: every command of `python -m loadgen`, `python -m server` and `python -m analysis`, from any folder.

A command is run exactly as `python -m` runs it, so that options, output and exit codes are the same. Its `--help` shows the
names of this command line instead.

This module does not know what a command does.
"""

import contextlib
import difflib
import importlib.metadata
import io
import re
import runpy
import sys

from thinkload import files

VERBS = {
    "loadgen": {
        "run": "send a workload to a server, and write one record for each request",
        "search": "find the highest load at which a server meets objectives",
        "sweep": "run every combination of configurations, models and loads",
        "doctor": "check before a run what would make its results wrong",
        "calibrate": "measure how much load this machine can generate",
        "gather": "combine what Locust's workers wrote on several machines",
    },
    "server": {
        "emulate": "serve a configuration without a GPU",
        "up": "start a server with Docker, as a process, or emulated (also: serve)",
        "down": "stop servers",
        "status": "list running servers",
        "logs": "print a server's log",
        "configs": "list configurations and models",
        "preset": "write a preset for a model of your own",
        "watch": "let Prometheus scrape a server of your own",
        "gpu-exporter": "serve GPU telemetry",
        "relay": "let containers reach ports of this machine",
    },
    "analysis": {
        "report": "write an HTML page, its figures and its tables",
        "recommend": "recommend what to deploy",
        "compare": "find regressions beyond noise",
        "claims": "test the findings of the paper on your data",
        "grade": "grade every answer of a run",
        "import": "convert a result of another load generator",
    },
}
PROGRAM_OF = {verb: program for program, verbs in VERBS.items() for verb in verbs}
ALIASES = {"serve": "up"}


def main() -> int:
    """Run one command. The commands of the three programs end the process themselves."""
    words = sys.argv[1:]
    verb = ALIASES.get(words[0], words[0]) if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if verb in ("-V", "--version"):
        print(f"thinkload {importlib.metadata.version('thinkload')}")
        return 0
    if verb == "files":
        return files.main(words[1:])
    if verb not in PROGRAM_OF:
        close = difflib.get_close_matches(verb, [*PROGRAM_OF, *ALIASES, "files"], n=1)
        meant = f"did you mean {close[0]}?" if close else "thinkload --help lists the commands"
        print(f"thinkload: {verb!r} is not a command: {meant}", file=sys.stderr)
        return 2
    sys.argv[1:] = [verb, *words[1:]]
    try:
        if {"-h", "--help"} & {*words}:
            _help(PROGRAM_OF[verb])
        else:
            runpy.run_module(PROGRAM_OF[verb], run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in VERBS:
            raise
        hint = "pip install '.[all]' in the folder of Thinkload's source installs what all commands need"
        print(
            f"thinkload: {verb} needs the package {error.name}, which is not installed: {hint}",
            file=sys.stderr,
        )
        return 2
    return 0


def _help(program: str) -> None:
    """Run a command that prints its help, and print the help with the names of this command line."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.write(renamed(text.getvalue()))


def renamed(text: str) -> str:
    """Return the text with commands such as `python -m loadgen sweep` as `thinkload sweep`. Without a command, a run is meant."""

    def command(found: re.Match[str]) -> str:
        program, verb = found["program"], found["verb"]
        if verb in PROGRAM_OF:
            return f"thinkload {verb}"
        run = "thinkload run" if program == "loadgen" else "thinkload"
        return run + (f" {verb}" if verb not in (None, "[run]") else "")

    return re.sub(
        r"python\s+-m\s+(?P<program>loadgen|server|analysis)\b(?:\s(?P<verb>[a-z-]+\b|\[run\]))?",
        command,
        text,
    )


def _overview() -> str:
    lines = ["usage: thinkload COMMAND …        thinkload COMMAND --help shows the options", ""]
    for verbs in VERBS.values():
        lines += [*(f"  {verb:<13} {text}" for verb, text in verbs.items()), ""]
    lines += [f"  {'files':<13} {files.HELP}", f"  {'--version':<13} print the version"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
