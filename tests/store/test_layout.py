import os
import re
from pathlib import Path

import pytest

from prune_tool.errors import RunError
from prune_tool.store.layout import RunFolder, create_free_run, create_run, free_name, newest_run, open_run


def finish(run, seconds=0):
    """Make a folder a run, started ``seconds`` after the epoch."""
    run.run.write_text("{}")
    os.utime(run.run, (seconds, seconds))
    return run


def test_every_file_has_one_place_of_its_own_in_the_folder(tmp_path):
    run = RunFolder(tmp_path / "r")
    named = [getattr(run, name) for name, kind in vars(RunFolder).items() if isinstance(kind, property)]
    paths = [value for value in named if isinstance(value, Path)]
    assert len({*paths}) == len(paths) == 14
    assert {path.parent for path in paths} == {run.path}
    assert {"run.json", "model.onnx", "model.pt2", "certificate.json", "README.md"} < {path.name for path in paths}


def test_a_new_run_is_an_empty_folder_that_does_not_count_yet(tmp_path):
    run = create_run(tmp_path / "runs", "solar")
    assert list(run.path.iterdir()) == []
    assert run.name == "solar"
    with pytest.raises(RunError, match="there is none"):
        newest_run(tmp_path / "runs")
    finish(run)
    assert newest_run(tmp_path / "runs") == open_run(run.path) == run


def test_a_taken_name_is_refused_and_the_one_proposed_works(tmp_path):
    create_run(tmp_path, "solar")
    create_run(tmp_path, "solar-2")
    with pytest.raises(RunError) as caught:
        create_run(tmp_path, "solar")
    proposed = re.search("'(.+)'", caught.value.remedy)[1]
    assert create_run(tmp_path, proposed).name == "solar-3"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".hidden", "a\\b", "a/"])
def test_a_name_that_is_not_one_folder_is_refused(tmp_path, name):
    with pytest.raises(RunError) as caught:
        create_run(tmp_path / "runs", name)
    assert not (tmp_path / "runs").exists()
    create_run(tmp_path / "runs", re.search("'(.+)'", caught.value.remedy)[1])


def test_a_root_that_is_a_file_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="runs"):
        create_run(tmp_path / "runs", "a")


def test_the_newest_run_is_the_one_started_last(tmp_path):
    for name, seconds in (("c", 20), ("b", 30), ("a", 10)):
        finish(create_run(tmp_path, name), seconds)
    create_run(tmp_path, "unfinished")
    assert newest_run(tmp_path).name == "b"


def test_a_misspelt_run_is_answered_with_the_runs_that_exist_closest_first(tmp_path):
    for name in ("cifar", "solar", "zoo"):
        finish(create_run(tmp_path, name))
    with pytest.raises(RunError, match="no such folder") as caught:
        open_run(tmp_path / "solr")
    first = re.search(r"There are (.+?),", caught.value.remedy)[1]
    assert first == str(tmp_path / "solar")
    assert open_run(type(tmp_path)(first)).name == "solar"


def test_the_folder_of_runs_is_answered_with_the_runs_in_it(tmp_path):
    run = finish(create_run(tmp_path / "runs", "solar"))
    for mistaken in (tmp_path / "runs", tmp_path / "elsewhere", tmp_path / "solar"):
        with pytest.raises(RunError, match=re.escape(f"There is {run.path}")):
            open_run(mistaken)


def test_where_there_are_no_runs_the_remedy_is_to_make_one(tmp_path):
    for lookup in (newest_run, open_run):
        with pytest.raises(RunError, match="Run `prune-tool analyze` first"):
            lookup(tmp_path / "none")


def test_a_name_that_another_process_takes_first_is_not_the_end(tmp_path, monkeypatch):
    assert create_free_run(tmp_path, "solar").name == "solar"
    stale = iter(["solar"])  # free when it was looked up
    monkeypatch.setattr(
        "prune_tool.store.layout.free_name", lambda root, name: next(stale, None) or free_name(root, name)
    )
    assert create_free_run(tmp_path, "solar").name == "solar-2"


def test_a_folder_of_runs_that_cannot_be_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="not a folder"):
        create_free_run(tmp_path / "file", "solar")


def test_a_run_inside_a_run_that_is_named_like_a_budget_is_one_of_its_budgets(tmp_path):
    run = finish(create_run(tmp_path, "solar"))
    for name in ("0.02", "5pp", "0.020", "plots", "2"):
        (run.path / name).mkdir()
        finish(RunFolder(run.path / name))
    assert run.budgets == (run.at_budget("0.02"), run.at_budget("5pp"))
    assert run.at_budget("5pp").analysed == run
    assert RunFolder(run.path / "plots").analysed == RunFolder(run.path / "plots")
    assert run.analysed == run
    alone = finish(create_run(tmp_path, "0.02"))
    assert not alone.is_budget, "a run of that name is no budget's unless a run is around it"
    assert newest_run(run.path).path.parent == run.path


def test_what_an_export_has_not_written_is_asked_for_with_what_would_write_it(tmp_path):
    run = finish(create_run(tmp_path, "solar"))
    with pytest.raises(RunError, match=r"has no model\.onnx\. Run `prune-tool export .*solar` first"):
        run.require(run.model, asked="look")
    place = run.at_budget("0.02")
    place.path.mkdir()
    finish(place)
    with pytest.raises(RunError, match="one for each budget") as caught:
        run.require(run.model, asked="look")
    assert caught.value.remedy == f"Name one of {place.path}"
    run.model.write_text("")
    run.require(run.model, asked="look")
