"""Files of other precisions and preprocessings: proven step by step, certified by their own predictions."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image

import prune_tool
from prune_tool import defaults
from prune_tool.errors import BudgetError, GateError, UsageError
from prune_tool.pipeline import build as building
from prune_tool.pipeline import export as exporting
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.export import Exported, export
from prune_tool.pipeline.feeding import feed, logits_of
from prune_tool.pipeline.results import read_results
from prune_tool.pipeline.sequence import thin
from prune_tool.pipeline.speed import speedup, warning
from prune_tool.pipeline.transform import Transformer
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Form, Target
from prune_tool.report.html import write_report
from prune_tool.report.page import rows
from prune_tool.store.layout import RunFolder
from prune_tool.task.backbone import pixel_transform

BUDGET = Budget.parse("0.2")
CONTRACT = {"prune_tool.preprocess", "prune_tool.precision", "prune_tool.preprocessing", "prune_tool.input"}


@pytest.fixture(scope="module")
def analysed(analyzed: Analyzed, home: Path) -> Callable[[str], RunFolder]:
    """A copy of the shared run, not exported, under a name of its own."""

    def copy(name: str) -> RunFolder:
        run = RunFolder(home / "forms" / name)
        shutil.copytree(analyzed.run.path, run.path)
        for path in (run.model, run.full, run.program, run.labels, run.certificate):
            path.unlink(missing_ok=True)
        return run

    return copy


@pytest.fixture(scope="module", autouse=True)
def two_files() -> Any:
    """Two files a sequence do as well as four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults, "MAX_FILES", 2)
        yield


@pytest.fixture(scope="module")
def shipped(workspace: Workspace, analysed: Callable[[str], RunFolder]) -> tuple[RunFolder, Exported]:
    run = analysed("graph-int8")
    return run, export(workspace, run, budget=BUDGET, form=Form(preprocess="graph", precision="int8"))


def test_every_step_is_recorded_with_its_gate(shipped: tuple[RunFolder, Exported]) -> None:
    run, exported = shipped
    record = json.loads(run.certificate.read_text())
    steps = record["built"]["stages"]
    assert [step["name"] for step in steps] == ["slice", "export", "quantise", "preprocess"]
    assert [step["gate"] for step in steps] == ["difference", "difference", "accuracy", "top-1"]
    assert all(step["alone"]["batch_sizes"] == [1, 2, 7] for step in steps[1:])
    assert steps[2]["max_rel_diff"] > 1e-4 > steps[1]["max_rel_diff"], "int8 computes something else, slightly"
    assert steps[-1]["score"] == record["built"]["val"]
    assert exported.built.agreement is not None
    assert exported.built.agreement.test is not None
    assert exported.built.agreement.test.accuracy >= 0.99
    assert exported.precision_speedup is not None


def test_the_file_takes_pictures_as_they_are_and_says_so(
    workspace: Workspace, shipped: tuple[RunFolder, Exported], images: Path
) -> None:
    run, _ = shipped
    session = ort.InferenceSession(run.model, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.type, entry.shape) == ("tensor(uint8)", ["batch", "height", "width", 3])
    metadata = {p.key: p.value for p in onnx.load(run.model).metadata_props}
    assert metadata.keys() >= CONTRACT
    assert (metadata["prune_tool.preprocess"], metadata["prune_tool.precision"]) == ("graph", "int8")
    assert "uint8" in metadata["prune_tool.input"]
    assert json.loads(metadata["prune_tool.preprocessing"]).keys() >= {"input_size", "mean", "std", "crop_pct"}
    transform = pixel_transform(workspace.native.backbone.preprocessing)
    network = prune_tool.load(run.path)
    for path in sorted(images.glob("*/*.png"))[::30]:
        picture = Image.open(path).resize((150, 121))
        (found,) = session.run(None, {"images": np.asarray(picture)[None]})
        planes = torch.from_numpy(transform(picture)).permute(2, 0, 1)[None] / 255
        expected = network(planes).detach().numpy()
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    kinds = {node.op_type for node in onnx.load(run.model).graph.node}
    assert kinds >= {"Resize", "QuantizeLinear"}


def test_the_certificate_is_of_the_files_own_predictions(
    workspace: Workspace, shipped: tuple[RunFolder, Exported]
) -> None:
    run, exported = shipped
    rows = workspace.splits.test
    labels = workspace.source.labels[rows]
    preprocessing = workspace.native.backbone.preprocessing
    again = logits_of(workspace, rows, run.model, preprocessing, preprocess="graph", title="again").argmax(axis=1)
    assert exported.certificate.test.kept.n_correct == int((again == labels).sum())
    assert exported.model_sha256 == hashlib.sha256(run.model.read_bytes()).hexdigest()
    assert exported.certificate.state == "certified"
    assert exported.tested[-1][1] == exported.certificate.test or not exported.tested[-1][1].passed


