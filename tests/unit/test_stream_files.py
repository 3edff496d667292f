"""Growing files as a source: rotation, truncation, restarts. Real files, no server."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moodq_config.errors import ConfigError
from moodq_producer.stream import files
from moodq_producer.stream.checkpoint import CheckpointFile
from moodq_producer.stream.files import FileSource
from moodq_producer.stream.multiline import joining
from moodq_producer.stream.records import Reading, Record
from moodq_producer.stream.tail import MAX_LINE_BYTES


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "SCAN_S", "GRACE_S"):
        monkeypatch.setattr(files, name, 0.0)


class Follower:
    """A source that is read until nothing more comes; ``restart`` begins a new life from the checkpoint."""

    def __init__(self, home: Path, *patterns: str, **options: object) -> None:
        self._mark = home / "checkpoint"
        self._patterns = [str(home / pattern) for pattern in patterns]
        self._options = options
        self.start()

    def start(self) -> None:
        self.stopped = False
        self.source = FileSource(
            self._patterns,
            Reading(),
            checkpoint=CheckpointFile(self._mark),
            **self._options,  # type: ignore[arg-type]
        )

    def stop(self) -> None:
        asyncio.run(self.source.close())
        self.stopped = True

    def restart(self) -> None:
        self.stop()
        self.start()

    def read(self) -> list[Record]:
        async def until_nothing() -> list[Record]:
            found: list[Record] = []
            empty = 0
            while empty < 3:
                some = await self.source.read(7)
                found += some
                empty = 0 if some else empty + 1
            return found

        return asyncio.run(until_nothing())

    def commit(self, records: list[Record]) -> None:
        asyncio.run(self.source.commit(records))

    def texts(self) -> list[str]:
        found = self.read()
        self.commit(found)
        return [record.text for record in found]


Follow = Callable[..., Follower]


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Follow]:
    """Followers of files in ``tmp_path``, stopped at the end."""
    started: list[Follower] = []

    def start(*patterns: str, **options: object) -> Follower:
        started.append(Follower(tmp_path, *patterns, **options))
        return started[-1]

    yield start
    for one in started:
        if not one.stopped:
            one.stop()


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_what_is_added_comes_and_an_unfinished_line_waits_for_its_end(follow: Follow, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "old\n")
    follower = follow("a.log")
    assert follower.texts() == []
    append(log, "one\r\n\n两\nthr")
    assert follower.texts() == ["one", "两"]
    append(log, "ee\n")
    assert follower.texts() == ["three"]


def test_a_beginning_at_the_end_does_not_tear_the_line_that_is_being_written(
    follow: Follow, tmp_path: Path
) -> None:
    append(tmp_path / "a.log", "old\nhal")
    follower = follow("a.log")
    append(tmp_path / "a.log", "f\n")
    assert follower.texts() == ["half"]


def test_a_rotated_file_is_read_to_its_end_before_the_one_that_took_its_name(
    follow: Follow, tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log")
    append(log, "1\n2\n")
    assert follower.texts() == ["1", "2"]
    append(log, "3\n")
    with log.open("a") as late:
        log.rename(tmp_path / "a.log.1")
        append(log, "5\n")
        late.write("4 without an end")
    assert follower.texts() == ["3", "4 without an end", "5"]


def test_a_glob_that_matches_the_rotated_name_as_well_reads_nothing_twice(
    follow: Follow, tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log*", from_start=True)
    append(log, "1\n")
    assert follower.texts() == ["1"]
    log.rename(tmp_path / "a.log.1")
    append(log, "2\n")
    (tmp_path / "a.log.2.gz").write_bytes(b"compressed\n")
    assert follower.texts() == ["2"]
    append(tmp_path / "a.log.1", "late\n")
    assert follower.texts() == ["late"]


def test_a_deleted_file_is_read_to_its_end_and_its_place_forgotten(follow: Follow, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follower = follow("*.log")
    append(log, "1\n")
    assert follower.texts() == ["1"]
    append(log, "2\n")
    log.unlink()
    assert follower.texts() == ["2"]
    follower.read()
    assert str(log) not in (tmp_path / "checkpoint").read_text().partition("places")[2]


@pytest.mark.parametrize("after", ["", "b\n", "b\nthis is more than there was before\n"])
def test_a_truncated_file_is_read_from_its_beginning_under_other_ids(
    follow: Follow, tmp_path: Path, after: str
) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log", from_start=True)
    append(log, "a\nanother line\n")
    before = follower.read()
    follower.commit(before)
    log.write_text(after)
    found = follower.read()
    assert [record.text for record in found] == after.splitlines()
    assert not {record.id for record in found} & {record.id for record in before}
    append(log, "more\n")
    assert [record.text for record in follower.read()] == ["more"]


def test_what_was_not_committed_comes_again_with_the_same_ids(follow: Follow, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log", from_start=True)
    append(log, "1\n2\n3\n4\n")
    found = follower.read()
    follower.commit(found[:2])
    follower.restart()
    again = follower.read()
    assert [(record.id, record.text) for record in again] == [
        (record.id, record.text) for record in found[2:]
    ]


def test_files_rotated_while_nobody_read_are_read_in_their_order(follow: Follow, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log", from_start=True)
    append(log, "1\n2\n")
    follower.commit(follower.read()[:1])
    follower.stop()
    append(log, "3\n")
    for text in ["4\n", "5\n", "6\n"]:
        for old in (2, 1):
            if (moved := tmp_path / f"a.log.{old}").exists():
                moved.rename(tmp_path / f"a.log.{old + 1}")
        log.rename(tmp_path / "a.log.1")
        time.sleep(0.02)  # the clock of a file system ticks slowly
        append(log, text)
    append(tmp_path / "a.log.err", "not a rotated one\n")
    follower.start()
    assert follower.texts() == ["2", "3", "4", "5", "6"]


def test_another_file_with_the_inode_of_a_deleted_one_is_read_from_its_beginning(
    follow: Follow, tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log", from_start=True)
    append(log, "1\n2\n")
    assert follower.texts() == ["1", "2"]
    follower.stop()
    log.write_text("other\n2\nand more\n")  # the same inode
    follower.start()
    assert follower.texts() == ["other", "2", "and more"]


def test_a_file_that_came_while_nobody_read_is_read_from_its_beginning(
    follow: Follow, tmp_path: Path
) -> None:
    append(tmp_path / "a.log", "old\n")
    follower = follow("*.log")
    assert follower.texts() == []
    follower.stop()
    append(tmp_path / "b.log", "new\n")
    follower.start()
    assert follower.texts() == ["new"]


def test_a_line_that_is_too_long_fails_alone(follow: Follow, tmp_path: Path) -> None:
    follower = follow("a.log")
    append(tmp_path / "a.log", "x" * (3 * MAX_LINE_BYTES) + "\nfine\n")
    found = follower.read()
    assert [str(record.error.code) if record.error else record.text for record in found] == [
        "text_too_long",
        "fine",
    ]


def test_bytes_that_are_no_text_are_told_as_such(follow: Follow, tmp_path: Path) -> None:
    follower = follow("a.log")
    (tmp_path / "a.log").write_bytes(b"\xff\xfe\nfine\n")
    found = follower.read()
    assert [str(record.error.code) if record.error else record.text for record in found] == [
        "invalid_utf8",
        "fine",
    ]


def test_a_stack_trace_is_one_record_and_is_complete_after_a_pause(follow: Follow, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log", joining=joining(r"^\d{4}-", 60.0))
    append(log, "2026-01-01 failed\n  at one\n  at two\n2026-01-02 fine\n")
    assert follower.texts() == ["2026-01-01 failed\n  at one\n  at two"]
    follower.restart()  # what is being joined is not committed
    append(log, "  not so fine\n2026-01-03\n")
    assert follower.texts() == ["2026-01-02 fine\n  not so fine"]
    follower.stop()
    follower = follow("a.log", joining=joining(r"^\d{4}-", 0.0))
    assert follower.texts() == ["2026-01-03"]


def test_the_lag_counts_what_is_not_committed(follow: Follow, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follower = follow("a.log")
    append(log, "12345\n789\n")
    assert asyncio.run(follower.source.tend()) == {str(log): 10}
    found = follower.read()
    assert asyncio.run(follower.source.tend()) == {str(log): 10}
    follower.commit(found[:1])
    assert asyncio.run(follower.source.tend()) == {str(log): 4}


def test_a_checkpoint_has_one_owner(tmp_path: Path) -> None:
    first = CheckpointFile(tmp_path / "mark")
    with pytest.raises(ConfigError, match="in use by another"):
        CheckpointFile(tmp_path / "mark")
    first.close()
    CheckpointFile(tmp_path / "mark").close()


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text('{"v": 1, "patterns": [], "places": [{"offset": "x"}]}')
    with pytest.raises(ConfigError, match="delete it to start anew"):
        CheckpointFile(tmp_path / "mark")


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_every_line_is_committed_once_and_in_order(
    follow: Follow, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    log = tmp_path / "a.log"
    follower = follow("a.log", from_start=True)
    time.sleep(0.02)
    written: list[str] = []
    committed: list[Record] = []
    rotated = 0
    for _ in range(60):
        match chance.choice(["append", "append", "append", "rotate", "truncate", "commit", "commit", "kill"]):
            case "append":
                lines = [
                    f"{len(written) + more} {'x' * chance.randrange(300)}"
                    for more in range(chance.randrange(9))
                ]
                written += lines
                append(log, "".join(f"{line}\n" for line in lines))
            case "rotate" if log.exists():
                rotated += 1
                log.rename(tmp_path / f"a.log.{rotated}")
                time.sleep(0.02)  # the clock of a file system ticks slowly
            case "truncate" if log.exists():
                found = follower.read()  # what is truncated away unread is lost to everybody
                follower.commit(found)
                committed += found
                log.write_text("")
            case "commit":
                found = follower.read()
                some = found[: chance.randrange(len(found) + 1)]
                follower.commit(some)
                committed += some
                if len(some) < len(found):
                    follower.restart()
            case "kill":
                follower.restart()
    append(log, "last\n")
    found = follower.read()
    follower.commit(found)
    committed += found
    assert [record.text for record in committed] == [*written, "last"]
    assert len({record.id for record in committed}) == len(committed)
