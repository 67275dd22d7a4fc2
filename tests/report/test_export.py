"""The JSON report: the agreed format, strict JSON, and no generated text in it."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caseharden.errors import CasehardenError
from caseharden.records.results import Point, Reading, Results
from caseharden.report.export import plain, save, write_json
from strategies import many


def read(path: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_every_curve_with_every_key(results: Results, tmp_path: Path) -> None:
    document = read(write_json(results, tmp_path / "new" / "report.json"))
    assert len(document["curves"]) == len(results.curves) == 53
    for written, curve in zip(document["curves"], results.curves, strict=True):
        for key in ("model", "defense", "attack", "fields", "seed", "t_phi", "censored_at", "defense_fields"):
            assert written[key] == getattr(curve, key)
        for point, expected in zip(written["points"], curve.points, strict=True):
            assert set(point) == {"budget", "harm", "utility", "readings"}
            for measure in (point["harm"], point["utility"], *point["readings"].values()):
                assert {"value", "low", "high", "n", "unscored"} <= set(measure)
            assert point["harm"]["value"] == expected.readings["harm"].value
            assert point["harm"]["unscored"] == expected.readings["harm"].unscored
            assert list(point["readings"]) == ["coherence"]
    assert document["phi"] == results.phi and document["study"] == results.study
    assert document["failures"][0]["reason"] == results.failures[0].reason
    assert document["provenance"]["packages"]["torch"] == "2.13.0"


def test_what_is_not_a_number_is_null(results: Results, tmp_path: Path) -> None:
    blind = Reading(math.nan, math.nan, math.nan, 0, 9)
    curve = replace(results.curves[0], points=(Point(0, {"harm": blind, "utility": blind}),))
    document = read(write_json(replace(results, curves=(curve,)), tmp_path / "report.json"))
    harm = document["curves"][0]["points"][0]["harm"]
    assert (harm["value"], harm["low"], harm["high"], harm["n"], harm["unscored"]) == (None, None, None, 0, 9)
    assert document["provenance"]["loss"] is None


def test_no_generated_text_is_in_it(results: Results, tmp_path: Path) -> None:
    text = write_json(results, tmp_path / "report.json").read_text(encoding="utf-8")
    for sample in results.samples:
        assert sample.output not in text and sample.prompt not in text


def test_plain_keeps_values_and_names_unknown_types() -> None:
    given = {"a": (1, 2.5, True, None), 3: Path("x/y"), "inf": math.inf}
    assert plain(given) == {"a": [1, 2.5, True, None], "3": "x/y", "inf": None}


def test_a_place_that_cannot_be_written_is_a_clear_error(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(CasehardenError, match=r"cannot write .*report\.json.*Name a file"):
        write_json(results, tmp_path / "file" / "report.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CasehardenError, match="cannot write"):
        write_json(results, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"], "no draft is left behind"


def test_a_study_that_watches_something_else_than_harm_has_its_data(results: Results, tmp_path: Path) -> None:
    first = results.curves[0]
    points = [Point(p.budget, {"success": p.readings["utility"]}) for p in first.points]
    curve = replace(first, points=tuple(points), watched="success")
    (found,) = read(write_json(replace(results, curves=(curve,)), tmp_path / "report.json"))["curves"]
    assert found["watched"] == "success" and "harm" not in found["points"][0]
    assert found["points"][0]["readings"]["success"]["n"] == 200


# ---- what stands at the path ----------------------------------------------------------------------------


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    kept = tmp_path / "far" / "kept.json"
    kept.write_text("old")
    for name, target in (("link", "far/kept.json"), ("chain", "link"), ("dangling", "far/new.json")):
        (tmp_path / name).symlink_to(target)
    save(tmp_path / "chain", "first")
    assert kept.read_text() == "first"
    save(tmp_path / "dangling", "second")
    assert (tmp_path / "far" / "new.json").read_text() == "second"
    assert all((tmp_path / name).is_symlink() for name in ("link", "chain", "dangling"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("chain", "dangling", "far", "kept.json", "link", "new.json")
    ]


def test_links_that_lead_nowhere_are_a_clear_error_and_stay(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(CasehardenError, match=r"cannot write .*symbolic links"):
        save(tmp_path / "a", "text")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444])
def test_a_file_keeps_its_mode_and_a_new_one_has_the_usual(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    path.chmod(mode)
    save(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)
    (tmp_path / "beside").write_text("")
    assert save(tmp_path / "fresh", "new").stat().st_mode == (tmp_path / "beside").stat().st_mode


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    save(tmp_path / "pipe", "piped")
    assert os.read(reader, 100) == b"piped"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    for name in ("full", "null"):  # links, so that no fault of ours can harm the real ones
        (tmp_path / name).symlink_to(f"/dev/{name}")
    with pytest.raises(CasehardenError, match=r"cannot write .*No space left"):
        save(tmp_path / "full", "text")
    save(tmp_path / "null", "text")
    assert all(path.is_symlink() and path.is_char_device() for path in tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "null"]


@pytest.mark.parametrize("name", ["-", "stdout", "/dev/fd/1", "out.txt"])
@pytest.mark.parametrize("into", ["file", "pipe"])
def test_standard_output_by_any_of_its_names_is_added_to(name: str, into: str, tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/dev/stdout")
    code = f"from caseharden.report.export import save; print('before'); save({name!r}, 'é'); print('after')"
    ways = {"file": "> out.txt", "pipe": "| cat > out.txt"}
    if (into, name) == ("pipe", "out.txt"):
        pytest.skip("that is another file then")
    command = f'PYTHONIOENCODING=ascii "{sys.executable}" -c "{code}" {ways[into]}'
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "before\néafter\n"


def test_files_beside_are_left_alone_whatever_their_names(tmp_path: Path) -> None:
    beside = tmp_path / ".report.json.part"
    beside.write_text("mine")
    longest = tmp_path / ("n" * 255)
    save(tmp_path / "report.json", "text")
    save(longest, "text")
    assert beside.read_text() == "mine"
    assert len([*tmp_path.iterdir()]) == 3


def test_text_that_utf_8_cannot_have_is_written_escaped(tmp_path: Path) -> None:
    assert save(tmp_path / "report.json", '"\ud83d"').read_text() == r'"\ud83d"'


names = st.sampled_from(
    ["a", "b", "c", "folder/d", "folder", "new/e", "[/f]", "n" * 255, "n" * 256, "a/inside", "."]
)


@many
@given(
    there=st.dictionaries(names, st.sampled_from([0o600, 0o644, 0o400]), max_size=4),
    links=st.dictionaries(names, names, max_size=3),
    path=names,
    broken=st.booleans(),
)
def test_no_file_that_was_there_is_lost(there, links, path, broken, tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    (root / "folder").mkdir()
    for name, mode in there.items():
        with suppress(OSError):
            (root / name).write_text(f"old {name}")
            (root / name).chmod(mode)
    for name, target in links.items():
        with suppress(OSError):
            (root / name).symlink_to(root / target)
    before = state(root)
    try:
        with patch("os.replace", side_effect=OSError(errno.ENOSPC, "full")) if broken else nullcontext():
            save(root / path, "new")
    except CasehardenError:
        left = state(root)
        assert before.items() <= left.items()
        assert all(left[name][0] == "folder" for name in left.keys() - before.keys()), "no draft is left"
    else:
        left, written = state(root), os.path.relpath(os.path.realpath(root / path), os.path.realpath(root))
        if written in before:
            assert left[written] == ("file", "new", before[written][2])
        assert (root / path).read_text() == "new"
        assert all(left[name] == found for name, found in before.items() if name != written)


def state(root: Path) -> dict:
    """What stands at each path below `root`: its kind, its content or target, and a file's mode."""
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path), None)
        elif path.is_dir():
            found[name] = ("folder", None, None)
        else:
            found[name] = ("file", path.read_text(), stat.S_IMODE(path.stat().st_mode))
    return found
