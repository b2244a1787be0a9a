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
    "loadgen": "run search sweep doctor calibrate gather",
    "server": "emulate up down status logs configs preset watch gpu-exporter relay",
    "analysis": "report recommend compare claims grade import",
}
PROGRAM_OF = {verb: program for program, verbs in VERBS.items() for verb in verbs.split()}
ALIASES = {"serve": "up"}
OVERVIEW = f"""\
usage: thinkload COMMAND …        thinkload COMMAND --help shows what it does and its options

load a server           {VERBS["loadgen"]}
start or emulate one    {VERBS["server"]} (serve is another name of up)
read the results        {VERBS["analysis"]}
of the installation     files DIR (copies plans, dashboards, rules and the Compose file), --version"""


def main() -> int:
    """Run one command. The commands of the three programs end the process themselves."""
    words = sys.argv[1:]
    verb = ALIASES.get(words[0], words[0]) if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(OVERVIEW)
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
    help_text = io.StringIO() if {"-h", "--help"} & {*words} else None
    try:
        with contextlib.redirect_stdout(help_text) if help_text else contextlib.nullcontext():
            runpy.run_module(PROGRAM_OF[verb], run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in VERBS:
            raise
        hint = "pip install '.[all]' in the folder of Thinkload's source installs what all commands need"
        print(f"thinkload: {verb} needs the package {error.name}, which is not installed: {hint}", file=sys.stderr)
        return 2
    finally:
        if help_text:
            sys.stdout.write(renamed(help_text.getvalue()))
    return 0


def renamed(text: str) -> str:
    """Return the text with commands such as `python -m loadgen sweep` as `thinkload sweep`. Without a command, a run is meant."""
    verbs = "|".join(PROGRAM_OF)
    text = re.sub(rf"python\s+-m\s+(?:loadgen|server|analysis)\s+({verbs})\b", r"thinkload \1", text)
    return re.sub(
        r"python\s+-m\s+(?:server|analysis)", "thinkload", re.sub(r"python\s+-m\s+loadgen", "thinkload run", text)
    )


if __name__ == "__main__":
    sys.exit(main())
