"""The keeper of snapshots: what it takes, what it refuses, what it leaves in files for the next process."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from serving.formats import snapshot as published
from serving.metrics import Numbers
from serving.snapshots import SnapshotKeeper
from serving.world import World
from tests.serving_world import (
    AUDIENCE,
    MASTER_KEYS,
    NOW,
    SIGNING_KEY,
    TRUSTED,
    credential,
    envelope,
    model,
    snapshot,
    tenant,
)

STRANGER = ed25519.Ed25519PrivateKey.generate()


class Process:
    """A serving process as far as snapshots go."""

    def __init__(self, directory: Path) -> None:
        self.world = World(MASTER_KEYS, AUDIENCE)
        self.numbers = Numbers()
        self.keeper = SnapshotKeeper(self.world, TRUSTED, directory, self.numbers)

    def revision(self, tenant_id: str = "t1") -> int | None:
        known = self.world.tenants.get(tenant_id)
        return None if known is None else known.revision


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that these tests sign be signed by now."""
    monkeypatch.setattr("serving.snapshots.time.time", lambda: NOW + 100.0)


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def test_offer__signed_and_newer__the_world_changes(process: Process) -> None:
    assert process.keeper.offer(envelope(tenant(model()), 1))
    assert process.keeper.offer(envelope(tenant(model(salt="x")), 7))
    assert process.revision() == 7
    assert process.numbers.snapshot_refusals == {}


def test_offer__the_same_again__no_change_and_no_refusal(process: Process) -> None:
    process.keeper.offer(envelope(tenant(), 3))
    assert not process.keeper.offer(envelope(tenant(), 3))
    assert process.numbers.snapshot_refusals == {}


def tampered(raw: bytes) -> bytes:
    key_id, document, signature = msgspec.msgpack.decode(raw)
    return msgspec.msgpack.encode((key_id, document.replace(b"aurora", b"eurora"), signature))


def without_signature(raw: bytes) -> bytes:
    key_id, document, _ = msgspec.msgpack.decode(raw)
    return msgspec.msgpack.encode((key_id, document, b""))


GOOD = envelope(tenant(model()), 9)
OTHER_FORMAT = published.sign_snapshot(
    msgspec.structs.replace(snapshot(tenant(), 9), format=2),
    "k1",
    SIGNING_KEY,
)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x00",
        b"\xc1" * 100,
        GOOD[:-1],
        GOOD[: len(GOOD) // 2],
        GOOD + b"\x00",
        tampered(GOOD),
        without_signature(GOOD),
        envelope(tenant(model()), 9, key=STRANGER),
        envelope(tenant(model()), 9, key_id="k2"),
        msgspec.msgpack.encode(snapshot(tenant(), 9)),
        msgspec.msgpack.encode(("k1", b"", b"")),
        msgspec.json.encode(["k1", "document", "signature"]),
        OTHER_FORMAT,
    ],
)
def test_offer__damaged_or_not_signed_by_a_trusted_key__refused_and_the_old_one_goes_on(
    process: Process, bad: bytes
) -> None:
    process.keeper.offer(envelope(tenant(model()), 5))
    assert not process.keeper.offer(bad)
    assert process.revision() == 5
    assert process.numbers.snapshot_refusals == {"unreadable": 1}


def test_offer__older__refused(process: Process) -> None:
    process.keeper.offer(envelope(tenant(), 5))
    assert not process.keeper.offer(envelope(tenant(model()), 4))
    assert process.revision() == 5
    assert process.numbers.snapshot_refusals == {"outdated": 1}


def test_offer__contradicts_itself__refused_and_not_left_in_a_file(process: Process, tmp_path: Path) -> None:
    process.keeper.offer(envelope(tenant(model()), 5))
    assert not process.keeper.offer(envelope(tenant(model(allocation=b"")), 6))
    assert process.numbers.snapshot_refusals == {"contradictory": 1}
    successor = Process(tmp_path)
    successor.keeper.load_files()
    assert successor.revision() == 5


