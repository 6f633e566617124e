"""The model card: a run's README.md for people, with the metadata that the Hugging Face Hub reads above it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from prune_tool.deploy.bench import BenchResult
from prune_tool.deploy.description import read_metadata
from prune_tool.deploy.seal import PREFIX
from prune_tool.errors import RunError
from prune_tool.frontier.certificate import Certificate
from prune_tool.pipeline.runs import RunRecord, read_analysis, read_record, read_typed
from prune_tool.records import Analysis, Candidate, Reading, Score
from prune_tool.redundancy.fairness import Fairness
from prune_tool.store.atomic import replacing
from prune_tool.store.layout import RunFolder
from prune_tool.task.origin import hub_dataset, hub_model

MOST_CLASSES = 200
"""Classes that get a line of their own; beyond, those that lose most."""

USE = """\
With prune-tool: `prune-tool predict model.onnx photo.jpg`, and `prune-tool show model.onnx` for all it says of itself.
With ONNX Runtime alone:

```python
import json

import onnxruntime as ort

session = ort.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["prune_tool.classes"])
logits = session.run(["logits"], {{"images": images}})[0]
print([classes[i] for i in logits.argmax(axis=1)])
```

It takes {input}.
{recipe}"""

LIMITS = """\
- The certificate speaks of images like the test images, drawn from the same source, and of this file alone. Other
  cameras, places or times need a test of their own.
- It allows for the one export it stands in. The more budgets or runs were tried on the same test images, the less it is
  worth.
- Accuracy is an average. Classes differ, above; groups within a class were not looked at.
- Nothing was trained but the last linear layer. What the backbone learned from its own data, biases included, is still
  there.
