"""``prune-tool bench``."""

from prune_tool.cli import options


def command(
    run: options.Run = None,
    provider: options.Provider = "cpu",
    batch: options.BatchSizes = "1,16",
    threads: options.Threads = "all",
    seconds: options.Seconds = 5.0,
    against: options.Against = None,
    image_size: options.ImageSize = None,
    isolated: options.Isolated = False,
    starts: options.Starts = 3,
    fail_if_slower: options.FailIfSlower = None,
    runs: options.Runs = options.RUNS,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time the exported file against the full backbone in ONNX Runtime, interleaved."""
    batch_sizes = options.whole_numbers("--batch", batch, such_as="1,16")
    n_threads = options.threads(threads)
    from prune_tool.cli.console import show, watching
    from prune_tool.deploy.bench import Conditions
    from prune_tool.pipeline.bench import bench, require_fast_enough
    from prune_tool.report.bench import bench_tables
    from prune_tool.store.layout import newest_run, open_run

    folder = newest_run(runs) if run is None else open_run(run)
    conditions = Conditions(
        provider=provider,
        batch_sizes=batch_sizes,
        threads=n_threads,
        seconds=seconds,
        image_size=image_size,
        isolated=isolated,
        n_starts=starts,
    )
    with watching(quiet=quiet) as progress, progress.stage("timing the files"):
        result = bench(folder, conditions, against=against or ())
    show(result, bench_tables(result), as_json=json)
    if fail_if_slower is not None:
        require_fast_enough(result, fail_if_slower)
