"""``prune-tool analyze``."""

from prune_tool.cli import options


def command(
    model: options.Model = None,
    data: options.Data = None,
    checkpoint: options.Checkpoint = None,
    input_size: options.InputSize = "auto",
    seed: options.Seed = options.SEED,
    draws: options.Draws = options.DRAWS,
    skip_bad: options.SkipBad = False,
    device: options.Device = "cpu",
    amp: options.Amp = False,
    engine: options.Engine = "local",
    workers: options.Workers = "auto",
    strategy: options.Strategy = "random",
    modules: options.Modules = None,
    round_to: options.RoundTo = options.ROUND_TO,
    compare: options.Compare = False,
    nearest: options.Nearest = False,
    runs: options.Runs = options.RUNS,
    name: options.Name = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how redundant a backbone is for your images, and where cutting it pays."""
    request = options.request(
        model=model,
        data=data,
        checkpoint=checkpoint,
        input_size=input_size,
        seed=seed,
        draws=draws,
        skip_bad=skip_bad,
        device=device,
        amp=amp,
        engine=engine,
        workers=workers,
        strategy=strategy,
        modules=modules,
        round_to=round_to,
        compare=compare,
    )
    from prune_tool.cli.console import show, watching
    from prune_tool.pipeline.analyze import analyze
    from prune_tool.pipeline.workspace import Workspace
    from prune_tool.report.tables import analysis_tables

    with watching(quiet=quiet) as progress:
        analyzed = analyze(Workspace(request, progress), runs=runs, name=name)
    show(analyzed, analysis_tables(analyzed, nearest=nearest), as_json=json)