def test_refusal__logged_with_its_reason_once_and_counted_each_time(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            process.keeper.offer(b"junk", "redis:t1")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith("snapshot.refused reason=unreadable from=redis:t1 ")
    assert process.numbers.snapshot_refusals == {"unreadable": 3}


def test_files__the_next_process_knows_what_this_one_knew(tmp_path: Path) -> None:
    first = Process(tmp_path / "made" / "when" / "needed")
    first.keeper.offer(envelope(tenant(model()), 5))
    first.keeper.offer(envelope(tenant(tenant_id="t2", credentials=(credential("cr_b"),)), 6))
    second = Process(tmp_path / "made" / "when" / "needed")
    assert second.keeper.load_files() == 2
    assert (second.revision("t1"), second.revision("t2")) == (5, 6)


def test_files__only_what_replaces_one_waits_for_the_disk(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("serving.whole_files.os.fsync", synced.append)
    process.keeper.offer(envelope(tenant(), 1))
    assert synced == []
    process.keeper.offer(envelope(tenant(), 2))
    assert len(synced) == 1


def test_files__a_tombstone_stays_a_tombstone(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.keeper.offer(envelope(tenant(model()), 5))
    first.keeper.offer(envelope(tenant(credentials=(), is_ended=True), 6))
    second = Process(tmp_path)
    second.keeper.load_files()
    assert second.world.tenants["t1"].is_ended
    assert not second.keeper.offer(envelope(tenant(model()), 5))


def test_files__two_processes__the_newest_revision_wins(tmp_path: Path) -> None:
    fast, slow = Process(tmp_path), Process(tmp_path)
    fast.keeper.offer(envelope(tenant(), 5))
    fast.keeper.offer(envelope(tenant(), 8))
    slow.keeper.offer(envelope(tenant(), 6))
    third = Process(tmp_path)
    third.keeper.load_files()
    assert third.revision() == 8


def test_files__damaged_or_foreign__the_others_are_taken(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.keeper.offer(envelope(tenant(), 5))
    first.keeper.offer(envelope(tenant(tenant_id="t2"), 5))
    (tmp_path / "t1.snapshot").write_bytes(b"half a fi")
    (tmp_path / "t3.snapshot").mkdir()
    (tmp_path / "t4.draft").write_bytes(b"never finished")
    second = Process(tmp_path)
    assert second.keeper.load_files() == 1
    assert (second.revision("t1"), second.revision("t2")) == (None, 5)
    assert second.numbers.snapshot_refusals == {"unreadable": 2}
    second.keeper.offer(envelope(tenant(), 6))
    third = Process(tmp_path)
    assert third.keeper.load_files() == 2


def test_files__folder_cannot_be_written__serving_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a file").write_text("")
    process = Process(tmp_path / "a file")
    with caplog.at_level(logging.WARNING):
        assert process.keeper.offer(envelope(tenant(), 5))
    assert process.revision() == 5
    assert "snapshot.not_saved tenant=t1" in caplog.text
    assert process.keeper.load_files() == 0


def test_files__an_id_that_is_a_path__is_not_written(process: Process, tmp_path: Path) -> None:
    process.keeper.offer(envelope(tenant(tenant_id="../../escape"), 5))
    assert process.revision("../../escape") == 5
    assert not list(tmp_path.rglob("*.snapshot"))
    assert not list(tmp_path.parent.glob("*.snapshot"))


def test_wanted__only_what_the_map_says_is_newer(process: Process) -> None:
    for tenant_id, revision in (("t1", 5), ("t2", 5), ("t3", 5)):
        process.keeper.offer(envelope(tenant(tenant_id=tenant_id, credentials=()), revision))
    revisions = {b"t1": b"5", b"t2": b"6", b"t3": b"4", b"t4": b"1"}
    assert process.keeper.wanted(revisions) == ["t2", "t4"]


def test_wanted__an_empty_map_is_not_an_empty_world(process: Process) -> None:
    process.keeper.offer(envelope(tenant(), 5))
    assert process.keeper.wanted({}) == []
    assert process.revision() == 5


def test_wanted__nonsense_in_the_map__refused_and_the_rest_is_read(process: Process) -> None:
    revisions = {b"t1": b"x", b"t2": b"-1", b"\xff": b"1", b"a/b": b"1", b"t3": b"9" * 30, b"t4": b"", b"t5": b"2"}
    assert process.keeper.wanted(revisions) == ["t5"]
    assert process.numbers.snapshot_refusals == {"unreadable": 6}


def roster(*tenant_ids: str, issued_at: int = NOW, key: ed25519.Ed25519PrivateKey = SIGNING_KEY) -> bytes:
    [key_id] = TRUSTED
    listed = tuple(published.Listed(tenant_id, 5, b"") for tenant_id in tenant_ids)
    return published.sign_roster(published.Roster(issued_at, listed), key_id, key)


def renewal(raw: bytes, issued_at: int, **changed: object) -> bytes:
    """Return a roster that signs a snapshot anew, or that names something else in its place."""
    [key_id] = TRUSTED
    opened = published.open_snapshot(raw, TRUSTED)
    listed = published.Listed(opened.tenant.id, opened.revision, published.content_digest(raw))
    entry = msgspec.structs.replace(listed, **changed)
    return published.sign_roster(published.Roster(issued_at, (entry,)), key_id, SIGNING_KEY)


def poll(process: Process, revisions: dict[bytes, bytes], *envelopes: bytes) -> None:
    """Do what the watch does: look at the map, offer what there is."""
    process.keeper.wanted(revisions)
    for raw in envelopes:
        process.keeper.offer(raw)
    process.keeper.note_fetched()


def test_ready__a_current_tenant__until_it_is_too_old(process: Process) -> None:
    assert not process.keeper.is_ready(NOW, 100)
    poll(process, {b"t1": b"5"}, envelope(tenant(), 5, issued_at=NOW))
    assert process.keeper.is_ready(NOW + 100, 100)
    assert not process.keeper.is_ready(NOW + 101, 100)
    process.keeper.offer(envelope(tenant(tenant_id="t2", credentials=()), 5, issued_at=NOW + 50))
    assert process.keeper.is_ready(NOW + 101, 100)


def test_ready__an_empty_map__is_not_an_empty_world(process: Process) -> None:
    poll(process, {})
    assert not process.keeper.is_ready(NOW, 100)
    assert not process.world.was_whole


def test_ready__the_signed_word_that_there_is_nobody__until_it_is_too_old(process: Process) -> None:
    process.keeper.offer_roster(roster())
    assert not process.keeper.is_ready(NOW, 100), "requests are still answered as by one that knows nobody"
    poll(process, {})
    assert process.keeper.is_ready(NOW + 100, 100)
    assert not process.keeper.is_ready(NOW + 101, 100)
    assert process.keeper.oldest_age_seconds(NOW + 7) == 7


# Named, since a signature of a key that is new in each process would name a test otherwise in each.
@pytest.mark.parametrize(
    "raw",
    [roster(key=STRANGER), b"", b"nonsense", envelope(tenant(), 1)],
    ids=["a stranger's", "empty", "nonsense", "a tenant's"],
)
def test_ready__a_list_of_nobody_that_is_not_signed_as_one__is_no_word(process: Process, raw: bytes) -> None:
    process.keeper.offer_roster(raw)
    poll(process, {})
    assert not process.keeper.is_ready(NOW, 100)
    assert process.numbers.snapshot_refusals == {"unreadable": 1}


def test_ready__a_tenant_that_the_map_promises_is_missing__not_until_it_is_here(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    revisions = {b"t1": b"5", b"t2": b"5"}
    poll(process, revisions, envelope(tenant(), 5, issued_at=NOW))
    assert process.world.missing == {"t2"}
    assert not process.keeper.is_ready(NOW, 100)
    poll(process, revisions)
    assert [record.getMessage() for record in caplog.records].count("snapshot.missing tenants=1 among_them=t2") == 1
    poll(process, revisions, envelope(tenant(tenant_id="t2", credentials=()), 5, issued_at=NOW))
    assert process.keeper.is_ready(NOW, 100)
    assert not process.world.missing


def test_ready__redis_that_is_being_filled_again__not_before_all_on_the_list_are_here(process: Process) -> None:
    process.keeper.offer_roster(roster("t1", "t2"))
    poll(process, {b"t1": b"5"}, envelope(tenant(), 5, issued_at=NOW))
    assert process.world.missing == {"t2"}
    assert not process.keeper.is_ready(NOW, 100)


def test_ready__once_whole__a_promise_that_is_not_kept_takes_no_lane_out(process: Process) -> None:
    poll(process, {b"t1": b"5"}, envelope(tenant(), 5, issued_at=NOW))
    poll(process, {b"t1": b"5", b"junk": b"9"})
    assert process.world.missing == {"junk"}
    assert process.keeper.is_ready(NOW, 100)
    assert not process.keeper.wants_roster()


def test_age__of_the_stalest_living_tenant(process: Process) -> None:
    assert process.keeper.oldest_age_seconds(NOW) == math.inf
    process.keeper.offer(envelope(tenant(tenant_id="t3", credentials=(), is_ended=True), 5, issued_at=NOW - 700))
    assert process.keeper.oldest_age_seconds(NOW) == 700
    process.keeper.offer(envelope(tenant(), 5, issued_at=NOW - 7))
    process.keeper.offer(envelope(tenant(tenant_id="t2", credentials=()), 5, issued_at=NOW - 70))
    assert process.keeper.oldest_age_seconds(NOW) == 70


# --- Signed anew in the roster ----------------------------------------------------------------------------------------

OF_NOW = envelope(tenant(), 5, issued_at=NOW)


def age(process: Process) -> float:
    return process.keeper.oldest_age_seconds(NOW + 100)


def test_roster__names_what_is_here__it_is_as_if_signed_then(process: Process) -> None:
    process.keeper.offer(OF_NOW)
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 90))
    assert age(process) == 10
    assert process.revision() == 5


def test_roster__comes_before_the_snapshot_that_it_names__holds_for_it_too(process: Process) -> None:
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 90))
    process.keeper.offer(OF_NOW)
    assert age(process) == 10


@pytest.mark.parametrize(
    "other", [{"revision": 6}, {"revision": 4}, {"digest": b"x" * 32}, {"digest": b""}, {"id": "t2"}]
)
def test_roster__names_another_state__what_is_here_grows_old(process: Process, other: dict[str, object]) -> None:
    process.keeper.offer(OF_NOW)
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 90, **other))
    assert age(process) == 100
    assert not process.keeper.is_ready(NOW + 100, 99)


