"""Label files and file names of the published corpora, spoilt: the rest is read as it is, or the fault is named."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.commands import extract_features
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.data.corpora import read_corpus
from tests.data.corpora.miniature import write_miniature_msp
from tests.data.corpora.miniature_iemocap import turn, write_dialog
from tests.inputs.commands import as_nobody, command, contract
from tests.inputs.counts import cases, hold
from tests.inputs.mutations import ENDLESS, WHOLES, spoilt
from tests.inputs.test_manifests import is_sound

MSP_CSV, MSP_JSON, PARTITIONS = "Labels/labels_consensus.csv", "Labels/labels_consensus.json", "Partitions.txt"
DIALOG = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
WORDS = (b"A", b"X", b"Train", b"Test3", b"../../up.wav", b"/etc/passwd", b"hap", b"xxx", b"5.5000", b"EmoVal", ENDLESS)


@pytest.fixture(scope="module")
def msp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("msp")
    write_miniature_msp(root)
    (root.parent / "up.wav").touch()
    return root


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("iemocap")
    labels = ("ang", "hap", "neu", "xxx")
    for session in (1, 4, 5):
        dialog = f"Ses0{session}F_impro01"
        write_dialog(root, dialog, *(turn(f"{dialog}_F{row:03}", label) for row, label in enumerate(labels)))
    return root


@pytest.fixture
def restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """The corpora are the module's: what a test did to a file is undone."""
    files = {}
    for root in (request.getfixturevalue("msp"), request.getfixturevalue("iemocap")):
        files |= {
            root / name: (root / name).read_bytes()
            for name in (MSP_CSV, MSP_JSON, PARTITIONS, DIALOG)
            if (root / name).is_file()
        }
    yield
    for path, content in files.items():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(content)


CORPORA = [("msp", MSP_CSV), ("msp", MSP_JSON), ("msp", PARTITIONS), ("iemocap", DIALOG)]
READERS = {"msp": "msp_podcast", "iemocap": "iemocap"}


@cases(40, 1200)
@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(("corpus_of", "name"), CORPORA)
def test_a_labels_file_spoilt_anywhere_is_sound_or_refused_by_line(
    corpus_of: str, name: str, count: int, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(corpus_of)
    path, config = root / name, CorpusConfig(reader=READERS[corpus_of], root=root)
    good = path.read_bytes()
    if name == MSP_JSON:
        (root / MSP_CSV).unlink()
        good = b"\n".join(good.splitlines()[:55]).removesuffix(b",") + b"\n}\n"
    path.write_bytes(good)
    assert contract(lambda: read_corpus(config), path).code == 0

    def holds(content: bytes) -> None:
        path.write_bytes(content)
        outcome = contract(lambda: read_corpus(config), path, root)
        if outcome.code == 0:
            is_sound(outcome.result, root)

    hold(holds, spoilt(good, WORDS), count)


NAMES = {
    "ravdess": ("03-01-05-01-02-01-12.wav", "03-01-01-01-01-01-01.wav", "03-02-02-02-01-01-24.wav"),
    "emodb": ("03a01Fa.wav", "16b10Wb.wav", "08a02Na.wav"),
    "cremad": ("1001_DFA_ANG_XX.wav", "1091_IEO_SAD_HI.flac", "1064_TSI_NEU_X.wav"),
    "tess": ("OAF_back_angry.wav", "YAF_dog_ps.wav", "OA_bite_neutral.wav"),
}


@cases(30, 800)
@pytest.mark.parametrize("reader", NAMES)
def test_file_names_spoilt_anywhere_are_labels_or_refused_by_name(reader: str, count: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    good = "\n".join(NAMES[reader]).encode() + b"\n"

    def holds(content: bytes) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name in content.splitlines():
            name = name.replace(b"/", b"-").replace(b"\0", b"")[:200]
            if name.strip(b"."):
                (root / os.fsdecode(name)).touch()
        outcome = contract(lambda: read_corpus(CorpusConfig(reader=reader, root=root)), root)
        if outcome.code == 0:
            is_sound(outcome.result, root)
            pattern = word_list("labels/acted")[reader]["pattern"]
            assert all(re.fullmatch(pattern, name) for name in outcome.result.id)

    hold(holds, spoilt(good), count)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("content", WHOLES[:8], ids=range(8))
@pytest.mark.parametrize(("corpus_of", "name"), CORPORA[:2])
def test_the_whole_command_refuses_and_leaves_nothing(
    content: bytes, corpus_of: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root, out = request.getfixturevalue(corpus_of), tmp_path / "out"
    if name == MSP_JSON:
        (root / MSP_CSV).unlink()
    (root / name).write_bytes(content)
    arguments = [READERS[corpus_of], "--encoders", "embedded", "--audio-root", root, "--out", out]
    assert command(extract_features.main, arguments, root / name, out=out).code == 2


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize(("corpus_of", "name"), [CORPORA[0], CORPORA[3]])
def test_what_is_no_file_is_refused_and_not_waited_for(
    make, corpus_of: str, name: str, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(corpus_of)
    (root / name).unlink()
    make(root / name)
    assert contract(lambda: read_corpus(CorpusConfig(reader=READERS[corpus_of], root=root)), root / name).code == 2


@pytest.mark.parametrize("reader", [*READERS.values(), *NAMES])
def test_a_corpus_that_may_not_be_read_is_refused(reader: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with as_nobody():
        assert contract(lambda: read_corpus(CorpusConfig(reader=reader, root=tmp_path / "x")), tmp_path).code == 2


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", ["../../up.wav", "/../../up.wav", "//etc/passwd", "../Audios/../../up.wav"])
def test_a_file_name_of_msp_podcast_cannot_leave_the_corpus(name: str, msp: Path) -> None:
    path = msp / MSP_CSV
    path.write_text(path.read_text().replace("MSP-PODCAST_0001_0000.wav", name))
    outcome = contract(lambda: read_corpus(CorpusConfig(reader="msp_podcast", root=msp)), f"{path}:2")
    assert outcome.code == 2
    assert "outside_root" not in outcome.said


@pytest.mark.usefixtures("restored")
def test_a_field_that_stands_twice_in_the_json_is_not_hidden(msp: Path) -> None:
    (msp / MSP_CSV).unlink()
    path = msp / MSP_JSON
    path.write_text(path.read_text().replace('"EmoClass": "A"', '"EmoClass": "A",\n "EmoClass": "S"', 1))
    outcome = contract(lambda: read_corpus(CorpusConfig(reader="msp_podcast", root=msp)), f"{path}:2")
    assert "key 'EmoClass' appears twice" in outcome.said


def test_a_file_name_with_a_line_break_is_still_one_line(tmp_path: Path) -> None:
    for name in ("OAF_back_angry.wav", "OAF_\nback_angry.wav"):
        (tmp_path / name).touch()
    outcome = contract(lambda: read_corpus(CorpusConfig(reader="tess", root=tmp_path)), tmp_path)
    assert outcome.code == 2
    assert "OAF_\\nback_angry.wav': not a file name of TESS" in outcome.said
