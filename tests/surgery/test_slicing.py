"""What the sliced network is, beyond being equal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prune_tool.surgery.capture import capture, export_program
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.slicing import slice_graph

SHAPE = (3, 16, 16)


class Small(nn.Module):
    """Two blocks with a residual, and a head; pooled neurons of both blocks and the head are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.a = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
        self.b = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 1))
        self.head = nn.Linear(24, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        x = x + self.a(x)
        y = self.b(x)
        return x.mean((2, 3)), y.mean((2, 3)), self.head(y.mean((2, 3)))


@pytest.fixture
def small(shaken: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return shaken(Small())


def test_several_outputs_keep_neurons_of_their_own(small: nn.Module, cut) -> None:
    captured = capture(small, torch.rand(2, *SHAPE))
    kept = {0: np.array([3, 7]), 2: np.array([0, 5, 31]), 1: None}
    assert cut(captured, kept, SHAPE)(torch.rand(1, *SHAPE)).shape == (1, 2 + 24 + 3)


def test_what_comes_after_the_cut_is_gone(small: nn.Module, cut) -> None:
    sliced = cut(capture(small, torch.rand(2, *SHAPE)), {1: np.array([2, 9])}, SHAPE)
    names = dict(sliced.named_parameters())
    assert not any(name.startswith("head") for name in names)
    assert names["b_2_weight"].shape == (2, 16, 1, 1)
    assert all(node.users for node in sliced.graph.nodes if node.op != "output")


def test_the_captured_network_is_left_as_it_was(small: nn.Module) -> None:
    captured = capture(small, torch.rand(2, *SHAPE))
    code, state = captured.code, {name: value.clone() for name, value in captured.state_dict().items()}
    sliced = slice_graph(captured, {0: np.array([1]), 2: np.array([4, 6])})
    for parameter in sliced.parameters():
        parameter.data.zero_()
    assert captured.code == code
    assert state.keys() == captured.state_dict().keys()
    assert all(torch.equal(value, captured.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize("wrong", [[], [3, 1], [2, 2], [5, 99], [-1, 4]])
def test_neurons_that_are_no_ascending_indices_are_refused(wrong: list[int], small: nn.Module) -> None:
    captured = capture(small, torch.rand(2, *SHAPE))
    with pytest.raises(ValueError, match="ascending indices below 24"):
        slice_graph(captured, {1: np.array(wrong, dtype=np.int64)})


def test_widths_are_rounded_up_where_weights_make_them(small: nn.Module, cut) -> None:
    captured = capture(small, torch.rand(2, *SHAPE))
    kept = {1: np.array([2, 9, 11])}
    wide = cut(captured, kept, SHAPE, round_to=8)
    assert dict(wide.named_parameters())["b_2_weight"].shape == (8, 16, 1, 1)
    assert wide(torch.rand(1, *SHAPE)).shape == (1, 3)
    assert cost_of(captured, kept).macs < cost_of(captured, kept, round_to=8).macs < cost_of(captured, {1: None}).macs


def test_it_can_be_trained_further(small: nn.Module) -> None:
    sliced = slice_graph(capture(small, torch.rand(2, *SHAPE)), {2: np.array([0, 4])})
    assert not sliced.training
    assert all(parameter.requires_grad for parameter in sliced.parameters())
    statistics = {name: value.clone() for name, value in sliced.named_buffers()}
    images, wanted = torch.rand(8, *SHAPE), torch.rand(8, 2)
    optimiser = torch.optim.SGD(sliced.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        loss = nn.functional.mse_loss(sliced(images), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, statistics[name]) for name, value in sliced.named_buffers())


def test_the_program_loads_where_prune_tool_is_not_installed(small: nn.Module, tmp_path: Path) -> None:
    sliced = slice_graph(capture(small, torch.rand(2, *SHAPE)), {2: np.array([0, 4])})
    images = torch.rand(3, *SHAPE)
    torch.export.save(export_program(sliced, torch.rand(2, *SHAPE)), tmp_path / "model.pt2")
    torch.save(images, tmp_path / "images.pt")
    script = """
import sys
sys.modules["prune_tool"] = None  # an import of it would fail
import torch
program = torch.export.load("model.pt2")
torch.save(program.module()(torch.load("images.pt")), "neurons.pt")
print(sum(p.numel() for p in program.parameters()))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(parameter.numel() for parameter in sliced.parameters())
    torch.testing.assert_close(torch.load(tmp_path / "neurons.pt"), sliced(images).detach())


class Transformer(nn.Module):
    """One pre-norm block over a class token and patches; the class token is read."""

    def __init__(self, width: int = 12, n_heads: int = 3, n_patches: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.n_heads, self.width, self.n_tokens = n_heads, width, n_patches + 1

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        b = images.shape[0]
        x = torch.cat([self.token.expand(b, -1, -1), self.patch(images).flatten(2).transpose(1, 2)], 1)
        qkv = self.qkv(self.norm1(x)).reshape(b, -1, 3, self.n_heads, self.width // self.n_heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.proj(y.transpose(1, 2).reshape(b, -1, self.width))
        x = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return x[:, 0], x.mean(1)


def test_the_class_token_asks_for_one_query_and_one_row(shaken, cut) -> None:
    net = shaken(Transformer())
    captured = capture(net, torch.rand(2, *SHAPE))
    cut(captured, {0: None}, SHAPE)
    d, t = net.width, net.n_tokens
    patches = (t - 1) * d * 3 * 4 * 4
    keys_and_values, one_query, attention, projection, mlp = 2 * t * d * d, d * d, 2 * t * d, d * d, 8 * d * d
    wanted = patches + keys_and_values + one_query + attention + projection + mlp
    assert cost_of(captured, {0: None}).macs == wanted
    assert cost_of(captured, {0: None}).n_params == cost_of(captured).n_params


def test_averaged_patches_ask_for_all_rows(shaken, cut) -> None:
    captured = capture(shaken(Transformer()), torch.rand(2, *SHAPE))
    cut(captured, {1: np.array([0, 5])}, SHAPE)
    assert cost_of(captured, {1: None}).macs == cost_of(captured).macs


def test_parted_weights_are_held_once(shaken) -> None:
    """Queries, keys and values of a fused projection become three weights of their own rows, none of them twice."""
    captured = capture(shaken(Transformer()), torch.rand(2, *SHAPE))
    sliced = slice_graph(captured, {0: None})
    rows = [p.shape[0] for name, p in sliced.named_parameters() if name.startswith("qkv_weight")]
    assert sum(rows) == 36
    assert len(rows) > 1


class Biased(nn.Module):
    """Attention with a learnt bias, as BEiT and windowed networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.proj = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 16)
        self.bias = nn.Parameter(torch.randn(1, 2, 16, 16))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = self.patch(images).flatten(2).transpose(1, 2)
        qkv = self.qkv(x).reshape(x.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*qkv.unbind(0), attn_mask=self.bias.tanh())
        return (self.proj(y.transpose(1, 2).reshape(x.shape)).mean(1),)


@pytest.mark.filterwarnings("ignore")  # of torch.onnx, about itself
def test_attention_survives_another_kernel_in_onnx(shaken, tmp_path: Path) -> None:
    """torch.onnx replaces attention's kernel, and with it the layout that a later view was traced for."""
    import onnxruntime

    sliced = slice_graph(capture(shaken(Biased()), torch.rand(2, *SHAPE)), {0: np.array([1, 5, 9])})
    torch.onnx.export(export_program(sliced, torch.rand(2, *SHAPE)), dynamo=True, verbose=False).save(
        tmp_path / "m.onnx"
    )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    images = torch.rand(3, *SHAPE)
    got = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    np.testing.assert_allclose(got, sliced(images).detach().numpy(), rtol=1e-4, atol=1e-5)
