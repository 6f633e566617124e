"""``prune-tool push``."""

from pathlib import Path
from typing import Annotated

import typer

from prune_tool.cli import options


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the Hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="For its owner only.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be uploaded; needs no network.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Upload a run's shipped files and its model card to the Hugging Face Hub."""
    from prune_tool.cli.console import show, watching
    from prune_tool.pipeline.push import push
    from prune_tool.report.push import push_tables
    from prune_tool.store.layout import open_run

    folder = open_run(run)
    with watching(quiet=quiet) as progress, progress.stage("checking" if dry_run else "uploading"):
        pushed = push(folder, repository, private=private, dry_run=dry_run)
    show(pushed, push_tables(pushed), as_json=json)
