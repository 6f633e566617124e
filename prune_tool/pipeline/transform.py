"""From the exported float32 file to the form that ships: other precision, other preprocessing, each step proven.

Everything here is settled on training and validation images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prune_tool import defaults
from prune_tool.deploy import preprocess as graphs
from prune_tool.deploy import quantise
from prune_tool.deploy.session import open_session
from prune_tool.deploy.verify import (
    FLOAT32_TOLERANCE,
    LOSSY_TOLERANCE,
    Logits,
    Stage,
    check_alone,
    compare,
    predict,
)
from prune_tool.errors import BudgetError, VerificationError
from prune_tool.pipeline.feeding import feed, logits_of, same_size_images
from prune_tool.pipeline.threads import n_threads
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Form, Precision, Preprocess, Score
from prune_tool.redundancy.held_out import score_of
from prune_tool.task.backbone import Preprocessing, pixel_transform

N_ALONE = 14
"""Images on which a file is compared with itself: two full rounds of the largest batch size tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a file that resizes by itself agrees with timm's transform, which Pillow carries out.

    Attributes:
        max_pixel_diff, mean_pixel_diff: of the resized and cropped validation images, in levels of 255.
        val, test: images whose first class is the same; ``test`` for the file that ships.
    """

    max_pixel_diff: float
    mean_pixel_diff: float
    val: Score
    test: Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A file on its way to the form that ships.

    Attributes:
        path: of the file.
        preprocess: what it takes.
        logits: (n_val, classes) that it gives the validation images.
    """

    path: Path
    preprocess: Preprocess
    logits: Logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformed:
    """The form that ships, and how it came about.

    Attributes:
        exported: the file it began with.
        last: the file.
        pillow: the file before it resized by itself; the same as ``last`` where it does not.
        stages: one a step, in order.
        in_float: nodes that int8 left in float.
        agreement: with timm's transform, where the file resizes.
    """

    exported: Step
    last: Step
    pillow: Step
    stages: tuple[Stage, ...]
    in_float: tuple[str, ...] = ()
    agreement: Agreement | None = None


