"""``push`` uploads what ships and nothing else. The Hub itself is not reached here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from huggingface_hub import HfApi

from tests.support import ask

SHIPPED = ["README.md", "model.onnx", "model.pt2", "labels.json", "certificate.json"]


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(exported, folder)
    (folder / "bench.json").unlink(missing_ok=True)
    return folder


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_no_real_one")


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.usefixtures("no_token", "unreachable")
def test_a_dry_run_lists_exactly_what_ships_and_needs_no_network(run: Path) -> None:
    answer = ask("push", run, "me/cells", "--private", "--dry-run", "--json", "-q")
    assert (answer.status, answer.err) == (0, "")
    printed = json.loads(answer.out)
    assert printed["files"] == [{"name": name, "n_bytes": (run / name).stat().st_size} for name in SHIPPED]
    assert (printed["repository"], printed["private"], printed["url"]) == ("me/cells", True, None)
    shown = ask("push", run, "me/cells", "--dry-run", "-q").out
    assert "Would be uploaded to me/cells" in shown
    assert "run.json" not in shown


@pytest.mark.usefixtures("no_token", "unreachable")
def test_without_a_token_it_says_how_to_get_one(run: Path) -> None:
    answer = ask("push", run, "me/cells", "-q")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert "Run `hf auth login` first" in answer.err


@pytest.mark.usefixtures("token", "unreachable")
def test_an_unreachable_hub_is_one_message(run: Path) -> None:
    answer = ask("push", run, "me/cells", "-q")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert "Check the network" in answer.err


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("is_private", [True, False])
def test_what_is_private_never_goes_to_a_public_repository(
    is_private: bool, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls are checked against the Hub client's own signatures."""
    api = create_autospec(HfApi, instance=True)
    api.model_info.return_value.private = is_private
    api.upload_folder.return_value.commit_url = "https://example.org/commit"
    monkeypatch.setattr("prune_tool.pipeline.push.HfApi", lambda: api)
    answer = ask("push", run, "me/cells", "--private", "-q")
    api.create_repo.assert_called_once_with("me/cells", private=True, exist_ok=True)
    if is_private:
        assert (answer.status, answer.err) == (0, "")
        assert "https://example.org/commit" in answer.out
        sent = api.upload_folder.call_args.kwargs
        assert (sent["repo_id"], sent["folder_path"], sent["allow_patterns"]) == ("me/cells", run, SHIPPED)
    else:
        assert answer.status == 2
        assert "public; nothing was uploaded" in answer.err
        api.upload_folder.assert_not_called()


@pytest.mark.parametrize("name", ["cells", "me/cells/more", "me/ce lls", ""])
def test_what_is_no_repository_is_refused(name: str, run: Path) -> None:
    answer = ask("push", run, name, "--dry-run", "-q")
    assert answer.status == 2
    assert "Give OWNER/NAME, such as me/solar-cells-lite0" in answer.err
    assert ask("push", run, "me/solar-cells-lite0", "--dry-run", "-q").status == 0


def test_a_file_that_is_not_the_certified_one_is_refused(run: Path, analyzed: Path) -> None:
    shutil.copy(run / "full.onnx", run / "model.onnx")
    answer = ask("push", run, "me/cells", "--dry-run", "-q")
    assert answer.status == 2
    assert "speaks of another file" in answer.err
    assert "prune-tool export" in ask("push", analyzed, "me/cells", "--dry-run", "-q").err
