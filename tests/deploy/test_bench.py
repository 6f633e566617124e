import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from prune_tool.deploy import bench as bench_module
from prune_tool.deploy.bench import bench, interleave, paired_speedup
from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.session import open_session
from prune_tool.errors import ProviderError, RunError, UsageError


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """Some hundred times the work of the tiny file, at a larger resolution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
    )
    program = torch.export.export(
        model.eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    path = tmp_path_factory.mktemp("bench") / "heavy.onnx"
    write_onnx(program, path, metadata={})
    return path


def test_a_file_against_itself_is_as_fast_and_a_smaller_one_faster(heavy, file):
    contenders = {"heavy": heavy, "again": heavy, "tiny": file}
    result = bench(contenders, batch_sizes=(1, 4), n_threads=1, seconds=1.0)
    assert [(t.contender, t.batch_size) for t in result.timings] == [(c, b) for b in (1, 4) for c in contenders]
    for heavy_time, again, tiny in (result.timings[:3], result.timings[3:]):
        assert heavy_time.speedup == bench_module.Interval(median=1.0, low=1.0, high=1.0)
        assert again.speedup.low <= again.speedup.median <= again.speedup.high
        assert again.speedup.median == pytest.approx(1, abs=0.2)
        assert tiny.speedup.low > 5
        assert tiny.p50_ms <= tiny.p90_ms <= tiny.p99_ms
    assert [c.input_shape for c in result.contenders] == [(3, 64, 64), (3, 64, 64), (3, 16, 16)]
    assert result.contenders[0].file_bytes == heavy.stat().st_size


def test_the_record_survives_json_and_names_its_circumstances(file):
    result = bench({"tiny": file}, n_threads=1, seconds=0.01)
    record = json.loads(json.dumps(dataclasses.asdict(result)))
    assert record["environment"]["n_threads"] == 1
    assert all(value not in ("", None) for value in record["environment"].values())
    timing = record["timings"][0]
    assert timing["n_calls"] >= bench_module.MIN_ROUNDS * bench_module.N_CALLS
    assert timing["images_per_s"] > 0


def test_rounds_are_interleaved_each_contender_once_in_random_order():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    latencies = interleave(calls, seconds=1e-9, rng=np.random.default_rng(0))
    turn = 1 + bench_module.N_CALLS
    turns = order[::turn][bench_module.N_WARMUP_TURNS * 3 :]
    assert order == [name for name in order[::turn] for _ in range(turn)]
    rounds = [tuple(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert len(rounds) == bench_module.MIN_ROUNDS
    assert {tuple(sorted(r)) for r in rounds} == {("a", "b", "c")}
    assert len(set(rounds)) > 3
    assert {times.shape for times in latencies.values()} == {(bench_module.MIN_ROUNDS, bench_module.N_CALLS)}


def test_the_interval_covers_the_truth_despite_drift_and_shared_disturbances():
    """Both slow down together (drift, AR(1) load): the paired ratio of 1.5 is found in about 95 of 100 benchmarks."""
    rng = np.random.default_rng(7)
    n_rounds, n_benchmarks, covered = 200, 100, 0
    for _ in range(n_benchmarks):
        load = np.ones(n_rounds)
        for i in range(1, n_rounds):
            load[i] = 1 + 0.8 * (load[i - 1] - 1) + 0.05 * abs(rng.standard_normal())
        load = (load * np.linspace(1, 2, n_rounds))[:, None]
        noise = np.exp(0.05 * rng.standard_normal((2, n_rounds, 3)))
        found = paired_speedup(3.0 * load * noise[0], 2.0 * load * noise[1], rng)
        covered += found.low <= 1.5 <= found.high
        assert found.high - found.low < 0.05
    assert covered >= 88


def test_bound_memory_gives_the_logits_of_a_plain_run(file):
    session = open_session(file)
    batch = np.random.default_rng(3).standard_normal((4, 3, 16, 16)).astype(np.float32)
    binding = bench_module._bind(session, 4, "cpu", np.random.default_rng(3))
    bench_module._run_bound(session, binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], session.run(None, {"images": batch})[0])


def test_errors(file, tmp_path):
    with pytest.raises(UsageError, match="nothing to time"):
        bench({})
    with pytest.raises(UsageError, match="from 1"):
        bench({"tiny": file}, batch_sizes=(0,))
    with pytest.raises(ProviderError):
        bench({"tiny": file}, provider="abacus")
    with pytest.raises(RunError, match="no such file"):
        bench({"tiny": tmp_path / "absent.onnx"})


def test_a_file_with_open_image_size_is_an_error(tmp_path):
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4)}
    program = torch.export.export(
        nn.Conv2d(3, 2, 3).eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(sizes,), strict=False
    )
    write_onnx(program, tmp_path / "open.onnx", metadata={})
    with pytest.raises(RunError, match="fixed image size"):
        bench({"open": tmp_path / "open.onnx"})