def test_the_full_backbone_stands_beside_it_as_int8(workspace: Workspace, shipped: tuple[RunFolder, Exported]) -> None:
    run, exported = shipped
    assert exported.full_int8 is not None
    rows = workspace.splits.test
    found = logits_of(workspace, rows, run.full_int8, workspace.native.backbone.preprocessing, title="again")
    n_correct = int((found.argmax(axis=1) == workspace.source.labels[rows]).sum())
    assert exported.full_int8.test.n_correct == n_correct
    assert run.full_int8.stat().st_size < run.full.stat().st_size


def test_the_report_shows_the_file_of_fewer_bits_with_its_own_cost(shipped: tuple[RunFolder, Exported]) -> None:
    run, exported = shipped
    (row,) = [row for row in rows(read_results(run)) if row.shipped]
    assert row.name.endswith(", int8")
    assert row.candidate.n_bytes == exported.built.n_bytes == run.model.stat().st_size
    (tested,) = [c.latency_ms for c, _ in exported.tested if c.network == row.candidate.network]
    assert tested is not None
    assert exported.precision_speedup is not None
    times = exported.precision_speedup
    assert row.candidate.latency_ms == pytest.approx(tested / (1 if times.low <= 1 <= times.high else times.median))
    page = write_report(run).path.read_text()
    assert '<td class="text">int8</td>' in page


def test_the_backbones_own_input_in_half_precision(workspace: Workspace, analysed: Callable[[str], RunFolder]) -> None:
    run = analysed("none-fp16")
    exported = export(workspace, run, budget=BUDGET, form=Form(preprocess="none", precision="fp16"))
    assert [stage.name for stage in exported.built.stages] == ["slice", "export", "preprocess", "quantise"]
    assert exported.certificate.state == "certified"
    assert not run.full_int8.exists()
    assert exported.full_int8 is None
    first = next(node for node in onnx.load(run.model).graph.node if node.op_type != "Cast")
    assert first.op_type == "Conv"
    assert {tensor.data_type for tensor in onnx.load(run.model).graph.initializer} >= {onnx.TensorProto.FLOAT16}


