from __future__ import annotations

import hashlib
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import prune_tool
from prune_tool.deploy.bench import Conditions
from prune_tool.errors import BudgetError, RunError, UsageError
from prune_tool.frontier.certificate import DropTest
from prune_tool.pipeline.analyze import Analyzed, analyze
from prune_tool.pipeline.build import parity_images
from prune_tool.pipeline.export import Exported, export
from prune_tool.pipeline.features import Indices
from prune_tool.pipeline.feeding import logits_of
from prune_tool.pipeline.trial import Trial
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Request


def initialisers(path: Path) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer}


def n_numbers(path: Path) -> int:
    return sum(int(np.prod(shape)) for shape in initialisers(path).values())


def test_weights_are_gone_from_the_file(exported: Exported, analyzed: Analyzed) -> None:
    run, built = analyzed.run, exported.built
    assert run.model.stat().st_size < run.full.stat().st_size
    assert n_numbers(run.model) < n_numbers(run.full)
    probe = [
        shape for shape in initialisers(run.model).values() if sorted(shape) == sorted((3, built.candidate.n_neurons))
    ]
    assert probe, "the probe reads exactly the kept neurons"


def test_the_file_runs_by_itself_at_batch_sizes_it_was_not_exported_with(
    workspace: Workspace, exported: Exported, analyzed: Analyzed
) -> None:
    subject = workspace.subject(exported.built.reading.trunk)
    images = parity_images(workspace, subject)
    session = ort.InferenceSession(analyzed.run.model, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    whole = session.run(None, {"images": images[:5]})[0]
    single = np.concatenate([session.run(None, {"images": images[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(whole, single, rtol=1e-4, atol=1e-4)
    loaded = prune_tool.load(analyzed.run.path)
    np.testing.assert_allclose(loaded(torch.from_numpy(images[:5])).detach(), whole, rtol=1e-3, atol=1e-3)
    plain = torch.export.load(analyzed.run.program).module()
    np.testing.assert_allclose(plain(torch.from_numpy(images[:3])).detach(), whole[:3], rtol=1e-3, atol=1e-3)


def test_the_file_says_what_it_is(exported: Exported, analyzed: Analyzed) -> None:
    metadata = {p.key: p.value for p in onnx.load(analyzed.run.model).metadata_props}
    assert json.loads(metadata["prune_tool.classes"]) == ["checks", "rows", "stripes"]
    assert metadata["prune_tool.model_fingerprint"] == analyzed.record.model_fingerprint
    neurons = json.loads(metadata["prune_tool.neurons"])
    assert {tap: len(kept) for tap, kept in neurons.items()} == exported.built.n_per_tap
    assert json.loads(analyzed.run.labels.read_text()) == ["checks", "rows", "stripes"]


def test_what_is_shared_names_no_folder_of_this_machine(
    exported: Exported, analyzed: Analyzed, convnet: str, home: Path
) -> None:
    run = analyzed.run
    places = [Path(prune_tool.__file__).parent, Path(torch.__file__).parent, home]
    with zipfile.ZipFile(run.program) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    contents += [path.read_bytes() for path in (run.model, run.labels, run.certificate, run.model_card)]
    assert not [place for place in places if any(str(place).encode() in content for content in contents)]
    assert b"layer1" in b"".join(contents), "it looked at something"


def test_the_certificate_speaks_of_this_file(workspace: Workspace, exported: Exported, analyzed: Analyzed) -> None:
    run = analyzed.run
    stored = json.loads(run.certificate.read_text())
    assert stored["model_sha256"] == hashlib.sha256(run.model.read_bytes()).hexdigest()
    assert stored["certificate"]["state"] == "certified"
    subject = workspace.subject(exported.built.reading.trunk)
    rows, preprocessing = workspace.splits.test, subject.backbone.preprocessing
    again = logits_of(workspace, rows, run.model, preprocessing, title="again").argmax(axis=1)
    labels = workspace.source.labels[workspace.splits.test]
    assert exported.certificate.test.kept.n_correct == int((again == labels).sum())
    assert sum(c.kept.n_correct for c in exported.fairness.classes) == int((again == labels).sum())
    assert exported.certificate.test.kept.n_images == len(workspace.splits.test)


def test_candidates_are_tested_from_safe_to_cheap(exported: Exported) -> None:
    tested = [candidate for candidate, _ in exported.tested]
    costs = [c.cost("latency") for c in tested]
    assert costs == sorted(costs, reverse=True)
    outcomes = [test.passed for _, test in exported.tested]
    assert all(outcomes[:-1])
    assert {test.alpha for _, test in exported.tested} == {exported.certificate.test.alpha}
    assert exported.certificate.confidence == 0.95
    assert exported.built.candidate.network == [c for c, test in exported.tested if test.passed][-1].network


def test_nothing_is_claimed_once_the_safest_candidate_fails(
    workspace: Workspace, analyzed: Analyzed, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, tried = Trial.drop, []

    def unlucky_at_first(self: Trial, budget: Budget, kept: Indices) -> DropTest:
        tried.append(kept)
        return replace(original(self, budget, kept), p_value=0.01 if tried[1:] else 1.0)

    monkeypatch.setattr(Trial, "drop", unlucky_at_first)
    result = export(workspace, analyzed.run, budget=Budget.parse("0.2"))
    assert len(result.tested) == 1, "the order ends there"
    assert len(tried) == 2, "and the file itself is tested for the record"
    assert result.certificate.state == "cannot certify"
    assert "a safer candidate failed" in result.sentence
    monkeypatch.undo()
    export(workspace, analyzed.run, budget=Budget.parse("0.2"))  # put the shared run back


def test_test_labels_do_not_touch_the_choice(workspace: Workspace, exported: Exported, analyzed: Analyzed) -> None:
    """The same export with the test images' labels shuffled tries the same candidates in the same order."""
    shuffled = Workspace(workspace.request)
    shuffled.__dict__.update(workspace.__dict__)

    class Shuffled:
        def __init__(self, source: object, labels: np.ndarray) -> None:
            self._source, self.labels = source, labels

        def __getattr__(self, name: str) -> object:
            return getattr(self._source, name)

        def __len__(self) -> int:
            return len(self._source)  # type: ignore[arg-type]

    labels = workspace.source.labels.copy()
    test = workspace.splits.test
    labels[test] = np.roll(labels[test], len(test) // 2)
    shuffled.__dict__["source"] = Shuffled(workspace.source, labels)
    result = export(shuffled, analyzed.run, budget=Budget.parse("0.2"))
    first, _ = result.tested[0]
    assert first == exported.tested[0][0]
    assert result.certificate.test.full.accuracy < 0.7  # the labels were really wrong
    export(workspace, analyzed.run, budget=Budget.parse("0.2"))  # put the shared run back


def test_the_last_tap_alone_can_be_asked_for(workspace: Workspace, analyzed: Analyzed, exported: Exported) -> None:
    last = export(workspace, analyzed.run, budget=Budget.parse("0.3"), taps="last")
    assert last.built.reading.taps == ("head",)
    export(workspace, analyzed.run, budget=Budget.parse("0.2"))


def test_unknown_taps_are_refused(workspace: Workspace, analyzed: Analyzed) -> None:
    with pytest.raises(UsageError, match="no tap nowhere"):
        export(workspace, analyzed.run, budget=Budget.parse("0.2"), taps="nowhere")


def test_a_budget_that_nothing_meets_says_which_would(workspace: Workspace, analyzed: Analyzed) -> None:

    from prune_tool.frontier.choice import within_budget

    weak = [replace(c, val=replace(c.val, n_correct=c.val.n_correct // 2)) for c in analyzed.candidates]
    full = analyzed.analysis.full.val
    with pytest.raises(BudgetError) as caught:
        within_budget(weak, full, Budget.parse("0.05"), name=str)
    proposed = re.search(r"--budget (\S+)", caught.value.remedy)
    assert proposed is not None
    assert within_budget(weak, full, Budget.parse(proposed.group(1)), name=str)


def test_a_run_whose_images_changed_is_refused(workspace: Workspace, analyzed: Analyzed, home: Path) -> None:

    from tests.support import write_images

    other = Workspace(replace(workspace.request, data=str(write_images(home / "others", n_per_class=20, seed=5))))
    with pytest.raises(RunError, match="the images have changed"):
        export(other, analyzed.run, budget=Budget.parse("0.2"))


def test_bench_times_both_files(analyzed: Analyzed, exported: Exported) -> None:
    result = prune_tool.bench(analyzed.run, Conditions(threads=(1,), seconds=0.5))
    assert {timing.contender for timing in result.timings} == {"full", "kept"}
    assert json.loads(analyzed.run.bench.read_text())["timings"]


def test_pivoted_neurons_can_ship(request_: Request, home: Path) -> None:
    workspace = Workspace(replace(request_, strategy="pivoted"))
    pivoted = analyze(workspace, runs=home / "runs-pivoted")
    assert all(len(m.n_correct) == 1 for m in pivoted.analysis.measured)
    shipped = export(workspace, pivoted.run, budget=Budget.parse("0.2"))
    assert shipped.certificate.state == "certified"
    assert initialisers(pivoted.run.model) != initialisers(pivoted.run.full)


def test_widths_are_rounded_as_asked_and_the_output_is_the_same(request_: Request, home: Path) -> None:
    shapes = {}
    for round_to in (1, 16):
        named = replace(request_, taps=("layer1.0", "layer2.0"), round_to=round_to, n_draws=2)
        cut = analyze(Workspace(named), runs=home / "runs-rounded")
        assert {tap for m in cut.analysis.measured for tap in m.reading.taps} == {"layer1.0", "layer2.0", "head"}
        shipped = export(Workspace(named), cut.run, budget=Budget.parse("0.5"), taps="layer2.0")
        shapes[round_to] = initialisers(cut.run.model)
        assert shipped.built.stages[0].max_rel_diff < 1e-4
    widths = [max(shape[0] for shape in found.values() if len(shape) == 4) for found in shapes.values()]
    assert widths[0] <= widths[1]
