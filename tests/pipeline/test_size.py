"""The size of a file is predicted, and a limit on it is held against the file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.errors import BudgetError, LimitError, UsageError
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.build import Shippable
from prune_tool.pipeline.choosing import Pool, choose
from prune_tool.pipeline.export import export
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.fitting import CERTIFICATE_BYTES, first_within, require_within
from prune_tool.pipeline.measure import kept_outputs, prefix_subset, readings_of
from prune_tool.pipeline.module import from_module
from prune_tool.pipeline.progress import Silent
from prune_tool.pipeline.sizing import METADATA_BYTES, TOLERANCE, bytes_in_form, float32_bytes
from prune_tool.pipeline.subject import Probed, open_subject
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Candidate, Form, Limit, Score
from prune_tool.store.layout import RunFolder
from prune_tool.surgery.capture import export_program
from prune_tool.surgery.cost import Cost, cost_of
from prune_tool.surgery.slicing import slice_graph

BUDGET = Budget.parse("0.2")


def differences(architecture: str, input_size: int, path: Path, n_readings: int = 2) -> list[float]:
    """Relative error of the predictions for some cuts of a backbone, half of the neurons read."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=0)
    subject = open_subject(from_module(model, name=architecture, input_size=input_size))
    readings = list(readings_of(subject))
    found = []
    for reading in readings[-1 :: -max(1, len(readings) // n_readings)][:n_readings]:
        n = reading.width // 2
        subset = prefix_subset(reading, subject, np.random.default_rng(0).permutation(reading.width), n)
        trunk = slice_graph(subject.captured, kept_outputs(subset, subject), round_to=8)
        network = Probed(trunk, torch.zeros(3, n), torch.zeros(3)).eval()
        n_bytes = write_onnx(export_program(network, subject.example), path, metadata={})
        cost = cost_of(subject.captured, kept_outputs(subset, subject), round_to=8)
        whole = Cost(macs=cost.macs, n_params=cost.n_params + 3 * n + 3, n_calls=cost.n_calls + 1)
        said = METADATA_BYTES + len(str({tap: kept.tolist() for tap, kept in subset.items()})) + 2
        found.append((float32_bytes(whole, subset, ()) - said) / n_bytes - 1)
    return found


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet"])
def test_sizes_are_predicted(architecture: str, tmp_path: Path) -> None:
    assert all(abs(each) < TOLERANCE for each in differences(architecture, 160, tmp_path / "m.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_sizes_of_real_networks_are_predicted(architecture: str, tmp_path: Path) -> None:
    assert all(abs(each) < TOLERANCE for each in differences(architecture, 224, tmp_path / "m.onnx", 4))


def test_the_file_that_ships_is_as_large_as_predicted(exported: Exported, analyzed: Analyzed) -> None:
    assert exported.built.candidate.n_bytes == pytest.approx(exported.built.n_bytes, rel=TOLERANCE)
    assert analyzed.analysis.full.n_bytes == pytest.approx(analyzed.run.full.stat().st_size, rel=TOLERANCE)


@pytest.fixture
def pool(workspace: Workspace, analyzed: Analyzed) -> Pool:
    return Pool(
        workspace=workspace,
        data=fit_data(workspace),
        analysis=analyzed.analysis,
        probed=analyzed.candidates,
        form=Form(),
    )


def test_a_limit_on_size_ships_a_file_within_it(
    workspace: Workspace, analyzed: Analyzed, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tolerance that lets far too large candidates be tried, what ships is within the limit all the same."""
    best = min(analyzed.candidates, key=lambda c: (-c.val.accuracy, c.macs, c.n_neurons))
    limit = Limit(kind="size", most=0.9 * best.n_bytes)
    monkeypatch.setattr("prune_tool.pipeline.choosing.TOLERANCE", 0.5)
    notes: list[str] = []
    monkeypatch.setattr(workspace.progress, "note", notes.append)
    shipped = export(workspace, analyzed.run, budget=BUDGET, limits=[limit])
    assert any("more than" in note for note in notes), "the first that was tried was too large"
    assert analyzed.run.model.stat().st_size == shipped.built.n_bytes <= limit.most
    within = [c.val.n_correct for c in analyzed.candidates if c.n_bytes < limit.most / (1 + TOLERANCE)]
    assert shipped.built.candidate.val.n_correct == max(within)
    assert shipped.certificate.test.kept.n_images == len(workspace.splits.test)
    assert shipped.built.n_bytes == pytest.approx(shipped.built.candidate.n_bytes, rel=TOLERANCE)


def test_a_limit_below_everything_says_which_would_do(pool: Pool) -> None:
    with pytest.raises(LimitError) as caught:
        choose(pool, BUDGET, [Limit.parse("size", "10kB")])
    proposed = re.search(r"--max-size (\S+)", caught.value.remedy)
    assert proposed is not None
    limit = Limit.parse("size", proposed.group(1))
    choice = choose(pool, BUDGET, [limit])
    assert min(c.n_bytes for c in (choice.candidate, *choice.or_else)) * (1 + TOLERANCE) <= limit.most


def test_fewer_bits_fit_more(pool: Pool) -> None:
    least = min(c.n_bytes for c in pool.probed)
    limit = Limit(kind="size", most=0.7 * least)
    with pytest.raises(LimitError):
        choose(pool, BUDGET, [limit])
    half = replace(pool, form=Form(precision="fp16"))
    chosen = choose(half, BUDGET, [limit]).candidate
    assert bytes_in_form(chosen, half.form) == chosen.n_bytes - 2 * chosen.n_params


def candidate(n_bytes: int) -> Candidate:
    score = Score(n_correct=1, n_images=2)
    return Candidate(reading=0, n_neurons=n_bytes, macs=1, n_params=1, n_bytes=n_bytes, val=score, strength=1.0)


class Maker:
    """Builds files of the sizes given."""

    def __init__(self, sizes: dict[int, int | None]) -> None:
        self.sizes = sizes
        self.made: list[int] = []

    def __call__(self, wanted: Candidate, folder: Path) -> Shippable:
        self.made.append(wanted.n_bytes)
        n_bytes = self.sizes[wanted.n_bytes]
        if n_bytes is None:
            raise BudgetError(asked="", found="too few bits", remedy="")
        folder.mkdir()
        made: Any = SimpleNamespace(built=SimpleNamespace(n_bytes=n_bytes), folder=RunFolder(folder))
        return made


def test_the_next_candidate_is_tried_where_a_file_is_too_large(tmp_path: Path) -> None:
    limit = Limit(kind="size", most=10_000 + CERTIFICATE_BYTES)
    make = Maker({9_900: 10_001, 9_950: 0, 9_000: None, 8_000: 10_000})
    wanted = [candidate(n) for n in (9_900, 9_950, 9_000, 8_000)]
    file = first_within(wanted, make, tmp_path, limit, Silent())
    assert file.built.n_bytes == 10_000
    assert make.made == [9_900, 9_000, 8_000], "what is predicted to be larger than what was too large is not tried"
    assert len(list(tmp_path.iterdir())) == 1, "the others are gone"


def test_where_no_file_is_small_enough_the_smallest_is_named(tmp_path: Path) -> None:
    limit = Limit(kind="size", most=5_000)
    make = Maker({9_000: 9_500, 8_000: 30_000})
    with pytest.raises(LimitError) as caught:
        first_within([candidate(9_000), candidate(8_000)], make, tmp_path, limit, Silent())
    (text,) = re.findall(r"--max-size (\S+)", caught.value.remedy)
    assert Limit.parse("size", text).most >= 9_500 + CERTIFICATE_BYTES
    with pytest.raises(BudgetError):
        first_within([candidate(9_000)], Maker({9_000: None}), tmp_path, limit, Silent())


def test_a_finished_file_over_the_limit_is_refused() -> None:
    limits = [Limit.parse("size", "3MB"), Limit.parse("macs", "1k")]
    require_within(3_000_000, limits)
    with pytest.raises(LimitError):
        require_within(3_000_001, limits)


READ = {
    "3MB": 3_000_000,
    "500kB": 500_000,
    "500KB": 500_000,
    "1.5MiB": 1_572_864,
    "2 mb": 2_000_000,
    "64KiB": 65_536,
    "1.5GB": 1.5e9,
    "300k": 300_000,
    "12M": 12e6,
    "900B": 900,
}


@pytest.mark.parametrize("text", READ)
def test_sizes_are_read_as_they_are_written(text: str) -> None:
    assert Limit.parse("size", text).most == READ[text]


@pytest.mark.parametrize("text", ["3", "MB", "-3MB", "0MB", "3 MBit", "1e3kB", "3TB", "3MBB"])
def test_a_size_without_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse("size", text)
    (proposed,) = re.findall(r"Try --max-size (\S+)", caught.value.remedy)
    assert Limit.parse("size", proposed).most == 3e6
