from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.support import ask

QUICK = ("--batch", "1", "--threads", "1", "--seconds", "0.2", "--starts", "0", "-q")


def test_other_files_and_int8_stand_in_the_same_table(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    shutil.copy(run / "full.onnx", run / "full-int8.onnx")
    other = shutil.copy(run / "model.onnx", tmp_path / "other.onnx")
    answer = ask("bench", run, *QUICK, "--threads", "1,all", "--against", other, "--against", other, "--json")
    assert (answer.status, answer.err) == (0, "")
    printed = json.loads(answer.out)
    names = ["full", "kept", "full int8", "other", "other (2)"]
    assert [(t["contender"], t["n_threads"]) for t in printed["timings"]] == [(n, t) for t in (1, None) for n in names]
    sizes = {c["name"]: (c["file_bytes"], c["macs"], c["n_params"]) for c in printed["contenders"]}
    proof = json.loads((run / "certificate.json").read_text())["built"]["candidate"]
    assert sizes["kept"] == ((run / "model.onnx").stat().st_size, proof["macs"], proof["n_params"])
    assert sizes["full"][1] > sizes["kept"][1]
    shown = ask("bench", run, *QUICK, "--against", other)
    assert all(f"│ {name} " in shown.out for name in ("full", "kept", "full int8", "other"))
    assert "governor" in shown.out


def test_a_damaged_certificate_is_named_and_what_was_measured_kept(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    (run / "bench.json").unlink(missing_ok=True)
    (run / "certificate.json").write_text("{}")
    answer = ask("bench", run, *QUICK)
    assert answer.status == 2
    assert "Run `prune-tool export` again" in answer.err
    assert json.loads((run / "bench.json").read_text())["timings"]


def test_starts_in_fresh_processes_are_shown(exported: Path) -> None:
    answer = ask("bench", exported, *QUICK, "--starts", "1", "--isolated", "--json")
    printed = json.loads(answer.out)
    assert printed["conditions"]["isolated"]
    assert all(contender["cold_start_ms"] > 0 for contender in printed["contenders"])


@pytest.mark.parametrize("threads", ["0", "many", "1,,all", ""])
def test_threads_that_are_none(threads: str, exported: Path) -> None:
    answer = ask("bench", exported, *QUICK, "--threads", threads)
    assert (answer.status, answer.out) == (2, "")
    proposed = re.search(r"Try (--threads \S+)", answer.err)
    assert proposed is not None
    assert ask("bench", exported, *QUICK, *shlex.split(proposed.group(1))).status == 0


def test_a_file_that_is_slower_than_asked_is_status_1_and_the_figure_is_named(exported: Path) -> None:
    assert ask("bench", exported, *QUICK, "--fail-if-slower", "0.01").status == 0
    answer = ask("bench", exported, *QUICK, "--fail-if-slower", "1000")
    assert answer.status == 1
    assert "kept" in answer.out
    assert re.search(r"at batch 1 on 1 threads the file is \d+\.\d\d times as fast as the full backbone", answer.err)
    assert json.loads((exported / "bench.json").read_text())["timings"], "what was measured is kept"
    low, accepted = re.search(
        r"interval (\S+) to .* accept --fail-if-slower (\S+)", answer.err.replace("\n", " ")
    ).groups()
    assert 0.8 * float(low) < float(accepted) < 0.95 * float(low), "what is proposed passes on a noisier day, too"


def test_a_missing_file_to_compare_with(exported: Path, tmp_path: Path) -> None:
    answer = ask("bench", exported, *QUICK, "--against", tmp_path / "absent.onnx")
    assert (answer.status, answer.out) == (2, "")
    assert "no such file" in answer.err
