"""``prune-tool cache ls`` and ``prune-tool cache rm``."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated

import typer

from prune_tool.cli import options
from prune_tool.errors import CacheError, UsageError

app = typer.Typer(help="See and clear what is kept between runs.", no_args_is_help=True)

Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY...", help="First digits of a key that `cache ls` shows.", show_default=False),
]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", help="Only what has not been used for that long: 30d, 12h.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="Everything.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("ls")
def ls(json: options.Json = False) -> None:
    """List features, compiled graphs and findings, with what they are of and what they take."""
    from prune_tool.cli.console import show
    from prune_tool.report.cache import cache_tables
    from prune_tool.store.inventory import list_entries
    from prune_tool.store.root import cache_root

    entries = list_entries(cache_root())
    n_bytes = sum(entry.n_bytes for entry in entries)
    value = {"root": cache_root(), "n_bytes": n_bytes, "entries": entries}
    show(value, cache_tables(cache_root(), entries), as_json=json)


@app.command("rm")
def rm(
    keys: Keys = None,
    older_than: OlderThan = None,
    all_: All = False,
    yes: Yes = False,
    json: options.Json = False,
) -> None:
    """Remove entries that no process uses. They are computed again when they are needed."""
    if not keys and older_than is None and not all_:
        raise UsageError(
            asked="cache rm", found="nothing that says what", remedy="Give keys, --older-than 30d or --all"
        )
    age = None if older_than is None else _age(older_than)
    from prune_tool.cli.console import show
    from prune_tool.report.cache import cache_tables, megabytes
    from prune_tool.store.inventory import list_entries, remove, select
    from prune_tool.store.root import cache_root

    root = cache_root()
    chosen = select(list_entries(root), keys or (), age)
    size = megabytes(sum(entry.n_bytes for entry in chosen))
    if chosen and not yes:
        _confirm(f"Remove {len(chosen):,} of the cache's entries ({size} MB)?")
    done = remove(root, chosen)
    left = ", ".join(entry.key[:8] for entry in done.in_use)
    if left:
        sys.stderr.write(f"prune-tool: left {left}: a process is using it\n")
    show(done, cache_tables(root, done.removed) if done.removed else ["Nothing to remove"], as_json=json)
    if keys and left:
        raise CacheError(
            asked=f"remove {left} from the cache", found="in use", remedy="Wait for the process that uses it, or end it"
        )


def _age(text: str) -> timedelta:
    number, unit = text[:-1], {"d": "days", "h": "hours"}.get(text[-1:])
    if unit is None or not number.isdecimal():
        raise UsageError(
            asked=f"--older-than {text}", found="not a number of days or hours", remedy="Try --older-than 30d"
        )
    return timedelta(**{unit: int(number)})


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(asked="cache rm", found="nobody to ask, as this is no terminal", remedy="Add --yes")
    typer.confirm(question, abort=True, err=True)
