"""The benchmarks that state the project's numbers run, and what they say of the paper follows from its own figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(script: str, *args: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, args)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def separable(n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that any probe can tell apart, and four neurons of which one says which."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n_images)
    features = rng.standard_normal((n_images, 4))
    features[:, 2] += 8.0 * labels
    return features.astype(np.float32), labels


def test_the_recipe_learns_and_repeats(scripts):
    from _recipe import fit_recipe, n_correct

    features, labels = separable(600)
    train, test = slice(0, 400), slice(400, None)
    probes = [fit_recipe(features[train], labels[train], 2, "cpu", seed=0) for _ in range(2)]
    assert n_correct(probes[0], features[test], labels[test]) >= 195
    np.testing.assert_array_equal(*[probe.weight.detach().numpy() for probe in probes])


def test_scikit_learn_and_prune_tool_minimise_the_same_objective(scripts):
    from sweep import probe_one, synthetic

    task = synthetic(48, 800, 400)
    found = probe_one(task, np.arange(0, 48, 2), "cpu", strength=1e-2)
    assert abs(found["logistic"]["accuracy"] - found["scikit_learn"]["accuracy"]) <= 2 / 400


@pytest.mark.slow
def test_sweep_runs(tmp_path):
    printed = run("sweep.py", "--quick", "--out", tmp_path)
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert record["task"]["width"] == 64
    assert record["machine"]["cpu"]
    assert "times faster a subset than scikit-learn" in printed
    probes = record["one_at_a_time"]
    assert {probe["size"] for probe in probes} == {12, 64}
    assert all(0 <= probe[name]["accuracy"] <= 1 for probe in probes for name in ("ridge", "sgd", "scikit_learn"))


@pytest.mark.slow
def test_sweep_reads_features(tmp_path, scripts):
    features, labels = separable(900)
    arrays = {"train": features[:600], "train_labels": labels[:600], "val": features[600:], "val_labels": labels[600:]}
    np.savez(tmp_path / "four.npz", **arrays)
    run("sweep.py", "--quick", "--features", tmp_path / "four.npz", "--out", tmp_path)
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert record["task"] == {
        "features": "four.npz", "width": 4, "n_classes": 2, "n_train": 600, "n_val": 300, "n_draws": 3
    }  # fmt: skip
    assert record["one_at_a_time"][-1]["ridge"]["accuracy"] > 0.98


@pytest.mark.slow
def test_bench_noise_runs(tmp_path):
    printed = run("bench_noise.py", "--runs", 1, "--seconds", 0.1, "--out", tmp_path)
    record = json.loads((tmp_path / "bench_noise.json").read_text())
    assert "of 1 runs" in printed
    assert all(len(record[how]) == 1 for how in ("one process", "one process each"))


def test_extraction_is_timed(tmp_path, convnet, images):
    printed = run("extract.py", convnet, images, "--images", 48, "--out", tmp_path)
    record = json.loads((tmp_path / "extract.json").read_text())
    assert record["n_images"] == 48
    assert len(record["images_per_s"]) == 5
    assert min(record["images_per_s"].values()) > 0
    assert "of the better runtime on decoded pixels" in printed


def test_the_published_redundancy_is_not_the_papers_own_definition(scripts):
    from _paper_report import PUBLISHED

    resnet = PUBLISHED["resnet50_v1/cifar10"]
    assert resnet.strict_redundancy(0.9) == pytest.approx(0.80)
    nearest = min(resnet.accuracy, key=lambda f: abs(resnet.accuracy[f] - 0.9 * resnet.accuracy[1.0]))
    assert resnet.redundancy == pytest.approx(1 - nearest)


def test_a_share_of_the_images_keeps_classes_even(scripts):
    from _assets import some

    labels = np.repeat([0, 1, 2], 40)[np.random.default_rng(0).permutation(120)]
    indices = np.arange(0, 120)
    assert np.bincount(labels[some(indices, labels, 30)]).tolist() == [10, 10, 10]
    np.testing.assert_array_equal(some(indices, labels, 120), indices)


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.usefixtures("assets")
def test_paper_runs(tmp_path):
    pytest.importorskip("matplotlib")
    pair = "tf_efficientnet_lite0/cifar10"
    printed = run("paper.py", "--only", pair, "--images", 150, "--recipe", "--out", tmp_path)
    assert "training to convergence" in printed
    found = json.loads((tmp_path / "paper.json").read_text())["pairs"][pair]
    ends = {curve["mean"][-1] for name, curve in found["curves"].items() if name not in ("logistic", "recipe")}
    assert len(ends) == 1  # every comparison under ridge probes ends at the accuracy of the whole layer
    assert found["cka"]["mean"][-1] == pytest.approx(1)
    assert (tmp_path / "paper.png").stat().st_size > 10_000
    assert (tmp_path / "paper.svg").exists()


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.usefixtures("assets")
def test_narrowing_runs(tmp_path):
    pair = "tf_efficientnet_lite0/cifar10/64"
    arguments = ("--only", pair, "--quick", "--ways", 1, "--out", tmp_path)
    run("narrowing.py", "--shares", 0.7, *arguments)
    run("narrowing.py", "--shares", 0.8, *arguments)
    printed = run("narrowing.py", "--shares", 0.8, *arguments, "--heal", 1)
    found = json.loads((tmp_path / "narrowing.json").read_text())["pairs"][pair]
    assert [(row["share"], row["n_epochs"]) for row in found["narrowed"]] == [(0.8, 0), (0.8, 1), (0.7, 0)]
    assert all(row["macs"] <= row["share"] * found["full_macs"] for row in found["narrowed"])
    assert all(row["accuracy"] > 0.5 * found["full"] for row in found["narrowed"])
    assert "| pivoted | yes | uniform | |" in printed.replace("  ", " ")


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.usefixtures("assets")
def test_heads_runs(tmp_path):
    pair = "vit_small_patch14_dinov2/cifar10/42"
    printed = run("heads.py", "--only", pair, "--quick", "--out", tmp_path)
    rows = json.loads((tmp_path / "heads.json").read_text())["pairs"][pair]
    assert [row["name"] for row in rows] == [f"blocks.{i}.attn.proj" for i in range(12)]
    for row in rows:
        for lost in (row["whole_heads"], row["dimensions"]):
            assert list(lost) == ["5", "4", "3", "2", "1"]
            assert 0 < lost["5"] < lost["3"] < lost["1"]
    assert "| 3 of 6 |" in printed


@pytest.mark.slow
def test_memory_runs(tmp_path):
    printed = run("memory.py", "--images", 300, 600, "--out", tmp_path)
    record = json.loads((tmp_path / "memory.json").read_text())
    assert [row["n_images"] for row in record["runs"]] == [300, 600]
    assert all(record["imports_mib"] < row["peak_mib"] < record["bound_mib"] for row in record["runs"])
    assert all(row["accuracy"] > 0.5 for row in record["runs"])
    assert "| 600 |" in printed


def test_a_ratio_below_its_floor_or_without_one_is_told(scripts):
    from check import compared

    lines, low = compared({"faster": 8.0, "slower": 6.0, "new": 1.0}, {"faster": 10.0, "slower": 10.0})
    assert low == ["slower", "new"]
    assert [line.split()[0] for line in lines] == ["ok", "LOW", "LOW"]


def test_alternatives_are_reported_whether_they_made_it_or_not(tmp_path, scripts):
    pytest.importorskip("matplotlib")
    from _alternatives_report import draw, report

    made = {"accuracy": 0.5, "state": "certified", "macs": 1e6, "n_bytes": 2e6, "seconds": 3.0, "n_lines": 1}
    made |= {f"batch {size}": {"p50_ms": 1.0, "speedup": [1.9, 2.0, 2.1]} for size in (1, 16)}
    full = {**made, "state": "certified", "macs": 4e6}
    missed = {"state": "nothing within the budget", "seconds": 9.0, "n_lines": 40}
    contenders = {"full": full, "prune-tool, all axes": made, "Torch-Pruning random, local": missed}
    pairs = {"resnet50_v1/cifar10": {"budget": "0.05", "n_test": 100, "contenders": contenders}}
    _, kept_row, missed_row = report(pairs).splitlines()[2:]
    assert "| certified | 2.00x | 2.00x | 4.0x fewer | 2.0 | 3 | 1 |" in kept_row
    assert "nothing within the budget" in missed_row
    assert "| 50.0 (40.4-59.6) |" in kept_row
    draw(pairs, tmp_path / "alternatives")
    assert (tmp_path / "alternatives.png").stat().st_size > 5_000


def test_one_command_reruns_every_script():
    scripts = {path.name for path in BENCHMARKS.glob("[!_]*.py")} - {"run_all.py"}
    listed = [line.split() for line in run("run_all.py", "--list").splitlines()]
    assert {words[2].removeprefix("benchmarks/") for words in listed} == scripts
    only = run("run_all.py", "--list", "--only", "narrowing.py").splitlines()
    assert only == ["$ python benchmarks/narrowing.py", "$ python benchmarks/narrowing.py --heal 3"]


def test_a_script_that_fails_is_named_and_the_next_one_runs(scripts, monkeypatch, capfd):
    import run_all

    monkeypatch.setattr(run_all, "COMMANDS", ("absent.py", "check.py --help"))
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    with pytest.raises(SystemExit, match=r"failed: absent\.py$"):
        run_all.main()
    assert "usage: check.py" in capfd.readouterr().out
