"""The command line: one short file a command, and here the door they share.

Results go to stdout, progress and messages to stderr. Exit status: 0 done; 1 a gate was missed (budget, certificate,
parity, latency); 2 wrong usage, bad input or an unsupported model; 130 interrupted; 141 whoever read stdout has gone.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import typer
from typer.core import TyperGroup

from prune_tool.cli import analyze, bench, cache, compress, env, export, inspect, predict, push, report, show
from prune_tool.errors import PruneToolError

INTERRUPTED, UNREAD = 130, 141
"""What a shell reports of a process that SIGINT or SIGPIPE ended."""


class Door(TyperGroup):
    """Turns what a user can mend into one message and an exit status; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except PruneToolError as error:
            sys.stderr.write(f"prune-tool: {error}\n")
            raise typer.Exit(error.exit_status) from error
        except KeyboardInterrupt as error:
            kept = "; ".join(getattr(error, "__notes__", ())) or "What was finished is kept"
            again = shlex.join(["prune-tool", *ctx.obj])
            sys.stderr.write(f"prune-tool: interrupted. {kept}. The same command goes on from there: {again}\n")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
            raise typer.Exit(UNREAD) from error
        return result


app = typer.Typer(
    cls=Door,
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
app.command("inspect")(inspect.command)
app.command("analyze")(analyze.command)
app.command("export")(export.command)
app.command("bench")(bench.command)
app.command("report")(report.command)
app.command("predict")(predict.command)
app.command("show")(show.command)
app.command("push")(push.command)
app.command("env")(env.command)
app.add_typer(cache.app, name="cache")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command that ``args`` (by default those of the process) ask for, and exit with its status."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # a failed download is one message, ours, and not one a retry
    app(args=args, prog_name="prune-tool", obj=sys.argv[1:] if args is None else args)
