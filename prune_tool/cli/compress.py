"""``prune-tool compress``: analyze, export, bench and report in one go."""

from prune_tool.cli import options


def command(
    model: options.Model = None,
    data: options.Data = None,
    checkpoint: options.Checkpoint = None,
    budget: options.Budget = "0.05",
    input_size: options.InputSize = "auto",
    narrow: options.Narrow = "off",
    calibration: options.Calibration = options.CALIBRATION,
    allocation: options.Allocation = "uniform",
    heal: options.Heal = 0,
    taps: options.Taps = "all",
    confidence: options.Confidence = options.CONFIDENCE,
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
    max_class_drop: options.MaxClassDrop = None,
    max_latency: options.MaxLatency = None,
    max_macs: options.MaxMacs = None,
    max_params: options.MaxParams = None,
    max_size: options.MaxSize = None,
    probabilities: options.Probabilities = False,
    preprocess: options.Preprocess = "normalize",
    precision: options.Precision = "fp32",
    runs: options.Runs = options.RUNS,
    name: options.Name = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Analyze, export, bench and report in one go: from a backbone and images to a smaller file, proven and timed."""
    from prune_tool.records import Budget, Form, Target

    budgets = Budget.parse_all(budget)
    limits = options.limits(latency=max_latency, macs=max_macs, params=max_params, size=max_size)
    options.require_one_budget(budgets, limits)
    form = Form.parse_each(preprocess, precision, probabilities=probabilities)
    most = None if max_class_drop is None else options.points("--max-class-drop", max_class_drop)
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
    )
    from prune_tool.cli.console import pass_gates, show, watching
    from prune_tool.pipeline.analyze import analyze
    from prune_tool.pipeline.bench import bench
    from prune_tool.pipeline.export import export, export_each
    from prune_tool.pipeline.workspace import Workspace
    from prune_tool.report.bench import bench_tables
    from prune_tool.report.budgets import budget_tables
    from prune_tool.report.html import write_report
    from prune_tool.report.tables import analysis_tables, export_tables
    from prune_tool.report.written import written_table

    with watching(quiet=quiet) as progress:
        workspace = Workspace(request, progress)
        analyzed = analyze(workspace, runs=runs, name=name)
        run, classes = analyzed.run, analyzed.record.classes
        if len(budgets) > 1:
            exported = export_each(workspace, run, budgets=budgets, confidence=confidence, taps=taps, form=form)
        else:
            one = export(workspace, run, budget=budgets[0], confidence=confidence, taps=taps, limits=limits, form=form)
            exported = {run: one}
        timed, written = {}, {}
        for place in exported:
            with progress.stage("timing the files"):
                timed[place] = bench(place)
            written[place] = write_report(place, workspace=workspace, progress=progress)
    several = len(budgets) > 1
    parts = {
        place.name: {"export": exported[place], "bench": timed[place], "report": written[place]} for place in exported
    }
    found: dict[str, object] = {"budgets": parts} if several else {**parts[run.name]}
    tables = [*analysis_tables(analyzed)]
    if several:
        tables += budget_tables(exported, analyzed.analysis, classes)
    else:
        tables += export_tables(exported[run], analyzed.analysis, classes, run)
    for place in exported:
        tables += [*bench_tables(timed[place]), written_table(written[place])]
    show({"analysis": analyzed, **found}, tables, as_json=json)
    pass_gates(exported.values(), classes, most)