- The terms of the backbone's weights and of the images apply; this card does not know them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """The network of a run, as ``certificate.json`` has it."""

    reading: Reading
    candidate: Candidate
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the card reads of ``certificate.json``."""

    sentence: str
    certificate: Certificate
    fairness: Fairness
    built: Shipped


def write_card(run: RunFolder, bench: BenchResult | None = None) -> None:
    """Write ``README.md`` of an exported run.

    Args:
        run: with ``certificate.json`` and ``model.onnx``.
        bench: latencies of the file, where it was timed.

    Raises:
        RunError: the run is damaged or cannot be written.
    """
    record, proof = read_record(run), read_typed(Proof, run.certificate, command="export")
    text = "\n\n".join(_parts(record, read_analysis(run), proof, read_metadata(run.model), bench))
    try:
        with replacing(run.model_card) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(
            asked=f"write {run.model_card}",
            found=error.strerror or str(error),
            remedy="Free some space or choose a folder that can be written",
        ) from error


def _parts(
    record: RunRecord, analysis: Analysis, proof: Proof, said: dict[str, str], bench: BenchResult | None
) -> Iterator[str]:
    yield f"---\n{_metadata(record, proof, said)}\n---"
    yield f"# {record.model}, cut for {record.data}"
    yield (
        f"An ONNX file that tells {len(record.classes)} classes apart: {_some(record.classes)}. It is"
        f" {record.model}, cut after {proof.built.reading}, with a linear layer on {proof.built.candidate.n_neurons:,}"
        " of its neurons, made without training the backbone by"
        f" prune-tool {record.versions['prune-tool']}: weights that feed nothing are gone from the file."
    )
    yield f"**{proof.certificate.state.capitalize()}.** {proof.sentence}"
    yield _comparison(analysis, proof)
    yield "## Use"
    yield _use(said)
    yield "## Classes"
    yield _classes(record, proof.fairness)
    if bench is not None:
        yield "## Speed"
        yield _speed(bench)
    yield "## Limits"
    yield LIMITS
    yield "## Where it comes from"
    yield (
        f"Backbone {record.model} (fingerprint `{record.model_fingerprint[:16]}`), images {record.data}"
        f" (`{record.data_fingerprint[:16]}`): {record.n_train:,} for training, {record.n_val:,} for validation,"
        f" {record.n_test:,} for the test ({record.splits})."
    )


def _metadata(record: RunRecord, proof: Proof, said: dict[str, str]) -> str:
    """The YAML above the card, without fences."""
    request, test = record.request, proof.certificate.test
    source, images = hub_model(request.model, request.checkpoint), hub_dataset(request.data)
    result = EvalResult(
        task_type="image-classification",
        task_name="Image classification",
        dataset_name=record.data,
        dataset_type=images or record.data,
        dataset_split="test",
        metric_type="accuracy",
        metric_name=f"Accuracy ({proof.certificate.state}; full backbone {test.full.accuracy:.4f})",
        metric_value=round(test.kept.accuracy, 4),
    )
    precision = [said[f"{PREFIX}precision"]] if f"{PREFIX}precision" in said else []
    card = ModelCardData(
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["image-classification", "onnx", "onnxruntime", "timm", "model-compression", "prune-tool", *precision],
        base_model=source,
        datasets=None if images is None else [images],
        metrics=["accuracy"],
        model_name=f"{record.model}, cut for {record.data}",
        eval_results=[result],
    )
    return card.to_yaml()


def _comparison(analysis: Analysis, proof: Proof) -> str:
    test, full, kept = proof.certificate.test, analysis.full, proof.built.candidate
    rows = [
        (f"accuracy on {test.full.n_images:,} test images", _percent(test.full), _percent(test.kept)),
        ("multiply-accumulates", f"{full.macs / 1e6:,.1f} M", f"{kept.macs / 1e6:,.1f} M"),
        ("parameters", f"{full.n_params / 1e6:,.2f} M", f"{kept.n_params / 1e6:,.2f} M"),
        ("input", f"{full.input_size} px", f"{proof.built.reading.trunk}"),
        ("file", "", f"{proof.built.n_bytes / 1e6:,.2f} MB"),
    ]
    return _table(("", "full backbone", "this file"), rows)


def _use(said: dict[str, str]) -> str:
    recipe: dict[str, object] = json.loads(said[f"{PREFIX}preprocessing"])
    steps = ", ".join(f"{name} {value}" for name, value in recipe.items())
    outside = said.get(f"{PREFIX}preprocess") != "graph"
    after = f"Resize and crop as timm does: {steps}." if outside else ""
    return USE.format(input=said[f"{PREFIX}input"], recipe=after).rstrip()


def _classes(record: RunRecord, fairness: Fairness) -> str:
    scores = sorted(fairness.classes, key=lambda each: each.kept.accuracy - each.full.accuracy)[:MOST_CLASSES]
    rows = [
        (
            _plain(record.classes[each.label]),
            f"{each.full.n_images:,}",
            _percent(each.full),
            _percent(each.kept),
            f"{100 * (each.kept.accuracy - each.full.accuracy):+.1f}",
        )
        for each in scores
    ]
    gini = (
        f"Gini coefficient of the classes' accuracies: {fairness.full_gini:.3f} for the full backbone,"
        f" {fairness.kept_gini:.3f} for this file (0: all alike)."
    )
    if fairness.absent:
        gini += f" Not in the test images: {_some([record.classes[label] for label in fairness.absent])}."
    return f"{_table(('class', 'images', 'full backbone', 'this file', 'points'), rows)}\n\n{gini}"


def _speed(bench: BenchResult) -> str:
    rows = [
        (
            timing.contender,
            "all" if timing.n_threads is None else str(timing.n_threads),
            str(timing.batch_size),
            f"{timing.p50_ms:.2f}",
            f"{timing.p99_ms:.2f}",
            f"{timing.images_per_s:,.0f}",
            f"{timing.speedup.median:.2f} ({timing.speedup.low:.2f} to {timing.speedup.high:.2f})",
        )
        for timing in bench.timings
    ]
    where = (
        f"ONNX Runtime {bench.environment.onnxruntime}, {bench.conditions.provider}, {bench.environment.hardware.cpu}"
    )
    headers = ("file", "threads", "batch", "p50 ms", "p99 ms", "images/s", "times as fast (95 %)")
    return f"{where}; files timed in turns.\n\n{_table(headers, rows)}"


def _table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    rule = ("---", *("--:" for _ in headers[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (headers, rule, *rows))


def _percent(score: Score) -> str:
    return f"{100 * score.accuracy:.1f} %"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(_plain(name) for name in names[:20])
    return shown + (f" and {len(names) - 20:,} more" * (len(names) > 20))


def _plain(name: str) -> str:
    """A class name that cannot be mistaken for Markdown."""
    return "".join(f"\\{c}" if c in r"\|*_`[]<>#" else c for c in name)
