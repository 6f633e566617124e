"""The model card is valid for the Hub, and says what the certificate says."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from prune_tool.deploy.bench import Conditions
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.bench import bench
from prune_tool.pipeline.card import write_card
from prune_tool.pipeline.export import Exported
from prune_tool.task.origin import hub_dataset, hub_model, why_no_repository


@pytest.fixture
def card(exported: Exported, analyzed: Analyzed) -> ModelCard:
    write_card(analyzed.run)
    return ModelCard.load(analyzed.run.model_card)


def test_the_metadata_are_what_the_hub_reads(card: ModelCard, exported: Exported) -> None:
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.metrics) == ("onnx", "image-classification", ["accuracy"])
    assert {"onnx", "prune-tool", "image-classification"} <= set(data.tags)
    assert data.base_model is None, "the weights are a local folder's"
    [result] = data.eval_results
    assert result.metric_type == "accuracy"
    assert result.metric_value == pytest.approx(exported.certificate.test.kept.accuracy, abs=5e-5)
    assert result.dataset_split == "test"
    assert data.to_dict()["model-index"][0]["results"]


def test_it_says_what_was_certified_and_for_whom_it_changed(card: ModelCard, exported: Exported) -> None:
    assert exported.sentence in card.text
    for scores in exported.fairness.classes:
        name = ("checks", "rows", "stripes")[scores.label]
        row = next(line for line in card.text.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {100 * (scores.kept.accuracy - scores.full.accuracy):+.1f} |" in row
    assert f"{exported.fairness.kept_gini:.3f} for this file" in card.text
    assert "float32 (batch, 3, 64, 64)" in card.text
    assert "## Speed" not in card.text


def test_bench_adds_what_it_measured(exported: Exported, analyzed: Analyzed) -> None:
    timed = bench(analyzed.run, Conditions(threads=(1,), seconds=0.1))
    text = ModelCard.load(analyzed.run.model_card).text
    kept = next(timing for timing in timed.timings if timing.contender == "kept")
    assert f"| kept | 1 | 1 | {kept.p50_ms:.2f} |" in text
    assert exported.sentence in text


def test_the_example_on_the_card_runs(card: ModelCard, analyzed: Analyzed, capsys: pytest.CaptureFixture[str]) -> None:
    code = card.text.split("```python\n")[1].split("```")[0]
    code = code.replace('"model.onnx"', repr(str(analyzed.run.model)))
    import numpy as np

    exec(code, {"images": np.zeros((2, 3, 64, 64), np.float32)})
    assert eval(capsys.readouterr().out) in [[name, name] for name in ("checks", "rows", "stripes")]


@pytest.mark.parametrize(
    ("model", "checkpoint", "expected"),
    [
        ("hf-hub:timm/resnet18.a1_in1k", None, "timm/resnet18.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k@main", None, "timm/resnet18.a1_in1k"),
        ("resnet50", None, "timm/resnet50.a1_in1k"),
        ("resnet50", "mine.safetensors", None),
        ("local-dir:/somewhere", None, None),
        (None, None, None),
    ],
)
def test_weights_by_their_name_on_the_hub(model: str | None, checkpoint: str | None, expected: str | None) -> None:
    assert hub_model(model, checkpoint) == expected


def test_images_by_their_name_on_the_hub() -> None:
    assert hub_dataset("hfds/uoft-cs/cifar10:plain_text") == "uoft-cs/cifar10"
    assert hub_dataset("path/to/images") is None
    assert hub_dataset(None) is None
    assert why_no_repository("me/cells") is None
    assert why_no_repository("me/cells/more")
    validate_repo_id("uoft-cs/cifar10")


def test_a_class_name_is_no_markdown(card: ModelCard, analyzed: Analyzed, tmp_path: Path) -> None:
    from prune_tool.pipeline.card import _plain

    assert _plain("a|b*c") == r"a\|b\*c"