def test_roster__an_older_one_is_put_back__is_refused_and_renews_nothing(process: Process) -> None:
    newer = envelope(tenant(credentials=()), 6, issued_at=NOW + 50)
    process.keeper.offer(OF_NOW)
    process.keeper.offer_roster(renewal(newer, NOW + 60))
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 55))
    assert age(process) == 100
    assert process.numbers.snapshot_refusals == {"outdated": 1}


def test_roster__not_signed_with_a_trusted_key__renews_nothing(process: Process) -> None:
    process.keeper.offer(OF_NOW)
    key_id, document, signature = msgspec.msgpack.decode(renewal(OF_NOW, NOW + 90))
    process.keeper.offer_roster(msgspec.msgpack.encode((key_id, document + b"x", signature)))
    assert age(process) == 100


def test_load_files__with_the_roster_of_the_process_before__knows_how_lately_they_were_signed(
    process: Process, tmp_path: Path
) -> None:
    process.keeper.offer(OF_NOW)
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 30))
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 90))
    next_one = Process(tmp_path)
    assert next_one.keeper.load_files() == 1
    assert age(next_one) == 10
    (tmp_path / "roster").write_bytes(b"damaged")
    last = Process(tmp_path)
    assert last.keeper.load_files() == 1
    assert age(last) == 100
    assert last.numbers.snapshot_refusals == {}


