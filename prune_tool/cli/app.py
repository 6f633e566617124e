"""The command line: one short file a command, and here the door they share.

Results go to stdout, progress and messages to stderr. Exit status: 0 done; 1 a gate was missed (budget, certificate,
parity, latency); 2 wrong usage, bad input or an unsupported model; 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import typer

from prune_tool.cli import analyze, bench, compress, export
from prune_tool.errors import PruneToolError

app = typer.Typer(
    name="prune-tool",
    help="Smaller, faster vision backbones for one task, without training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"prune-tool {version('prune-tool')}\n")
        raise typer.Exit


@app.callback()
def root(
    _version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Options of every command."""


app.command("compress")(compress.command)
app.command("analyze")(analyze.command)
app.command("export")(export.command)
app.command("bench")(bench.command)


def main() -> None:
    """Run a command and turn what went wrong into one message and an exit status."""
    try:
        app()
    except PruneToolError as error:
        sys.stderr.write(f"prune-tool: {error}\n")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.stderr.write("prune-tool: interrupted. Finished feature shards are kept; run the same command to go on.\n")
        sys.exit(130)
