"""``prune-tool predict``."""

from prune_tool.cli import options


def command(
    file: options.File,
    images: options.Images,
    top: options.Top = 5,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Classify pictures with an exported file; folders stand for all the pictures in them."""
    from prune_tool.cli.console import show, watching
    from prune_tool.errors import DataError
    from prune_tool.pipeline.predict import predict
    from prune_tool.report.predictions import prediction_tables

    with watching(quiet=quiet) as progress:
        predicted = predict(file, images, top=top, progress=progress)
    show(predicted, prediction_tables(predicted), as_json=json)
    if predicted.unreadable:
        named = "; ".join(f"{unreadable.image}: {unreadable.found}" for unreadable in predicted.unreadable)
        raise DataError(
            asked=f"classify {len(predicted.predictions) + len(predicted.unreadable)} images",
            found=f"{len(predicted.unreadable)} cannot be read ({named})",
            remedy="Replace or remove them; the others stand above",
        )