def test_content_digest__fields_of_another_release_in_it__are_of_the_bytes_that_were_signed() -> None:
    key_id, document, _ = msgspec.msgpack.decode(OF_NOW)
    fields = msgspec.msgpack.decode(document)
    fields["tenant"]["of_a_later_release"] = 1
    later = msgspec.msgpack.encode(fields, order="deterministic")
    content = msgspec.msgpack.encode(fields["tenant"], order="deterministic")
    raw = msgspec.msgpack.encode((key_id, later, SIGNING_KEY.sign(b"recsite snapshot 1\n" + later)))
    assert published.open_snapshot(raw, TRUSTED).revision == 5
    assert published.content_digest(raw) == hashlib.sha256(content).digest()


# --- Clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "unseen", "off", "words"),
    [
        (0, None, 0, ""),
        (4000, None, 0, ""),  # or nobody has signed anything for long
        (-3600, None, 3600, "3600 s or more behind"),
        (-4, 60.0, 0, ""),
        (75, 60.0, 15, "15 s or more ahead of"),
        (64, 60.0, 0, ""),
        (3600, 60.0, 3540, "3540 s or more ahead of"),
        (3600, 4000.0, 0, ""),  # Redis was away
    ],
)
def test_clock__a_new_roster__tells_how_far_off_this_one_is_at_least(
    process: Process,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    age: int,
    unseen: float | None,
    off: float,
    words: str,
) -> None:
    monkeypatch.setattr("serving.snapshots.time.time", lambda: float(NOW))
    process.keeper.offer_roster(roster(issued_at=NOW - 100_000))
    process.keeper.clock_off_seconds = 0.0
    caplog.clear()
    process.keeper.offer_roster(roster(issued_at=NOW - age), unseen)
    assert process.keeper.clock_off_seconds == off
    said = [record.getMessage() for record in caplog.records if "clock.off" in record.getMessage()]
    assert len(said) == bool(words)
    assert all(words in line for line in said)


