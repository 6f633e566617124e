"""Whatever is wrong with a request is one message and status 2, and what the message proposes works."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest
import torch

from tests.cli.conftest import QUICK
from tests.support import Answer, ask

NOWHERE = "no-such-folder-anywhere"


def refusal(answer: Answer) -> str:
    """The one message of a refused request."""
    assert answer.status == 2, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.count("prune-tool: ") == 1
    lines = answer.err.splitlines()
    assert lines[-1].startswith("prune-tool: ")
    return lines[-1]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Ask ``analyze`` for something that it must refuse before it writes anything; gives the message."""

    def ask_to_analyze(*args: object) -> str:
        runs = tmp_path / "runs"
        answer = ask("analyze", *args, "--runs", runs, "-q")
        message = refusal(answer)
        assert answer.err == message + "\n"
        assert not runs.exists()
        return message

    return ask_to_analyze


def proposal(message: str, pattern: str) -> str:
    found = re.search(pattern, message)
    assert found is not None, message
    return found.group(1)


class TestImages:
    def test_a_missing_path(self, refused: Callable[..., str], convnet: str, images: Path, tmp_path: Path) -> None:
        message = refused(convnet, images.with_name("texture"), *QUICK)
        assert "no such file or folder" in message
        meant = proposal(message, r"Did you mean (.+)\?")
        assert ask("analyze", convnet, meant, *QUICK, "--runs", tmp_path / "runs", "-q").status == 0

    def test_an_empty_folder(self, refused: Callable[..., str], convnet: str, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "no class folders" in refused(convnet, tmp_path / "empty")

    def test_one_class(self, refused: Callable[..., str], convnet: str, images: Path, tmp_path: Path) -> None:
        shutil.copytree(images / "rows", tmp_path / "data" / "rows")
        assert "only one class, rows" in refused(convnet, tmp_path / "data")

    def test_a_corrupt_image(self, refused: Callable[..., str], convnet: str, images: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        shutil.copytree(images, data)
        (data / "rows" / "003.png").write_bytes((data / "rows" / "003.png").read_bytes()[:200])
        message = refused(convnet, data, *QUICK)
        assert str(data / "rows" / "003.png") in message
        remedy = proposal(message, r"(--skip-bad)")
        answer = ask("analyze", convnet, data, *QUICK, remedy, "--runs", tmp_path / "runs", "--json")
        assert answer.status == 0
        assert '"n_bad_images": 1' in answer.out

    def test_an_unreadable_kind(self, refused: Callable[..., str], convnet: str, tmp_path: Path) -> None:
        (tmp_path / "images.zip").write_bytes(b"")
        assert "no reader for .zip" in refused(convnet, tmp_path / "images.zip")


class TestModel:
    def test_an_unknown_name(self, refused: Callable[..., str], images: Path) -> None:
        meant = proposal(refused("test_resnett", images), r"Did you mean (\S+?)[ ?]")
        assert ask("inspect", meant, "-q").status == 0

    def test_a_folder_without_its_scheme(self, refused: Callable[..., str], convnet: str, images: Path) -> None:
        folder = convnet.removeprefix("local-dir:")
        meant = proposal(refused(folder, images), r"Did you mean (\S+)\?")
        assert meant == convnet
        assert ask("inspect", meant, "-q").status == 0

    def test_keys_that_do_not_fit(self, refused: Callable[..., str], convnet: str, images: Path) -> None:
        weights = Path(convnet.removeprefix("local-dir:")) / "model.safetensors"
        for command in (("analyze", "test_vit", images), ("inspect", "test_vit")):
            message = refusal(ask(*command, "--checkpoint", weights, "-q"))
            assert "do not fit test_vit" in message
            assert "Name the architecture" in message
        assert ask("inspect", "test_resnet", "--checkpoint", weights, "-q").status == 0

    def test_a_pickle_that_wants_code(self, refused: Callable[..., str], images: Path, tmp_path: Path) -> None:
        from safetensors.torch import save_file
        from timm import create_model

        canary = tmp_path / "canary"

        class Bomb:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (canary,)

        torch.save({"state_dict": Bomb()}, tmp_path / "weights.pth")
        torch.load(tmp_path / "weights.pth", weights_only=False)
        assert canary.exists(), "it does go off"
        canary.unlink()
        message = refused("test_resnet", images, "--checkpoint", tmp_path / "weights.pth")
        assert not canary.exists()
        assert "nothing in it was run" in message
        assert "safetensors.torch.save_file(model.state_dict(), " in message
        save_file(create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
        assert ask("inspect", "test_resnet", "--checkpoint", tmp_path / "weights.safetensors", "-q").status == 0

    def test_weights_that_cannot_be_downloaded(
        self, refused: Callable[..., str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        message = refused("test_vit", images)
        assert "could not be downloaded" in message
        assert "local-dir:FOLDER" in message  # which every other test here gives

    def test_a_missing_checkpoint(self, refused: Callable[..., str], images: Path) -> None:
        assert "no such file" in refused("test_resnet", images, "--checkpoint", NOWHERE)

    def test_a_checkpoint_without_architecture(self, convnet: str) -> None:
        weights = Path(convnet.removeprefix("local-dir:")) / "model.safetensors"
        message = refusal(ask("inspect", "--checkpoint", weights, "-q"))
        assert ask("inspect", proposal(message, r"such as (\w+)"), "--input-size", "64", "-q").status == 0

    def test_a_size_it_cannot_take(self) -> None:
        assert "at 7 px" in refusal(ask("inspect", "test_vit", "--input-size", "7", "-q"))


class TestOptions:
    """Where a value is proposed, the next complaint is about the images: the option was taken."""

    @pytest.mark.parametrize(
        ("option", "value", "proposed"),
        [
            ("--device", "tpu", r"Choose (\w+) or"),
            ("--device", "cuda:x", r"Choose (\w+) or"),
            ("--engine", "spark", r"Choose (\w+) or"),
            ("--workers", "many", r"Try --workers (\S+)"),
            ("--strategy", "clever", r"Choose \w+ or (\w+)"),
            ("--allocation", "evenly", r"Choose (\w+) or"),
            ("--metric", "f1", r"Choose \w+ or (\S+)"),
            ("--cost", "money", r"Choose \w+, (\w+),"),
            ("--input-size", "large", r"Try --input-size (\S+)"),
            ("--narrow", "half", r"Try --narrow (\S+)"),
            ("--narrow", "1.5", r"Try --narrow (\S+)"),
            ("--narrow", "0.5,", r"Try --narrow (\S+)"),
            ("--input-size", "0", r"Try --input-size (\S+)"),
            ("--input-size", "128,,96", r"Try --input-size (\S+)"),
            ("--mean", "123.675,116.28,103.53", r"Try --mean (\S+)"),
            ("--mean", "0.5,0.5", r"Try --mean (\S+)"),
            ("--mean", "nan", r"Try --mean (\S+)"),
            ("--mean", "grey", r"Try --mean (\S+)"),
            ("--std", "0", r"Try --std (\S+)"),
            ("--std", "58.4,57.1,57.4", r"Try --std (\S+)"),
            ("--interpolation", "cubic", r"Try --interpolation (\S+)"),
            ("--crop-pct", "87.5", r"Try --crop-pct (\S+)"),
            ("--crop-pct", "0", r"Try --crop-pct (\S+)"),
            ("--crop-mode", "squeeze", r"Try --crop-mode (\S+)"),
        ],
    )
    def test_of_analyze(self, refused: Callable[..., str], option: str, value: str, proposed: str) -> None:
        message = refused("test_resnet", NOWHERE, option, value)
        assert f"{option} {value}" in message
        assert NOWHERE in refused("test_resnet", NOWHERE, option, proposal(message, proposed))

    @pytest.mark.parametrize("budget", ["much", "1", "-0.1", "100pp", "nan", "5", ""])
    @pytest.mark.parametrize("command", ["export", "compress"])
    def test_budget(self, command: str, budget: str, tmp_path: Path) -> None:
        def ask_for(text: str) -> str:
            place = ("--runs", tmp_path / "runs")
            answer = ask(command, *([] if command == "export" else ["test_resnet"]), NOWHERE, "--budget", text, *place)
            assert not (tmp_path / "runs").exists()
            return refusal(answer)

        message = ask_for(budget)
        assert f"--budget {budget}:" in message
        proposed = re.findall(r"--budget (\S+) \(", message)
        assert len(proposed) == 2
        assert all(NOWHERE in ask_for(text) for text in proposed)

    def test_several_budgets_beside_a_limit(self) -> None:
        for command in ("export", "compress"):
            message = refusal(ask(command, NOWHERE, "--budget", "0.01,5pp", "--max-macs", "1M"))
            assert "2 budgets with --max-macs" in message
            assert "Give one --budget" in message
            assert NOWHERE in refusal(ask(command, NOWHERE, "--budget", "0.01", "--max-macs", "1M"))

    def test_class_drop(self) -> None:
        message = refusal(ask("export", NOWHERE, "--max-class-drop", "lots"))
        proposed = shlex.split(proposal(message, r"Try (--max-class-drop \S+)"))
        assert NOWHERE in refusal(ask("export", NOWHERE, *proposed))

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
    def test_an_absent_device(self, refused: Callable[..., str]) -> None:
        message = refused("test_resnet", NOWHERE, "--device", "cuda")
        assert "no CUDA device" in message
        assert NOWHERE in refused("test_resnet", NOWHERE, *shlex.split(proposal(message, r"Use (--device cpu)")))

    def test_a_gpu_too_many(self, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        message = refused("test_resnet", NOWHERE, "--device", "cuda:2")
        assert "PyTorch finds 2 of them" in message
        assert NOWHERE in refused("test_resnet", NOWHERE, *shlex.split(proposal(message, r"Use (--device cuda:0)")))


class TestRun:
    def test_that_does_not_exist(self, exported: Path) -> None:
        message = refusal(ask("bench", exported.with_name("shard"), "-q"))
        there = proposal(message, r"There is (\S+)")
        assert Path(there) == exported
        assert ask("bench", there, "--batch", "1", "--seconds", "0.1", "--starts", "0", "-q").status == 0

    @pytest.mark.parametrize("command", ["export", "bench"])
    def test_before_analyze(self, command: str, tmp_path: Path) -> None:
        """That the command proposed there works is what every other test here starts from."""
        message = refusal(ask(command, "--runs", tmp_path, "-q"))
        assert "Run `prune-tool analyze` first" in message
        assert not list(tmp_path.iterdir())

    def test_bench_before_export(self, analyzed: Path, exported: Path) -> None:
        before = sorted(analyzed.iterdir())
        assert f"Run `prune-tool export {analyzed}` first" in refusal(ask("bench", analyzed, "-q"))
        assert sorted(analyzed.iterdir()) == before
        assert ask("bench", exported, "--batch", "1", "--seconds", "0.1", "--starts", "0", "-q").status == 0

    def test_the_newest_is_taken_where_none_is_named(self, exported: Path) -> None:
        assert (
            ask("bench", "--runs", exported.parent, "--batch", "1", "--seconds", "0.1", "--starts", "0", "-q").status
            == 0
        )

    def test_a_damaged_one(self, analyzed: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(analyzed, run)
        (run / "run.json").write_text("{")
        assert "not JSON" in refusal(ask("export", run, "-q"))
        (run / "run.json").write_text('{"schema_version": 1}')
        assert "prune-tool analyze" in refusal(ask("export", run, "-q"))

    def test_unknown_taps(self, analyzed: Path) -> None:
        before = sorted(analyzed.iterdir())
        assert "no tap nowhere" in refusal(ask("export", analyzed, "--taps", "nowhere", "-q"))
        assert sorted(analyzed.iterdir()) == before

    @pytest.mark.parametrize("provider", ["cuda", "nonsense"])
    def test_an_absent_execution_provider(self, provider: str, exported: Path) -> None:
        if "CUDAExecutionProvider" in ort.get_available_providers() and provider == "cuda":
            pytest.skip("the CUDA provider is there")
        message = refusal(ask("bench", exported, "--provider", provider, "-q"))
        assert not (exported / "bench.json").exists() or "cpu" in (exported / "bench.json").read_text()
        there = proposal(message, r"Use one of: (\w+)")
        again = ask("bench", exported, "--provider", there, "--batch", "1", "--seconds", "0.1", "--starts", "0", "-q")
        assert again.status == 0

    def test_batch_sizes_that_are_none(self, exported: Path) -> None:
        message = refusal(ask("bench", exported, "--batch", "1;16", "-q"))
        proposed = shlex.split(proposal(message, r"Try (--batch \S+)"))
        assert ask("bench", exported, *proposed, "--seconds", "0.1", "--starts", "0", "-q").status == 0