def test_no_test_image_is_read_before_the_files_stand(
    workspace: Workspace, analysed: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    seen: list[set[int]] = []
    source = workspace.source
    original = type(source).read
    monkeypatch.setattr(type(source), "read", lambda self, i, **how: (read.append(int(i)), original(self, i, **how))[1])
    begin = exporting.open_trial

    def testing(*args: Any) -> Any:
        seen.append(set(read))
        return begin(*args)

    monkeypatch.setattr(exporting, "open_trial", testing)
    export(workspace, analysed("order"), budget=BUDGET, form=Form(preprocess="graph"))
    assert seen[0] & set(workspace.splits.val.tolist())
    assert not seen[0] & set(workspace.splits.test.tolist())
    assert set(read) & set(workspace.splits.test.tolist())


def test_int8_keeps_nodes_in_float_where_the_budget_needs_it(
    workspace: Workspace, shipped: tuple[RunFolder, Exported], tmp_path: Path
) -> None:
    run, _ = shipped
    source = tmp_path / "full.onnx"
    make_hard_to_quantise(run.full, source)
    preprocessing = workspace.native.backbone.preprocessing
    whatever_it_loses = Transformer(workspace, preprocessing, Form(precision="int8"), spare=inf)
    plain = whatever_it_loses.run(source)
    before, after = (whatever_it_loses.score(step.logits).accuracy for step in (plain.exported, plain.last))
    wanted = after + 1 / len(workspace.splits.val)
    assert not plain.in_float
    assert before >= wanted
    transformer = Transformer(workspace, preprocessing, Form(precision="int8"), spare=before - wanted)
    made = transformer.run(source)
    assert made.in_float
    assert transformer.score(made.last.logits).accuracy >= wanted
    model = onnx.load(made.last.path)
    inputs = {node.name: node.input for node in model.graph.node}
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kept = [weights[inputs[name][1]] for name in made.in_float if inputs[name][1] in weights]
    assert kept
    assert set(kept) == {onnx.TensorProto.FLOAT}
    for precision in ("int8", "fp16"):
        (form,) = Form.parse_each("normalize", precision)
        impossible = Transformer(workspace, preprocessing, form, spare=-1.01)
        with pytest.raises(BudgetError, match="quantise") as caught:
            impossible.run(source)
        assert "--precision fp32" in caught.value.remedy


def make_hard_to_quantise(path: Path, target: Path) -> None:
    """The same network, but for one hidden channel that is so large that eight bits leave little to the others."""
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def scale(name: str, channel: tuple[Any, ...], factor: float) -> None:
        values = onnx.numpy_helper.to_array(tensors[name]).copy()
        values[channel] *= factor
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))

    def alone(node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
        found = readers.get(node.output[0], [])
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    pairs = [
        (conv, following)
        for conv in model.graph.node
        if conv.op_type == "Conv" and (relu := alone(conv, "Relu")) and (following := alone(relu, "Conv"))
    ]
    first, second = pairs[0]
    for name in first.input[1:]:
        scale(name, (0,), 1000.0)
    scale(second.input[1], (slice(None), 0), 1e-3)
    onnx.save(model, target)


def corrupt(path: Path) -> None:
    """Turn the weights of a file so that nobody could take it for the same."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim >= 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(-values[::-1]), tensor.name))
    onnx.save(model, path)


def break_slice(patch: pytest.MonkeyPatch) -> None:
    original = building.slice_graph

    def slice_graph(*args: Any, **kwargs: Any) -> Any:
        module = original(*args, **kwargs)
        for weight in module.parameters():
            weight.data = 2 * weight.data  # not its negative: signs of a layer and its normalisation cancel
        return module

    patch.setattr(building, "slice_graph", slice_graph)


def break_writing(place: str, name: str, position: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Let a function corrupt the file that its argument at ``position`` names."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        from pydoc import locate

        holder: Any = locate(place)
        original = getattr(holder, name)

        def write(*args: Any, **kwargs: Any) -> Any:
            written = original(*args, **kwargs)
            corrupt(args[position])
            return written

        patch.setattr(holder, name, write)

    return apply


BROKEN = {
    "slice": (break_slice, "normalize", "fp32", "slice"),
    "export": (break_writing("prune_tool.pipeline.build", "write_onnx", 1), "normalize", "fp32", "full backbone"),
    "int8": (break_writing("prune_tool.deploy.quantise.Quantiser", "write", 1), "normalize", "int8", "quantise"),
    "fp16": (break_writing("prune_tool.deploy.quantise", "write_half", 1), "normalize", "fp16", "quantise"),
    "graph": (break_writing("prune_tool.deploy.preprocess", "with_preprocessing", 1), "graph", "fp32", "preprocess"),
    "none": (break_writing("prune_tool.deploy.preprocess", "without_normalisation", 1), "none", "fp32", "preprocess"),
}


@pytest.mark.parametrize("step", BROKEN)
def test_a_broken_step_is_named_and_nothing_claims_anything(
    step: str, workspace: Workspace, analysed: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks, preprocess, precision, named = BROKEN[step]
    run = analysed(f"broken-{step}")
    before = {path.name for path in run.path.iterdir()}
    breaks(monkeypatch)
    with pytest.raises(GateError, match=f"^{named}: ") as caught:
        export(workspace, run, budget=BUDGET, form=Form.parse_each(preprocess, precision))
    assert caught.value.exit_status == 1
    assert {path.name for path in run.path.iterdir()} == before


def test_a_broken_export_of_a_candidate_leaves_an_earlier_claim_true(
    workspace: Workspace, shipped: tuple[RunFolder, Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, exported = shipped
    original = building.write_onnx

    def write_onnx(program: Any, path: Path, **kwargs: Any) -> int:
        written = original(program, path, **kwargs)
        if path.name != run.full.name:
            corrupt(path)
        return written

    monkeypatch.setattr(building, "write_onnx", write_onnx)
    with pytest.raises(GateError, match=r"^export: "):
        export(workspace, run, budget=BUDGET)
    assert json.loads(run.certificate.read_text())["model_sha256"] == exported.model_sha256
    assert hashlib.sha256(run.model.read_bytes()).hexdigest() == exported.model_sha256


def test_a_form_that_does_not_exist_or_cannot_be_had_is_refused() -> None:
    for words in (("crop", "fp32"), ("graph", "int4")):
        with pytest.raises(UsageError, match="no such choice") as caught:
            Form.parse_each(*words)
        proposed = caught.value.remedy.removeprefix("Choose ").replace(" or ", ", ").split(", ")
        assert all(Form.parse_each(*(word if w in ("crop", "int4") else w for w in words)) for word in proposed)


def test_images_are_fed_as_each_form_takes_them(workspace: Workspace) -> None:
    preprocessing = workspace.native.backbone.preprocessing
    rows = workspace.splits.val[:3]
    inside, bare, raw = (next(feed(workspace, rows, preprocessing, form)) for form in ("normalize", "none", "graph"))
    assert (inside.dtype, inside.shape) == (np.float32, (3, 3, 64, 64))
    mean, std = (np.array(levels).reshape(3, 1, 1) for levels in (preprocessing.mean, preprocessing.std))
    np.testing.assert_allclose(bare, (inside - mean) / std, rtol=1e-5, atol=1e-6)
    assert (raw.dtype, raw.shape) == (np.uint8, (3, 64, 64, 3))
    np.testing.assert_array_equal(raw[1], np.asarray(workspace.source.read(int(rows[1]))))


def test_a_sequence_is_thinned_to_its_ends_and_what_lies_evenly_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "MAX_FILES", 4)
    candidates: Any = list(range(10))
    assert thin(candidates) == [0, 3, 6, 9]
    assert thin(candidates[:3]) == [0, 1, 2]
    assert thin(candidates[:1]) == [0]


def test_a_slower_file_is_told_from_a_faster_one(shipped: tuple[RunFolder, Exported]) -> None:
    run, _ = shipped
    found = speedup(run.full, run.full_int8, 64, Target())
    assert found.low <= found.median <= found.high
    told = warning("int8", replace(found, median=0.5, low=0.4, high=0.6), Target(batch_size=7))
    assert told is not None
    assert "at batch 7" in told
    assert warning("int8", replace(found, median=0.98, low=0.9, high=1.1), Target()) is None
