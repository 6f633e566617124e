"""``prune-tool compress``: analyze, export and bench in one go."""

from prune_tool.cli import options


def command(
    model: options.Model = None,
    data: options.Data = None,
    checkpoint: options.Checkpoint = None,
    budget: options.Budget = "0.05",
    input_size: options.InputSize = "auto",
    taps: options.Taps = "all",
    confidence: options.Confidence = options.CONFIDENCE,
    seed: options.Seed = options.SEED,
    draws: options.Draws = options.DRAWS,
    skip_bad: options.SkipBad = False,
    device: options.Device = "cpu",
    strategy: options.Strategy = "random",
    modules: options.Modules = None,
    round_to: options.RoundTo = options.ROUND_TO,
    max_class_drop: options.MaxClassDrop = None,
    preprocess: options.Preprocess = "normalize",
    precision: options.Precision = "fp32",
    runs: options.Runs = options.RUNS,
    name: options.Name = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Analyze, export and bench in one go: from a backbone and images to a smaller file, proven and timed."""
    from prune_tool.records import Budget, Form

    loss = Budget.parse(budget)
    form = Form.parse(preprocess, precision)
    most = None if max_class_drop is None else options.points("--max-class-drop", max_class_drop)
    request = options.request(
        model=model,
        data=data,
        checkpoint=checkpoint,
        input_size=input_size,
        seed=seed,
        draws=draws,
        skip_bad=skip_bad,
        device=device,
        strategy=strategy,
        modules=modules,
        round_to=round_to,
    )
    from prune_tool.cli.console import pass_gates, show, watching
    from prune_tool.pipeline.analyze import analyze
    from prune_tool.pipeline.bench import bench
    from prune_tool.pipeline.export import export
    from prune_tool.pipeline.workspace import Workspace
    from prune_tool.report.tables import analysis_tables, bench_tables, export_tables

    with watching(quiet=quiet) as progress:
        workspace = Workspace(request, progress)
        analyzed = analyze(workspace, runs=runs, name=name)
        exported = export(workspace, analyzed.run, budget=loss, confidence=confidence, taps=taps, form=form)
        with progress.stage("timing both files"):
            timed = bench(analyzed.run)
    tables = [
        *analysis_tables(analyzed),
        *export_tables(exported, analyzed.analysis, analyzed.record.classes, analyzed.run),
        *bench_tables(timed),
    ]
    show({"analysis": analyzed, "export": exported, "bench": timed}, tables, as_json=json)
    pass_gates(exported, analyzed.record.classes, most)
