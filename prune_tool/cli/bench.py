"""``prune-tool bench``."""

from prune_tool.cli import options


def command(
    run: options.Run = None,
    provider: options.Provider = "cpu",
    batch: options.BatchSizes = "1,16",
    threads: options.Threads = None,
    seconds: options.Seconds = 5.0,
    runs: options.Runs = options.RUNS,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time the exported file against the full backbone in ONNX Runtime, interleaved."""
    batch_sizes = options.whole_numbers("--batch", batch, such_as="1,16")
    from prune_tool.cli.console import show, watching
    from prune_tool.pipeline.bench import bench
    from prune_tool.report.tables import bench_tables
    from prune_tool.store.layout import newest_run, open_run

    folder = newest_run(runs) if run is None else open_run(run)
    with watching(quiet=quiet) as progress, progress.stage("timing both files"):
        result = bench(folder, provider=provider, batch_sizes=batch_sizes, n_threads=threads, seconds=seconds)
    show(result, bench_tables(result), as_json=json)
