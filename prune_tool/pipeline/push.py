"""``push``: the files of a run that ship, to a repository of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass

import huggingface_hub
from huggingface_hub import HfApi

from prune_tool.deploy.description import describe_file
from prune_tool.errors import HubError, UsageError
from prune_tool.pipeline.card import write_card
from prune_tool.pipeline.files import require_certified_bytes, require_exported
from prune_tool.store.layout import RunFolder
from prune_tool.task.origin import why_no_repository


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to upload, by its name in the repository."""

    name: str
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What was uploaded, or would be.

    Attributes:
        repository: ``OWNER/NAME``.
        private: whether a repository that is made for it is; None leaves it to the owner's settings.
        files: all of them.
        url: of the commit; None for a dry run.
    """

    repository: str
    private: bool | None
    files: tuple[File, ...]
    url: str | None


def push(run: RunFolder, repository: str, *, private: bool = False, dry_run: bool = False) -> Pushed:
    """Upload the shipped files of an exported run; what was measured on the way stays here.

    Args:
        run: exported, and its file the one that its certificate speaks of.
        repository: ``OWNER/NAME``; made where there is none.
        private: for its owner only. A repository that is there already must be private then.
        dry_run: check everything that can be checked without a network and upload nothing.

    Raises:
        RunError: the run has not been exported, or its file is damaged or not the certified one.
        UsageError: that is no name of a repository.
        HubError: there is no token, or the Hub cannot be reached or refuses.
    """
    _require_name(repository)
    require_certified_bytes(run, describe_file(require_exported(run)).sha256)
    if not run.model_card.is_file():
        write_card(run)
    shipped = (run.model_card, run.model, run.program, run.labels, run.certificate, run.bench)
    files = tuple(File(name=path.name, n_bytes=path.stat().st_size) for path in shipped if path.is_file())
    url = None if dry_run else _upload(run, repository, [file.name for file in files], private=private)
    return Pushed(repository=repository, private=private or None, files=files, url=url)


def _require_name(repository: str) -> None:
    found = why_no_repository(repository) or ("it names no owner" if "/" not in repository else None)
    if found is not None:
        raise UsageError(
            asked=f"push to {repository!r}", found=found, remedy="Give OWNER/NAME, such as me/solar-cells-lite0"
        )


def _upload(run: RunFolder, repository: str, names: list[str], *, private: bool) -> str:
    asked = f"push {run.path} to {repository}"
    if huggingface_hub.get_token() is None:
        raise HubError(
            asked=asked,
            found="no token of the Hugging Face Hub on this machine",
            remedy="Run `hf auth login` first, or set HF_TOKEN; --dry-run needs none",
        )
    api = HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        is_public = private and not api.model_info(repository).private
        commit = None
        if not is_public:
            commit = api.upload_folder(
                repo_id=repository, folder_path=run.path, allow_patterns=names, commit_message=f"Upload {run.name}"
            )
    except Exception as error:  # the Hub's own errors, the network's and the disk's
        raise HubError(
            asked=asked,
            found=(str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."),
            remedy="Check the network, the name, and that the token may write (`hf auth whoami`)",
        ) from error
    if commit is None:
        raise HubError(
            asked=f"{asked} --private",
            found="that repository is there already, and public; nothing was uploaded",
            remedy="Make it private in its settings, or choose another name",
        )
    return str(commit.commit_url)
