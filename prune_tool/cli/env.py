"""``prune-tool env``."""

from prune_tool.cli import options


def command(json: options.Json = False) -> None:
    """Show versions, processor, devices, execution providers and the cache: what a bug report needs."""
    from prune_tool.cli.console import show
    from prune_tool.pipeline.machine import describe_machine
    from prune_tool.report.machine import machine_tables

    machine = describe_machine()
    show(machine, machine_tables(machine), as_json=json)
