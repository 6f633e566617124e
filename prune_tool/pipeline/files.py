"""The ONNX file that a user names, by its path or by its run, described and checked."""

from __future__ import annotations

from pathlib import Path

from prune_tool.deploy.description import Description, describe_file
from prune_tool.errors import RunError
from prune_tool.store.atomic import read_json
from prune_tool.store.layout import RunFolder, open_run


def describe(place: Path) -> Description:
    """Describe an ONNX file, or the one that a run ships.

    Raises:
        RunError: there is none, it is damaged, or it is not the one that the run's certificate speaks of.
    """
    if not place.is_dir():
        return describe_file(place)
    run = open_run(place)
    description = describe_file(require_exported(run))
    require_certified_bytes(run, description.sha256)
    return description


def require_exported(run: RunFolder) -> Path:
    """The file that a run ships. Raises ``RunError`` where there is none yet."""
    run.require(run.model, asked=f"read the file of the run {run.path}")
    return run.model


def require_certified_bytes(run: RunFolder, sha256: str) -> None:
    """Raise ``RunError`` unless ``certificate.json`` speaks of a file with this SHA-256."""
    proof = read_json(run.certificate)
    certified = str(proof.get("model_sha256")) if isinstance(proof, dict) else "none"
    if certified != sha256:
        raise RunError(
            asked=f"read {run.model}",
            found=f"{run.certificate.name} speaks of another file (sha256 {certified[:12]}, this is {sha256[:12]})",
            remedy=f"Run `prune-tool export {run.path}` again",
        )
