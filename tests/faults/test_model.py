"""A store through any history of commits, failures, kills, changed corpora and readers does what a dictionary does."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cache import disk
from cache.errors import StoreCorrupt, StoreMismatch
from cache.header import DONE, FAILED, PENDING
from cache.layers import Axes
from cache.reader import Store
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing
from tests.faults.faulty_os import Crash, FaultyOs

WIDTH = 3
FINGERPRINT = {"encoder": {"name": "model"}}


@dataclass
class Source:
    """An audio file: its content stands for its bytes, and changes with them."""

    content: int
    mtime: int = 0
    longer: int = 0

    @property
    def digest(self) -> bytes:
        return (self.content + 1).to_bytes(16, "little")

    @property
    def vector(self) -> np.ndarray:
        return np.arange(1, WIDTH + 1, dtype=np.float32) * (self.content + 1)


@dataclass
class Row:
    """What the store must say of one utterance."""

    state: int = PENDING
    content: int = -1  # of the file it was made from
    reason: str = ""
    torn: bool = False  # a kill fell into its writing: it is pending, and its bytes are not those of a pending row


@dataclass
class Expected:
    ids: list[str] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    axes: Axes | None = None

    @initialize(count=st.integers(0, 6))
    def begin(self, count: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "audio.h5"
        self.model = Expected()
        self.named = 0
        self.contents = 0
        for _ in range(count):
            self._new(len(self.model.ids))
        self._open()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _new(self, place: int) -> None:
        name = f"u{self.named}"
        self.named += 1
        self.contents += 1
        self.model.ids.insert(place, name)
        self.model.sources[name] = Source(self.contents)
        self.model.rows[name] = Row()

    def _plan(self, fingerprint: dict = FINGERPRINT) -> StoreSpec:
        sources = [self.model.sources[name] for name in self.model.ids]
        stamps = np.array([(100 + s.longer, s.mtime) for s in sources], dtype=np.int64).reshape(-1, 2)
        rows = StoreRows(list(self.model.ids), stamps, np.zeros(len(sources), np.int64))
        return StoreSpec(self.path, "audio", rows, WIDTH, "<f4", fingerprint, self.axes)

    def _open(self) -> None:
        ids = list(self.model.ids)
        self.store, _ = open_for_writing(self._plan(), lambda row: self.model.sources[ids[row]].digest)

    # what a run does

    @precondition(lambda self: self.model.ids)
    @rule(data=st.data(), fails=st.booleans(), kill_at=st.one_of(st.none(), st.integers(0, 6)))
    def write_a_row(self, data: st.DataObject, fails: bool, kill_at: int | None) -> None:
        name = data.draw(st.sampled_from(self.model.ids))
        row, source, entry = self.model.ids.index(name), self.model.sources[name], self.model.rows[name]
        if entry.state != PENDING:
            return
        fault = FaultyOs(-1 if kill_at is None else kill_at, counted=("pwrite",))
        reason = f"cannot be decoded ({source.content})"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk, "os", fault)
            try:
                with StoreWriter(self.store) as writer:
                    if fails:
                        writer.fail(row, reason, source.digest)
                    else:
                        writer.commit(row, source.vector, source.digest)
            except Crash:
                entry.torn = True
                return
        state, reason = (FAILED, reason) if fails else (DONE, "")
        self.model.rows[name] = Row(state, source.content, reason)

    @rule()
    def retry_what_failed(self) -> None:
        rows = np.flatnonzero(self.store.scan() == FAILED).tolist()
        with StoreWriter(self.store) as writer:
            writer.reset(rows)
        for row in rows:
            self.model.rows[self.model.ids[row]] = Row()

    @rule()
    def start_again(self) -> None:
        self._open()

    @rule(kill_at=st.integers(0, 40))
    def start_again_and_be_killed(self, kill_at: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk, "os", FaultyOs(kill_at))
            try:
                self._open()
            except Crash:
                pass
        self._open()

    # what happens to a corpus

    @rule(data=st.data(), count=st.integers(1, 3))
    def the_corpus_grows(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            self._new(data.draw(st.integers(0, len(self.model.ids))))
        self._open()

    @precondition(lambda self: self.model.ids)
    @rule(data=st.data())
    def an_utterance_goes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.model.ids))
        self.model.ids.remove(name)
        del self.model.rows[name], self.model.sources[name]
        self._open()

    @rule(data=st.data())
    def the_order_changes(self, data: st.DataObject) -> None:
        self.model.ids = data.draw(st.permutations(self.model.ids))
        self._open()

    @precondition(lambda self: self.model.ids)
    @rule(data=st.data(), longer=st.booleans())
    def a_file_changes(self, data: st.DataObject, longer: bool) -> None:
        name = data.draw(st.sampled_from(self.model.ids))
        source = self.model.sources[name]
        self.contents += 1
        source.content, source.mtime, source.longer = self.contents, source.mtime + 1, source.longer + longer
        self.model.rows[name] = Row()
        self._open()

    @precondition(lambda self: self.model.ids)
    @rule(data=st.data())
    def a_file_is_touched(self, data: st.DataObject) -> None:
        self.model.sources[data.draw(st.sampled_from(self.model.ids))].mtime += 1
        self._open()

    # what is refused

    @rule()
    def another_encoder_is_refused(self) -> None:
        before = self.path.read_bytes()
        with pytest.raises(StoreMismatch, match="encoder"):
            open_for_writing(self._plan({"encoder": {"name": "another"}}))
        assert self.path.read_bytes() == before

    @precondition(lambda self: self.model.ids)
    @rule(data=st.data(), bit=st.integers(0, 7))
    def a_flipped_bit_is_found(self, data: st.DataObject, bit: int) -> None:
        before, known = self.path.read_bytes(), self.store.inconsistent_rows().tolist()
        place = data.draw(st.integers(0, len(before) - 1))
        self.path.write_bytes(before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :])
        try:
            store = Store.open(self.path)
            found = store.inconsistent_rows().tolist() != known or not store.checksum_matches()
        except StoreCorrupt:
            found = True
        self.path.write_bytes(before)
        assert found or known  # a row that is inconsistent already may hold anything

    # what must always hold

    @invariant()
    def every_row_is_as_the_model_says(self) -> None:
        store = Store.open(self.path)
        states = store.scan()
        values, done = store.read(np.arange(len(store)))
        if self.axes:  # each column alone says the same
            columns = [store.selected(*choice).read(np.arange(len(store))) for choice in (("default",), (0,), (3,))]
            assert np.array_equal(np.concatenate([column for column, _ in columns], axis=1), values)
            assert all(np.array_equal(known, done) for _, known in columns)
        reasons = store.reasons(states)
        assert store.ids == self.model.ids
        assert store.checksum_matches()
        assert set(store.inconsistent_rows().tolist()) <= {
            row for row, name in enumerate(store.ids) if self.model.rows[name].torn
        }
        for row, name in enumerate(self.model.ids):
            entry = self.model.rows[name]
            assert states[row] == entry.state, name
            assert done[row] == (entry.state == DONE)
            assert reasons.get(row, "") == entry.reason
            if entry.state == DONE:
                assert np.array_equal(values[row], Source(entry.content).vector)
                assert entry.content == self.model.sources[name].content
            else:
                assert not values[row].any()

    @invariant()
    def nothing_half_written_lies_about(self) -> None:
        assert {path.name for path in self.folder.iterdir()} <= {"audio.h5", "audio.h5.partial"}


class LayeredMachine(Machine):
    axes = Axes((0, 3), ("mean",), 1, own=1)


@pytest.mark.parametrize("examples", [25, pytest.param(2000, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("machine", [Machine, LayeredMachine])
def test_a_store_does_what_a_dictionary_does(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))
