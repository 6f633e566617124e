"""Features come from the cache in bounded memory, and nothing that happens to the cache changes a number."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from prune_tool import defaults
from prune_tool.errors import CacheError
from prune_tool.pipeline.analyze import Analyzed, analyze
from prune_tool.pipeline.entries import open_entries
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.features import Features, fit_data
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Request, Trunk
from prune_tool.store.features import FeatureCache, FeatureEntry
from prune_tool.store.kept import KeptFile
from prune_tool.store.root import unwritable
from prune_tool.task.splits import stratified
from tests.support import ask

N_ROWS = 40


@pytest.fixture
def cache(workspace: Workspace, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    """A cache of the workspace's own, empty but for the compiled graph, with shards of 8 images."""
    shutil.copytree(home / "cache" / "graphs", tmp_path / "cache" / "graphs", dirs_exist_ok=True)
    cache = FeatureCache(tmp_path / "cache")
    monkeypatch.setitem(workspace.__dict__, "cache", cache)
    monkeypatch.setattr(defaults, "SHARD_SIZE", 8)
    return cache


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows written to the cache, shard by shard."""
    sizes: list[int] = []
    write = FeatureEntry.write

    def count(entry: FeatureEntry, shard: int, arrays: dict[str, np.ndarray]) -> None:
        sizes.append(len(entry.rows(shard)))
        write(entry, shard, arrays)

    monkeypatch.setattr(FeatureEntry, "write", count)
    return sizes


@pytest.fixture
def rows(workspace: Workspace, analyzed: Analyzed) -> np.ndarray:
    """Of some images; the graph is compiled."""
    return workspace.splits.train[:N_ROWS]


class TestMemory:
    def test_an_analysis_in_little_memory_finds_the_same(
        self, request_: Request, analyzed: Analyzed, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No tap is kept, or only the narrow ones; blocks end inside shards."""
        peaks = []
        real = Features.columns

        def columns(self: Features, trunk: Trunk, subset: dict, rows: np.ndarray) -> np.ndarray:
            found = real(self, trunk, subset, rows)
            peaks.append(sum(array.nbytes for array in self._kept.values()))
            return found

        monkeypatch.setattr(Features, "columns", columns)
        for n_bytes in (0, 200_000):
            monkeypatch.setattr(defaults, "FEATURE_BYTES", n_bytes)
            monkeypatch.setattr(defaults, "FEATURE_BLOCK", 100)
            found = analyze(Workspace(request_), runs=home / "runs-little")
            assert found.analysis.full == analyzed.analysis.full
            assert [m.n_correct for m in found.analysis.measured] == [m.n_correct for m in analyzed.analysis.measured]
            assert found.candidates == analyzed.candidates
            assert max(peaks) <= n_bytes
            assert (max(peaks) > 0) == (n_bytes > 0)
            peaks.clear()

    def test_columns_are_those_of_the_shards(self, workspace: Workspace, cache: FeatureCache, rows: np.ndarray) -> None:
        features = Features(workspace, [workspace.native], rows)
        taps = [tap.name for tap in workspace.native.taps]
        whole = extract(workspace, [workspace.native], rows)[0].read(taps)
        subset = {tap: np.array([3, 0, 5]) for tap in taps}
        order = np.random.default_rng(0).permutation(N_ROWS)
        expected = np.concatenate([whole[tap][order][:, [3, 0, 5]] for tap in taps], axis=1)
        trunk = workspace.native.trunk
        np.testing.assert_array_equal(features.columns(trunk, subset, order), expected)
        assert features.columns(trunk, subset, order[:0]).shape == (0, 3 * len(taps))

    def test_many_images_are_summed_whole_and_fitted_in_part(
        self, request_: Request, workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(defaults, "FIT_BYTES", 8 * defaults.MAX_POOL * 60)
        monkeypatch.setattr(defaults, "MAX_VAL", 21)
        data = fit_data(Workspace(request_))
        assert len(data.train) == len(workspace.splits.train)
        assert (len(data.fit), len(data.val)) == (60, 21)
        assert np.isin(data.fit, data.train).all()
        assert not np.isin(data.val, data.train).any()
        assert np.bincount(data.labels[data.fit]).tolist() == [20, 20, 20]
        assert np.bincount(data.labels[data.val]).tolist() == [7, 7, 7]
        found = analyze(Workspace(request_), runs=home / "runs-part")
        assert found.analysis.full.val.n_images == 21
        assert found.analysis.full.val.accuracy > 0.6

    def test_a_choice_keeps_every_class_and_repeats(self) -> None:
        labels = np.repeat([0, 1, 2], [900, 99, 1])
        indices = np.arange(1000)
        chosen = stratified(indices, labels, 100, seed=3)
        assert np.bincount(labels[chosen]).tolist() == [90, 9, 1]
        assert (np.diff(chosen) > 0).all()
        np.testing.assert_array_equal(chosen, stratified(indices, labels, 100, seed=3))
        assert not np.array_equal(chosen, stratified(indices, labels, 100, seed=4))
        np.testing.assert_array_equal(stratified(indices, labels, 1000, seed=0), indices)


class TestMisses:
    """What a change costs, in images to compute again (shards of 8)."""

    @pytest.fixture(autouse=True)
    def filled(self, workspace: Workspace, cache: FeatureCache, rows: np.ndarray) -> None:
        assert self.n_missing(workspace, rows) == N_ROWS
        extract(workspace, [workspace.native], rows)
        assert self.n_missing(workspace, rows) == 0

    @staticmethod
    def n_missing(workspace: Workspace, rows: np.ndarray) -> int:
        (entry,) = open_entries(workspace, [workspace.native], rows)
        return sum(len(entry.rows(shard)) for shard in entry.missing())

    @staticmethod
    def with_cache(cache: FeatureCache, request: Request) -> Workspace:
        workspace = Workspace(request)
        workspace.__dict__["cache"] = cache
        return workspace

    @pytest.fixture
    def moved(self, images: Path, tmp_path: Path) -> Path:
        shutil.copytree(images, tmp_path / "elsewhere" / "renamed")
        return tmp_path / "elsewhere" / "renamed"

    @pytest.fixture
    def backbone(self, request_: Request, tmp_path: Path) -> Path:
        """A copy of the backbone."""
        assert request_.model is not None
        shutil.copytree(request_.model.removeprefix("local-dir:"), tmp_path / "net")
        return tmp_path / "net"

    def test_nothing_when_the_images_move(
        self, cache: FeatureCache, request_: Request, rows: np.ndarray, moved: Path
    ) -> None:
        request = replace(request_, data=str(moved), seed=5, n_draws=3, round_to=4)
        assert self.n_missing(self.with_cache(cache, request), rows) == 0

    def test_one_shard_when_an_image_changes(
        self, cache: FeatureCache, request_: Request, rows: np.ndarray, moved: Path
    ) -> None:
        changed = self.with_cache(cache, replace(request_, data=str(moved)))
        path = Path(changed.source.describe(int(rows[11])))
        with Image.open(path) as image:
            image.rotate(90).save(path)
        assert self.n_missing(changed, rows) == 8
        assert self.n_missing(changed, np.delete(rows, 11)) == 0

    def test_one_shard_when_an_image_is_added(
        self, cache: FeatureCache, request_: Request, rows: np.ndarray, moved: Path
    ) -> None:
        before = Workspace(request_).source.content_hashes()
        with Image.open(moved / "checks" / "000.png") as image:
            image.rotate(90).save(moved / "checks" / "!.png")  # sorts first
        added = self.with_cache(cache, replace(request_, data=str(moved)))
        after = added.source.content_hashes()
        same = [after.index(before[row]) for row in rows]
        assert self.n_missing(added, np.array([0, *same])) == 8

    def test_everything_when_a_weight_changes(
        self, cache: FeatureCache, request_: Request, rows: np.ndarray, backbone: Path
    ) -> None:
        request = replace(request_, model=f"local-dir:{backbone}")
        assert self.n_missing(self.with_cache(cache, request), rows) == 0
        weights = load_file(backbone / "model.safetensors")
        name = next(name for name, tensor in weights.items() if tensor.ndim == 4)
        weights[name].view(-1)[0] += 1e-3
        save_file(weights, backbone / "model.safetensors")
        assert self.n_missing(self.with_cache(cache, request), rows) == N_ROWS

    @pytest.mark.parametrize("change", [{"crop_pct": 0.9}, {"interpolation": "bilinear"}, {"mean": [0.5, 0.5, 0.5]}])
    def test_everything_when_the_transform_changes(
        self, cache: FeatureCache, request_: Request, rows: np.ndarray, backbone: Path, change: dict[str, object]
    ) -> None:
        config = json.loads((backbone / "config.json").read_text())
        config["pretrained_cfg"] |= change
        (backbone / "config.json").write_text(json.dumps(config))
        request = replace(request_, model=f"local-dir:{backbone}")
        assert self.n_missing(self.with_cache(cache, request), rows) == N_ROWS

    def test_fewer_taps_cost_nothing_and_other_taps_join_them(
        self, cache: FeatureCache, request_: Request, workspace: Workspace, rows: np.ndarray
    ) -> None:
        first = workspace.native.taps[0].name
        fewer = self.with_cache(cache, replace(request_, taps=(first,)))
        assert len(fewer.native.taps) == 2
        assert self.n_missing(fewer, rows) == 0
        subset, trunk, everything = {first: np.arange(4)}, workspace.native.trunk, np.arange(N_ROWS)
        few, all_taps = Features(fewer, [fewer.native], rows), Features(workspace, [workspace.native], rows)
        np.testing.assert_array_equal(
            few.columns(trunk, subset, everything), all_taps.columns(trunk, subset, everything)
        )
        other = self.with_cache(cache, replace(request_, taps=("layer1.0.conv1",)))
        assert self.n_missing(other, rows) == N_ROWS
        extract(other, [other.native], rows)
        assert len(list(cache.root.glob("features/*/*/*.safetensors"))) == N_ROWS // 8
        assert self.n_missing(workspace, rows) == self.n_missing(fewer, rows) == 0


def flipped(content: bytes) -> bytes:
    """With one bit of the last number changed."""
    return content[:-3] + bytes([content[-3] ^ 4]) + content[-2:]


class TestDamage:
    @pytest.fixture
    def features(self, workspace: Workspace, cache: FeatureCache, rows: np.ndarray) -> Features:
        return Features(workspace, [workspace.native], rows)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(path.read_bytes()[:-40]),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(flipped(path.read_bytes())),
            lambda path: path.unlink(),
        ],
        ids=["truncated", "empty", "a flipped bit", "gone"],
    )
    def test_what_is_lost_is_computed_again_on_the_spot(
        self,
        features: Features,
        cache: FeatureCache,
        workspace: Workspace,
        computed: list[int],
        damage: Callable[[Path], object],
    ) -> None:
        trunk, taps = workspace.native.trunk, [tap.name for tap in workspace.native.taps]
        paths = sorted(cache.root.glob("features/*/*/*.safetensors"))
        whole = {path: path.read_bytes() for path in paths}
        damage(paths[2])
        damage(paths[4])
        found = features.columns(trunk, {tap: np.arange(8) for tap in taps}, np.arange(N_ROWS))
        assert sum(computed) == 16
        assert {path: path.read_bytes() for path in paths} == whole
        kept = features._entries[trunk].read(taps)
        np.testing.assert_array_equal(found, np.concatenate([kept[tap][:, :8] for tap in taps], axis=1))

    def test_a_disk_that_keeps_losing_them_is_an_error(
        self, features: Features, workspace: Workspace, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lose(entry: FeatureEntry, shard: int, arrays: object) -> None:
            real(entry, shard, arrays)  # type: ignore[arg-type]
            entry._file(shard).write_bytes(b"")

        real = FeatureEntry.write
        monkeypatch.setattr(FeatureEntry, "write", lose)
        next(cache.root.glob("features/*/*/*.safetensors")).write_bytes(b"")
        with pytest.raises(CacheError, match="shards are not there"):
            features.columns(workspace.native.trunk, {"head": np.arange(8)}, np.arange(N_ROWS))


class TestNoSpace:
    """Every file that the cache holds meets a disk that is full, as a limit on the size of files."""

    ASK = ("--input-size", "native", "--draws", "2", "-q")

    @pytest.fixture
    def own_cache_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    @pytest.fixture
    def limited(self) -> Iterator[Callable[[int], None]]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @pytest.mark.parametrize("kept", ["nothing", "the graph"])
    def test_it_is_one_clear_error_and_space_mends_it(
        self,
        convnet: str,
        images: Path,
        home: Path,
        own_cache_folder: Path,
        limited: Callable[[int], None],
        kept: str,
    ) -> None:
        cache, runs = own_cache_folder, own_cache_folder.with_name("runs")
        if kept == "the graph":
            shutil.copytree(home / "cache" / "graphs", cache / "graphs")
        limited(20_000)
        answer = ask("analyze", convnet, images, *self.ASK, "--runs", runs)
        limited(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        assert answer.status == 2, answer.err
        assert answer.err.count("\n") == 1
        assert str(cache) in answer.err
        assert "PRUNE_TOOL_CACHE" in answer.err
        assert not runs.exists()
        assert not list(cache.rglob("*.safetensors"))
        assert not list(cache.rglob(".partial-*"))
        if kept == "nothing":
            return
        again = ask("analyze", convnet, images, *self.ASK, "--runs", runs)
        assert again.status == 0, again.err

    def test_findings_that_cannot_be_kept_are_not_lost(
        self,
        request_: Request,
        analyzed: Analyzed,
        home: Path,
        own_cache_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(kept: KeptFile, make: object, about: object) -> None:
            raise unwritable(kept.path, OSError(28, "No space left on device"))

        for kind in ("features", "graphs", "runtimes", "latencies"):
            shutil.copytree(home / "cache" / kind, own_cache_folder / kind)
        monkeypatch.setattr(KeptFile, "write", full)
        found = analyze(Workspace(request_), runs=tmp_path / "runs")
        assert found.analysis == analyzed.analysis
        assert found.run.run.is_file()


def test_a_cache_that_cannot_be_written_is_one_clear_error(
    convnet: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / "file" / "cache"))
    answer = ask("analyze", convnet, images, *TestNoSpace.ASK, "--runs", tmp_path / "runs")
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert "Not a directory" in answer.err
    assert "PRUNE_TOOL_CACHE" in answer.err
    assert not (tmp_path / "runs").exists()
