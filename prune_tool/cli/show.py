"""``prune-tool show``."""

from prune_tool.cli import options


def command(file: options.File, json: options.Json = False) -> None:
    """Print what an ONNX file is: signature, operators, classes, recipe, certificate, and whether it is undamaged."""
    from prune_tool.cli.console import show
    from prune_tool.pipeline.files import describe
    from prune_tool.report.file import file_tables

    description = describe(file)
    show(description, file_tables(description), as_json=json)
