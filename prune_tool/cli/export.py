"""``prune-tool export``."""

from prune_tool.cli import options


def command(
    run: options.Run = None,
    budget: options.Budget = "0.05",
    taps: options.Taps = "all",
    confidence: options.Confidence = options.CONFIDENCE,
    max_class_drop: options.MaxClassDrop = None,
    max_latency: options.MaxLatency = None,
    max_macs: options.MaxMacs = None,
    max_params: options.MaxParams = None,
    max_size: options.MaxSize = None,
    probabilities: options.Probabilities = False,
    preprocess: options.Preprocess = "normalize",
    precision: options.Precision = "fp32",
    runs: options.Runs = options.RUNS,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Cut the cheapest network within the budget, write it, and prove the file on untouched test images."""
    from prune_tool.records import Budget, Form

    budgets = Budget.parse_all(budget)
    limits = options.limits(latency=max_latency, macs=max_macs, params=max_params, size=max_size)
    options.require_one_budget(budgets, limits)
    form = Form.parse_each(preprocess, precision, probabilities=probabilities)
    most = None if max_class_drop is None else options.points("--max-class-drop", max_class_drop)
    from prune_tool.cli.console import pass_gates, show, watching
    from prune_tool.pipeline.export import export, export_each
    from prune_tool.pipeline.runs import read_analysis, read_record
    from prune_tool.pipeline.workspace import Workspace
    from prune_tool.report.budgets import budget_tables
    from prune_tool.report.tables import export_tables
    from prune_tool.store.layout import newest_run, open_run

    folder = newest_run(runs) if run is None else open_run(run)
    record = read_record(folder)
    with watching(quiet=quiet) as progress:
        workspace = Workspace(record.request, progress)
        if len(budgets) > 1:
            several = export_each(workspace, folder, budgets=budgets, confidence=confidence, taps=taps, form=form)
        else:
            exported = export(
                workspace, folder, budget=budgets[0], confidence=confidence, taps=taps, limits=limits, form=form
            )
    analysis = read_analysis(folder)
    if len(budgets) > 1:
        by_name = {place.name: each for place, each in several.items()}
        show(by_name, budget_tables(several, analysis, record.classes), as_json=json)
        pass_gates(several.values(), record.classes, most)
    else:
        show(exported, export_tables(exported, analysis, record.classes, folder), as_json=json)
        pass_gates([exported], record.classes, most)