def test_clock__the_same_roster_for_long__says_nothing_of_it(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.snapshots.time.time", lambda: float(NOW))
    process.keeper.offer_roster(roster(issued_at=NOW - 7000))
    process.keeper.offer_roster(roster(issued_at=NOW - 7000), 60.0)
    assert process.keeper.clock_off_seconds == 0


def test_clock__is_set_right__is_not_off_any_more(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.snapshots.time.time", lambda: float(NOW))
    process.keeper.offer_roster(roster(issued_at=NOW + 600))
    assert process.keeper.clock_off_seconds == 600
    monkeypatch.setattr("serving.snapshots.time.time", lambda: NOW + 630.0)
    process.keeper.offer_roster(roster(issued_at=NOW + 620), 60.0)
    assert process.keeper.clock_off_seconds == 0


def test_clock__of_the_control_plane_was_ahead_once__its_roster_neither_renews_for_ever_nor_keeps_others_out(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.snapshots.time.time", lambda: NOW + 10.0)
    process.keeper.offer(OF_NOW)
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 1_000_000))
    assert age(process) == 90
    monkeypatch.setattr("serving.snapshots.time.time", lambda: NOW + 60.0)
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 55), 60.0)
    assert age(process) == 45
    assert process.keeper.clock_off_seconds == 0
    process.keeper.offer_roster(renewal(OF_NOW, NOW + 50))
    assert process.numbers.snapshot_refusals == {"outdated": 1}
