"""``prune-tool inspect``."""

from prune_tool.cli import options


def command(
    model: options.Model = None,
    checkpoint: options.Checkpoint = None,
    input_size: options.OwnInputSize = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """See, without any images, where a backbone can be cut and what each cut could save at most."""
    from prune_tool.cli.console import show, watching
    from prune_tool.pipeline.inspect import inspect
    from prune_tool.report.inspection import inspection_tables

    with watching(quiet=quiet) as progress:
        inspection = inspect(model, checkpoint=checkpoint, input_size=input_size, progress=progress)
    show(inspection, inspection_tables(inspection), as_json=json)
