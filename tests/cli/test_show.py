"""``show`` says what a file is, and what is wrong with it in one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import onnxruntime as ort

from tests.support import ask


def test_a_run_and_its_file_say_what_they_are(exported: Path) -> None:
    answer = ask("show", exported, "--json")
    assert (answer.status, answer.err) == (0, "")
    printed = json.loads(answer.out)
    assert printed == json.loads(ask("show", exported / "model.onnx", "--json").out)
    record = json.loads((exported / "run.json").read_text())
    proof = json.loads((exported / "certificate.json").read_text())
    assert printed["n_bytes"] == proof["built"]["n_bytes"]
    said = printed["metadata"]
    assert printed["sealed"]
    assert printed["sha256"] == proof["model_sha256"]
    assert json.loads(said["classes"]) == record["classes"]
    assert said["model_fingerprint"] == record["model_fingerprint"]
    assert said["data_fingerprint"] == record["data_fingerprint"]
    assert said["budget"] == "20 %"
    assert said["seed"] == "0"
    assert int(said["n_neurons"]) == proof["built"]["candidate"]["n_neurons"]
    assert int(said["n_neurons"]) == sum(map(len, json.loads(said["neurons"]).values()))
    assert said["version"] == record["versions"]["prune-tool"]
    certificate = json.loads(said["certificate"])
    assert certificate["sentence"] == proof["sentence"]
    assert certificate["confidence"] == 0.95
    assert certificate["kept"] == proof["certificate"]["test"]["kept"]
    assert certificate["full"] == proof["certificate"]["test"]["full"]


def test_the_page_is_readable(exported: Path) -> None:
    answer = ask("show", exported)
    assert (answer.status, answer.err) == (0, "")
    for part in ("checks, rows, stripes", "certified", "Conv", "images: float (batch, 3, 64, 64)", "opset"):
        assert part in answer.out
    assert "checks, rows, stripes" in ask("show", exported / "full.onnx").out


def test_a_foreign_file_is_shown_with_what_there_is(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    onnx.helper.set_model_props(model, {"author": "someone"})
    onnx.save(model, tmp_path / "foreign.onnx")
    answer = ask("show", tmp_path / "foreign.onnx")
    assert (answer.status, answer.err) == (0, "")
    assert "carries no prune-tool metadata" in answer.out
    assert "someone" in answer.out


def test_what_is_wrong_with_a_file_is_one_message(exported: Path, tmp_path: Path) -> None:
    whole = (exported / "model.onnx").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    cases = {"flipped": bytes(flipped), "short": whole[: len(whole) // 2], "text": b"no ONNX file"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        answer = ask("show", tmp_path / name)
        assert (answer.status, answer.out) == (2, "")
        assert answer.err.count("\n") == 1
        assert str(tmp_path / name) in answer.err


def test_a_run_whose_file_is_not_the_certified_one_is_refused(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    shutil.copy(run / "full.onnx", run / "model.onnx")
    answer = ask("show", run)
    assert answer.status == 2
    assert "speaks of another file" in answer.err
    (run / "certificate.json").write_text("[]")
    assert "speaks of another file" in ask("show", run).err


def test_a_run_without_a_file_says_what_to_do(analyzed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(analyzed, run)
    answer = ask("show", run)
    assert answer.status == 2
    assert f"Run `prune-tool export {run}` first" in answer.err
    assert ask("export", run, "--budget", "0.2", "--probabilities", "-q").status == 0
    assert "probabilities: float (batch, 3)" in ask("show", run).out
    assert [output.name for output in ort.InferenceSession(run / "model.onnx").get_outputs()] == [
        "logits",
        "probabilities",
    ]