class Transformer:
    """Takes files of one input size to the form asked for.

    Args:
        workspace: of the run.
        preprocessing: of the backbone at the files' input size.
        form: what ships.
        spare: accuracy (0 to 1) that fewer bits may cost on the validation images; half of it they should not, so that
            what was safe stays safe, even if that takes more nodes in float.
    """

    def __init__(self, workspace: Workspace, preprocessing: Preprocessing, form: Form, spare: float) -> None:
        self.workspace, self.preprocessing, self.form, self.spare = workspace, preprocessing, form, spare
        self.rows = workspace.splits.val
        self.labels = workspace.source.labels[self.rows]

    def run(self, path: Path) -> Transformed:
        """Write the form beside an exported file, which takes images in [0, 1].

        Raises:
            BudgetError: no version of that precision keeps the validation accuracy.
            VerificationError: a step changed more than it may; the message names it.
        """
        step = exported = Step(path=path, preprocess="normalize", logits=self.logits(path, "normalize"))
        stages: list[Stage] = []
        in_float: tuple[str, ...] = ()
        agreement = None
        if self.form.preprocess == "none":
            step, stage = self.bare(step)
            stages.append(stage)
        if self.form.precision != "fp32":
            step, stage, in_float = self.fewer_bits(step, self.form.precision)
            stages.append(stage)
        pillow = step
        if self.form.preprocess == "graph":
            step, stage, agreement = self.resizing(step, exported)
            stages.append(stage)
        return Transformed(
            exported=exported, last=step, pillow=pillow, stages=tuple(stages), in_float=in_float, agreement=agreement
        )

    def score(self, logits: Logits) -> Score:
        """Of logits of the validation images."""
        return score_of(self.labels, logits.argmax(axis=1), self.workspace.request.metric)

    def logits(self, path: Path, preprocess: Preprocess) -> Logits:
        """Of the validation images."""
        title = "validating the file"
        return logits_of(self.workspace, self.rows, path, self.preprocessing, preprocess=preprocess, title=title)

    def bare(self, step: Step) -> tuple[Step, Stage]:
        """Take the normalisation out."""
        path = step.path.with_name("bare.onnx")
        graphs.without_normalisation(step.path, path, self.preprocessing)
        alone = check_alone(path, self.examples("none"), tolerance=FLOAT32_TOLERANCE, stage=graphs.STAGE)
        logits = self.logits(path, "none")
        stage = compare(graphs.STAGE, step.logits, logits, score=self.score(logits), alone=alone)
        return Step(path=path, preprocess="none", logits=logits), stage

    def resizing(self, step: Step, exported: Step) -> tuple[Step, Stage, Agreement]:
        """Put timm's transform in front."""
        path = step.path.with_name("resizing.onnx")
        graphs.with_preprocessing(step.path, path, self.preprocessing)
        images = same_size_images(self.workspace, int(self.rows[0]), N_ALONE)
        tolerance, source = FLOAT32_TOLERANCE, None
        if self.form.precision != "fp32":
            tolerance, source = LOSSY_TOLERANCE, self.by_pillow(exported.path, images)
        alone = check_alone(path, images, tolerance=tolerance, stage=graphs.STAGE, source=source)
        logits = self.logits(path, "graph")
        stage = compare(
            graphs.STAGE,
            step.logits,
            logits,
            gate="top-1",
            tolerance=defaults.MIN_AGREEMENT,
            score=self.score(logits),
            alone=alone,
        )
        worst, mean = self.pixel_differences()
        agreement = Agreement(
            max_pixel_diff=worst,
            mean_pixel_diff=mean,
            val=Score(n_correct=stage.n_top1_agree, n_images=stage.n_images),
        )
        return Step(path=path, preprocess="graph", logits=logits), stage, agreement

    def by_pillow(self, path: Path, images: NDArray[np.uint8]) -> Logits:
        """Of a file that takes images in [0, 1], for images (n, height, width, 3) that Pillow resizes."""
        resize = pixel_transform(self.preprocessing)
        planes = np.stack([resize(Image.fromarray(image)) for image in images]).transpose(0, 3, 1, 2)
        return predict(open_session(path), [np.asarray(planes / 255, dtype=np.float32)])

    def pixel_differences(self) -> tuple[float, float]:
        """Largest and mean difference of resized validation images from Pillow's, in levels of 255."""
        session = open_session(graphs.preprocessing_model(self.preprocessing).SerializeToString())
        by_pillow = pixel_transform(self.preprocessing)
        worst, total = 0.0, 0.0
        for row in self.rows:
            image = self.workspace.source.read(int(row))
            planes = predict(session, [np.asarray(image)[None]])[0]
            difference = np.abs(255 * planes.transpose(1, 2, 0) - by_pillow(image))
            worst, total = max(worst, float(difference.max())), total + float(difference.mean())
        return round(worst, 3), total / len(self.rows)

    def fewer_bits(self, step: Step, precision: Precision) -> tuple[Step, Stage, tuple[str, ...]]:
        """The first version that keeps what is aimed at, or else the most accurate that keeps the floor."""
        trial, path = step.path.with_name("trial.onnx"), step.path.with_name(f"{precision}.onnx")
        before = self.score(step.logits).accuracy
        floor, aim = (max(0.0, before - cost) for cost in (self.spare, self.spare / 2))
        best = verified = -1.0
        doubtful, kept = None, None
        for in_float in self.versions(step, trial, precision):
            logits = self.logits(trial, step.preprocess)
            score = self.score(logits)
            best = max(best, score.accuracy)
            if score.accuracy < floor - 1e-12 or score.accuracy <= verified:
                continue
            examples = self.examples(step.preprocess)
            try:
                source = step.logits[: len(examples)]
                alone = check_alone(trial, examples, tolerance=LOSSY_TOLERANCE, stage=quantise.STAGE, source=source)
            except VerificationError as error:  # another choice of nodes may meet other kernels
                doubtful = error
                continue
            stage = compare(
                quantise.STAGE,
                step.logits,
                logits,
                gate="accuracy",
                tolerance=floor,
                score=score,
                alone=alone,
            )
            trial.replace(path)
            verified = score.accuracy
            kept = Step(path=path, preprocess=step.preprocess, logits=logits), stage, in_float
            if verified >= aim - 1e-12:
                break
        if kept is not None:
            return kept
        if doubtful is not None:
            raise doubtful
        raise BudgetError(
            asked=f"{quantise.STAGE}: {precision} that keeps {100 * floor:.1f} % validation accuracy",
            found=f"the best version reaches {100 * best:.1f} %, with up to half of its nodes in float",
            remedy="--precision fp32 keeps the budget",
        )

    def versions(self, step: Step, path: Path, precision: Precision) -> Iterator[tuple[str, ...]]:
        """Write one version after the other to ``path``; yields the nodes that it leaves in float."""
        if precision == "fp16":
            quantise.write_half(step.path, path)
            yield ()
            return
        with self.workspace.progress.stage("calibrating int8"):
            quantiser = quantise.Quantiser(step.path, self.calibration(step.preprocess))
        order: tuple[str, ...] = ()
        for share in defaults.FLOAT_SHARES:
            if share and not order:
                order = self.by_sensitivity(quantiser, step)
            in_float = order[: math.ceil(share * len(quantiser.nodes))]
            quantiser.write(path, in_float=in_float)
            yield in_float

    def calibration(self, preprocess: Preprocess) -> Iterator[NDArray[np.float32]]:
        """Seeded training images."""
        train = self.workspace.splits.train
        rng = np.random.default_rng(self.workspace.request.seed)
        rows = np.sort(rng.permutation(train)[: defaults.N_CALIBRATION])
        return feed(self.workspace, rows, self.preprocessing, preprocess)

    def by_sensitivity(self, quantiser: quantise.Quantiser, step: Step) -> tuple[str, ...]:
        """Nodes from those that cost most when they alone are quantised: squared error of validation logits.

        Deep networks are measured in groups of neighbours, at most ``MAX_SENSITIVITY_GROUPS`` of them.
        """
        path = step.path.with_name("probed.onnx")
        rows = self.rows[: defaults.N_SENSITIVITY]
        images = list(feed(self.workspace, rows, self.preprocessing, step.preprocess))
        size = math.ceil(len(quantiser.nodes) / defaults.MAX_SENSITIVITY_GROUPS) or 1
        groups = [quantiser.nodes[i : i + size] for i in range(0, len(quantiser.nodes), size)]
        errors = []
        with self.workspace.progress.stage("finding sensitive nodes", len(groups)) as advance:
            for group in groups:
                quantiser.write(path, only=group)
                found = predict(open_session(path, n_threads=n_threads()), images)
                errors.append(float(np.square(found - step.logits[: len(rows)]).mean()))
                advance(1)
        return tuple(name for i in np.argsort(errors)[::-1] for name in groups[i])

    def examples(self, preprocess: Preprocess) -> NDArray[np.float32]:
        """The first validation images in one array."""
        return np.concatenate(list(feed(self.workspace, self.rows[:N_ALONE], self.preprocessing, preprocess)))
