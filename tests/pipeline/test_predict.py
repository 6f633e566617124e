"""One picture through the file by ``predict``, by the example script and by the PyTorch program: the same answer."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import prune_tool
from prune_tool.deploy.onnx_file import update_metadata
from prune_tool.errors import RunError
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.export import Exported
from prune_tool.pipeline.predict import predict
from prune_tool.task.backbone import Preprocessing, pixel_transform
from tests.support import CLASSES, texture, write_colour_classifier

SCRIPT = Path(__file__).parents[2] / "examples" / "onnxruntime_predict.py"
RECIPE = "prune_tool.preprocessing"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG that lies on its side, larger than the input and not square."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    large = Image.fromarray(texture("stripes", np.random.default_rng(3))).resize((151, 97))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    large.save(path, exif=exif, quality=95)
    return path


@pytest.fixture
def model(exported: Exported, analyzed: Analyzed, tmp_path: Path) -> Path:
    """The shipped file alone, far from its run."""
    return Path(shutil.copy(analyzed.run.model, tmp_path / "alone.onnx"))


def by_script(model: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr("sys.argv", ["onnxruntime_predict.py", str(model), str(image)])
    logits = runpy.run_path(str(SCRIPT))["logits"]
    assert isinstance(logits, np.ndarray)
    return logits


def by_predict(model: Path, image: Path) -> np.ndarray:
    found = {guess.name: guess.logit for guess in predict(model, [image], top=3).predictions[0].guesses}
    return np.array([found[name] for name in CLASSES])


@pytest.mark.parametrize(
    ("interpolation", "crop_pct"), [("bicubic", 1.0), ("bilinear", 0.875), ("lanczos", 0.95)], ids=str
)
def test_three_ways_one_answer(
    interpolation: str,
    crop_pct: float,
    model: Path,
    photo: Path,
    analyzed: Analyzed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = json.loads(onnx_entry(model, RECIPE)) | {"interpolation": interpolation, "crop_pct": crop_pct}
    update_metadata(model, {RECIPE: json.dumps(recipe)})
    found, scripted = by_predict(model, photo), by_script(model, photo, monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    with Image.open(photo) as image:
        upright = image.transpose(Image.Transpose.ROTATE_270)
    pixels = torch.from_numpy(pixel_transform(Preprocessing(**recipe))(upright)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        program = prune_tool.load(analyzed.run.path)(pixels)[0].numpy()
    np.testing.assert_allclose(scripted, found, atol=1e-5)
    np.testing.assert_allclose(found, program, rtol=1e-3, atol=1e-3)
    assert np.argmax(found) == np.argmax(scripted) == np.argmax(program)
    assert printed[0].split()[1] == CLASSES[int(np.argmax(found))]


def onnx_entry(path: Path, name: str) -> str:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}[name]


def test_the_script_is_short_and_needs_no_prune_tool() -> None:
    lines = SCRIPT.read_text().split('"""')[2].splitlines()
    code = [line for line in lines if line and not line.startswith(("import ", "from "))]
    assert len(code) <= 15
    assert "import prune_tool" not in SCRIPT.read_text()


def test_a_file_with_the_recipe_inside_gets_bytes_of_any_size(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_colour_classifier(
        tmp_path / "graph.onnx",
        {"prune_tool.preprocess": "graph"},
        kind=TensorProto.UINT8,
        shape=["batch", "height", "width", 3],
    )
    with Image.open(photo) as image:
        colour = np.asarray(image).mean(axis=(0, 1))
    found = {guess.name: guess.logit for guess in predict(path, [photo]).predictions[0].guesses}
    np.testing.assert_allclose([found[name] for name in ("red", "green", "blue")], colour, rtol=1e-4)
    np.testing.assert_allclose(by_script(path, photo, monkeypatch), colour, rtol=1e-4)


@pytest.mark.parametrize(("inside", "kind"), [("none", TensorProto.FLOAT), ("normalize", TensorProto.FLOAT16)])
def test_what_the_file_does_not_do_itself_is_done(inside: str, kind: int, photo: Path, tmp_path: Path) -> None:
    recipe = Preprocessing(
        input_size=32, interpolation="bicubic", crop_pct=0.9, crop_mode="center", mean=(0.5, 0.4, 0.3), std=(0.2,) * 3
    )
    said = {"prune_tool.preprocess": inside, RECIPE: json.dumps({f: getattr(recipe, f) for f in recipe.__slots__})}
    path = write_colour_classifier(tmp_path / "file.onnx", said, kind=kind, shape=["batch", 3, 32, 32])
    with Image.open(photo) as image:
        pixels = pixel_transform(recipe)(image.transpose(Image.Transpose.ROTATE_270)) / 255
    expected = (pixels.mean(axis=(0, 1)) - recipe.mean) / 0.2 if inside == "none" else pixels.mean(axis=(0, 1))
    guesses = predict(path, [photo]).predictions[0].guesses
    found = {guess.name: guess.logit for guess in guesses}
    np.testing.assert_allclose([found[name] for name in ("red", "green", "blue")], expected, atol=2e-3)
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)
    assert [guess.logit for guess in guesses] == sorted(found.values(), reverse=True)


def test_folders_are_walked_and_bad_images_named_while_others_go_on(model: Path, photo: Path, tmp_path: Path) -> None:
    folder, empty = tmp_path / "photos", tmp_path / "empty"
    (folder / "below").mkdir(parents=True)
    empty.mkdir()
    shutil.copy(photo, folder / "below" / "good.jpg")
    (folder / "bad.jpg").write_bytes(photo.read_bytes()[:300])
    (folder / "notes.txt").write_text("no image")
    found = predict(model, [photo, folder, empty, tmp_path / "absent.png"], top=1)
    assert [each.image for each in found.predictions] == [str(photo), str(folder / "below" / "good.jpg")]
    assert found.predictions[0].guesses == found.predictions[1].guesses
    assert {Path(each.image).name for each in found.unreadable} == {"bad.jpg", "empty", "absent.png"}
    assert all(each.found for each in found.unreadable)
    assert all(len(each.guesses) == 1 for each in found.predictions)


def test_a_file_that_does_not_say_how_is_refused_by_name(model: Path, photo: Path) -> None:
    whole = onnx_entry(model, RECIPE)
    recipe = json.loads(whole)
    del recipe["crop_pct"]
    update_metadata(model, {RECIPE: json.dumps(recipe)})
    with pytest.raises(RunError, match="do not state crop_pct"):
        predict(model, [photo])
    update_metadata(model, {RECIPE: whole, "prune_tool.preprocess": "telepathy"})
    with pytest.raises(RunError, match=r"how to prepare images \(telepathy\)"):
        predict(model, [photo])
    foreign = onnx.load(model)
    helper.set_model_props(foreign, {})
    onnx.save(foreign, model)
    with pytest.raises(RunError, match="do not state classes"):
        predict(model, [photo])


def test_a_damaged_file_is_refused(model: Path, photo: Path) -> None:
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    model.write_bytes(damaged)
    with pytest.raises(RunError, match="damaged"):
        predict(model, [photo])
