"""``prune-tool report``."""

from prune_tool.cli import options


def command(
    run: options.Run = None,
    plots: options.Plots = False,
    runs: options.Runs = options.RUNS,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one page about a run: frontier, redundancy, certificate, classes, images, speed, how to reproduce."""
    from prune_tool.cli.console import show, watching
    from prune_tool.pipeline.results import read_results
    from prune_tool.report.html import write_report
    from prune_tool.report.written import report_tables
    from prune_tool.store.layout import newest_run, open_run

    folder = newest_run(runs) if run is None else open_run(run)
    with watching(quiet=quiet) as progress:
        written = write_report(folder, plots=plots, progress=progress)
    show(written, report_tables(written, read_results(folder)), as_json=json)
