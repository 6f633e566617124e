"""``prune-tool analyze``."""

from prune_tool.cli import options


def command(
    model: options.Model = None,
    data: options.Data = None,
    checkpoint: options.Checkpoint = None,
    input_size: options.InputSize = "auto",
    narrow: options.Narrow = "off",
    calibration: options.Calibration = options.CALIBRATION,
    allocation: options.Allocation = "uniform",
    heal: options.Heal = 0,
    seed: options.Seed = options.SEED,
    draws: options.Draws = options.DRAWS,
    skip_bad: options.SkipBad = False,
    device: options.Device = "cpu",
    amp: options.Amp = False,
    engine: options.Engine = "local",
    workers: options.Workers = "auto",
    strategy: options.Strategy = "random",
    metric: options.Metric = "accuracy",
    cost: options.Cost = "latency",
    target: options.TargetProvider = "cpu",
    target_batch: options.TargetBatch = options.TARGET_BATCH,
    target_threads: options.TargetThreads = options.TARGET_THREADS,
    modules: options.Modules = None,
    round_to: options.RoundTo = options.ROUND_TO,
    mean: options.Mean = None,
    std: options.Std = None,
    interpolation: options.Interpolation = None,
    crop_pct: options.CropPct = None,
    crop_mode: options.CropMode = None,
    compare: options.Compare = False,
    nearest: options.Nearest = False,
    runs: options.Runs = options.RUNS,
    name: options.Name = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how redundant a backbone is for your images, and where cutting it pays."""
    from prune_tool.records import Target

    request = options.request(
        model=model,
        data=data,
        checkpoint=checkpoint,
        input_size=input_size,
        narrow=narrow,
        calibration=calibration,
        allocation=allocation,
        heal=heal,
        seed=seed,
        draws=draws,
        skip_bad=skip_bad,
        device=device,
        amp=amp,
        engine=engine,
        workers=workers,
        strategy=strategy,
        metric=metric,
        cost=cost,
        target=Target(provider=target, batch_size=target_batch, n_threads=target_threads),
        modules=modules,
        round_to=round_to,
        preprocessing=options.preprocessing(
            mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode
        ),
        compare=compare,
    )
    from prune_tool.cli.console import show, watching
    from prune_tool.pipeline.analyze import analyze
    from prune_tool.pipeline.workspace import Workspace
    from prune_tool.report.tables import analysis_tables

    with watching(quiet=quiet) as progress:
        analyzed = analyze(Workspace(request, progress), runs=runs, name=name)
    show(analyzed, analysis_tables(analyzed, nearest=nearest), as_json=json)
