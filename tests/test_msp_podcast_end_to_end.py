"""A miniature MSP-Podcast tree through every stage, by the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.disk import writer_lock
from cache.reader import Store
from cache.stores import open_stores
from pipeline.commands.evaluate_heads import main as evaluate_heads
from pipeline.commands.extract_features import main as extract_features
from pipeline.commands.train_heads import main as train_heads
from pipeline.training.run_folder import open_run
from tests.data.corpora.miniature import KEPT, write_detailed_labels, write_miniature_msp
from tests.speech import QUICK_OPTIONS


def run(command, *arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.stderr
    return result.stdout


def test_msp_podcast_passes_through_both_stages(tmp_path: Path) -> None:
    root, stores, out = tmp_path / "MSP-PODCAST", tmp_path / "stores", tmp_path / "run"
    rows = write_miniature_msp(root)
    spoiled = next(row["FileName"] for row in rows if row["Split_Set"] == "Development" and row["EmoClass"] not in "XO")
    (root / "Audios" / spoiled).write_bytes(b"RIFF")
    extract = ["msp_podcast", "--audio-root", root, "--encoders", "embedded", "--out", stores, *QUICK_OPTIONS]
    counts = json.loads(run(extract_features, *extract, "--json", "--strict", code=3))
    assert counts["audio"]["rows"] == sum(KEPT.values())
    assert counts["audio"]["failed"] == len(counts["failures"]) == 1
    assert counts["audio"]["pending"] == 0
    text = run(extract_features, "msp_podcast", "--out", stores, "--verify")
    assert "verified" in text
    few = ["-o", "epochs=2", "-o", "batch_size=4"]
    about = json.loads(
        run(train_heads, stores, "--training", "small_corpus", "--seeds", 2, "--out", out, "--json", *few)
    )
    assert about["seeds"].keys() == {"0", "1"}
    quick = ["-o", "trials=2", "-o", "lists=14", "--json"]
    run(evaluate_heads, stores, out, *quick, code=2)  # its test1 has fewer utterances than a list has prompts
    sent = ["--challenge", tmp_path / "sent"]
    result = json.loads(run(evaluate_heads, stores, out, *quick, "-o", "split=train", *sent))
    assert open_run(out).evaluation() == result
    hidden = sorted(row["FileName"] for row in rows if row["Split_Set"] == "Test3")
    categories, attributes = (
        [line.split(",") for line in (tmp_path / "sent" / f"test3_{task}.csv").read_text().splitlines()]
        for task in ("categories", "attributes")
    )
    assert (categories[0], attributes[0]) == (["FileName", "EmoClass"], ["FileName", "EmoAct", "EmoVal", "EmoDom"])
    assert [line[0] for line in categories[1:]] == [line[0] for line in attributes[1:]] == hidden
    assert {line[1] for line in categories[1:]} <= set("ASHUFDCN")
    assert all(1 <= float(value) <= 7 for line in attributes[1:] for value in line[1:])
    for test, names in {
        "ordinality": ("aoc", "voc"),
        "alignment": ("mmd", "wasserstein", "sliced_wasserstein"),
    }.items():
        for name in names:
            assert {"mean", "std", "convention"} <= result[test][name].keys()


def test_ratings_and_undecided_turns_that_come_later_cost_only_the_new_turns(tmp_path: Path) -> None:
    root, stores = tmp_path / "MSP-PODCAST", tmp_path / "stores"
    write_miniature_msp(root)
    extract = ["msp_podcast", "--audio-root", root, "--encoders", "embedded", "--out", stores, *QUICK_OPTIONS]
    run(extract_features, *extract)
    before, table = open_stores(stores).speech(), (stores / "manifest.csv").read_bytes()
    votes = ["supcon", "-o", "objective.votes=true", "-o", "epochs=2", "-o", "batch_size=4"]
    run(train_heads, stores, *votes, "--out", tmp_path / "refused", code=2)
    write_detailed_labels(root, "columns")
    run(extract_features, *extract)
    rated = open_stores(stores)
    assert rated.speech().tobytes() == before.tobytes()
    assert rated.manifest.ratings is not None
    lines = (stores / "manifest.csv").read_bytes().splitlines()
    assert all(new.startswith(old) for new, old in zip(lines, table.splitlines(), strict=True))
    run(extract_features, "msp_podcast", "--out", stores, "--verify")
    run(train_heads, stores, *votes, "--out", tmp_path / "voted")
    run(extract_features, *extract, "-o", "corpus.keep_undecided=true")
    more = open_stores(stores)
    assert len(more.manifest) == sum(KEPT.values()) + 4
    known = [more.manifest.id.index(name) for name in rated.manifest.id]
    assert more.speech()[known].tobytes() == before.tobytes()
    run(train_heads, stores, *votes, "--out", tmp_path / "with undecided")
    (root / "Labels" / "labels_detailed.csv").unlink()
    run(extract_features, *extract)
    assert (stores / "manifest.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["msp_podcats"], 2, "msp_podcats: no such preset or file"),
        (["msp_podcast"], 2, "--audio-root"),
        (["msp_podcast", "-o", "audio.poling=mean"], 2, "did you mean audio.pooling?"),
        (["msp_podcast", "-o", "audio.pooling"], 2, "no `=`"),
        (["nowhere.csv"], 2, "nowhere.csv"),
        (["nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["msp_podcast", "--device", "nonsense"], 2, ""),
        (["msp_podcast", "--status", "--out", "nowhere"], 2, "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_clear_error_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(extract_features, arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_refusals_have_their_exit_codes_and_change_nothing(corpus: Path, stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "stores"
    shutil.copytree(stores, out)
    before = (out / "audio.h5").read_bytes()
    again = [corpus, "--out", out, *QUICK_OPTIONS]
    run(extract_features, *again, "-o", "audio.layer=1", code=4)
    with writer_lock(out):
        run(extract_features, *again, code=75)
    assert (out / "audio.h5").read_bytes() == before
    layout = Store.open(out / "audio.h5").layout
    damaged = bytearray(before)
    damaged[layout.extents["vectors"].offset] ^= 1
    (out / "audio.h5").write_bytes(damaged)
    run(extract_features, *again, "--verify", code=5)
    run(extract_features, *again)  # the damaged row alone is encoded again
    assert (out / "audio.h5").read_bytes() == before
