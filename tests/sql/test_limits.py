"""max_entries and max_bytes hold, whatever the write pattern, with nobody running upkeep; and what is evicted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.conftest import NewSession
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once, wait_until

# How far over a limit a type may be, at any moment.
TOLERANCE = 1.05
ENTRIES = 1000
WRITTEN = 2000
# A value that does not compress, of about so many bytes.
VALUE = (
    "to_jsonb((SELECT string_agg(encode(sha256((i * 1000 + n)::text::bytea), 'hex'), '')"
    " FROM generate_series(1, {size} / 64) n))"
)


def entries(ask: Session, type: str = "mine") -> int:
    return int(ask(f"SELECT count(*) FROM cache_type_{type}"))


def entry_bytes(ask: Session, type: str = "mine") -> int:
    return int(ask.stats(type)["bytes"])


def singly(ask: Session, keys: str, value: str = "'1'", key: str = "'k' || i") -> None:
    """Each key in a transaction of its own. One statement, so that it is quick; and so one moment in time."""
    ask(f"DO $$ BEGIN FOR i IN {keys} LOOP PERFORM cache_set('mine', {key}, {value}); COMMIT; END LOOP; END $$")


def in_turn(ask: Session, first: int, last: int, calls: str) -> None:
    """These calls for each i, in a transaction of its own and a millisecond after the one before, by one statement."""
    ask(f"""DO $$ BEGIN FOR i IN {first} .. {last} LOOP
        PERFORM set_config('pgcache.clock', (pgcache_internal.cache_now() + interval '1 millisecond')::text, false);
        PERFORM {calls};
        COMMIT;
    END LOOP; END $$""")


def together(ask: Session, first: int, last: int) -> None:
    """All keys in one statement."""
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(%s::int, %s::int) i", first, last)


def steps(total: int, step: int) -> Iterator[str]:
    for first in range(0, total, step):
        yield f"{first} .. {first + step - 1}"


# How so many entries are written; after each yield the limit must hold.


def single_sets(ask: Session) -> Iterator[None]:
    for keys in steps(WRITTEN, 20):
        singly(ask, keys)
        yield


def sets_in_one_statement(ask: Session) -> Iterator[None]:
    together(ask, 1, WRITTEN)
    yield


def set_many(ask: Session) -> Iterator[None]:
    for first in range(0, WRITTEN, 100):
        ask(
            "SELECT cache_set_many('mine', ARRAY(SELECT 'k' || i FROM generate_series(%s::int, %s::int) i),"
            " array_fill('1'::jsonb, '{100}'))",
            first,
            first + 99,
        )
        yield


def adds_and_increments(ask: Session) -> Iterator[None]:
    for keys in steps(WRITTEN // 2, 50):
        ask(f"""DO $$ BEGIN FOR i IN {keys} LOOP
            PERFORM cache_add('mine', 'a' || i, '1'); PERFORM cache_incr('mine', 'n' || i); COMMIT;
        END LOOP; END $$""")
        yield


def long_transactions(ask: Session) -> Iterator[None]:
    """Nobody else sees what they store before they commit, and make room."""
    for half in range(0, WRITTEN, WRITTEN // 2):
        with ask.transaction():
            for first in range(half, half + WRITTEN // 2, 20):
                together(ask, first, first + 19)
            ask("COMMIT")
        yield


def isolated(ask: Session, level: str) -> Iterator[None]:
    for first in range(0, WRITTEN, 60):
        with ask.transaction(f"ISOLATION LEVEL {level}"):
            together(ask, first, first + 59)
            ask("COMMIT")
        yield


def repeatable_read(ask: Session) -> Iterator[None]:
    return isolated(ask, "REPEATABLE READ")


def serializable(ask: Session) -> Iterator[None]:
    return isolated(ask, "SERIALIZABLE")


def overwrites_among_new_ones(ask: Session) -> Iterator[None]:
    for first in range(0, WRITTEN, 50):
        singly(ask, f"{first} .. {first + 49}")
        singly(ask, f"{first - 30} .. {first + 49}")
        yield


def with_reads_between(ask: Session) -> Iterator[None]:
    for keys in steps(WRITTEN, 50):
        singly(ask, keys)
        ask(
            "SELECT count(cache_get('mine', cache_key)) FROM (SELECT cache_key FROM cache_type_mine"
            " ORDER BY random() LIMIT 200) s"
        )
        yield


PATTERNS = [
    single_sets, sets_in_one_statement, set_many, adds_and_increments, long_transactions, repeatable_read,
    serializable, overwrites_among_new_ones, with_reads_between,
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_max_entries_holds(ask: Session, pattern: Callable[[Session], Iterator[None]]) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s)", ENTRIES)
    sizes = [entries(ask) for _ in pattern(ask)]
    assert max(sizes) <= ENTRIES * TOLERANCE
    assert sizes[-1] >= ENTRIES * 0.9  # and room that is there is used
    assert ask.stats("mine")["evicted"] >= WRITTEN - ENTRIES * TOLERANCE


@pytest.mark.parametrize("size", [500, 3000])
def test_a_large_batch_leaves_the_cache_full(ask: Session, size: int) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s)", ENTRIES)
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, %s) i", ENTRIES)
    keys = "ARRAY(SELECT 'new' || i FROM generate_series(1, %s) i)"
    ask(f"SELECT cache_set_many('mine', {keys}, array_fill('1'::jsonb, ARRAY[%s]))", size, size)
    assert ENTRIES * 0.9 <= entries(ask) <= ENTRIES * TOLERANCE


@pytest.mark.once
@pytest.mark.parametrize("policy", ["fifo", "cost"])
def test_max_entries_holds_for_the_other_policies(ask: Session, policy: str) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s, eviction => %s)", ENTRIES, policy)
    sizes = [entries(ask) for _ in with_reads_between(ask)]
    assert max(sizes) <= ENTRIES * TOLERANCE
    assert sizes[-1] >= ENTRIES * 0.9


@pytest.mark.parametrize("limit", [1, 2, 5, 10, 40, 100, 300])
def test_small_limits(ask: Session, limit: int) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s)", limit)
    sizes = []
    for i in range(limit * 2 + 20):
        ask("SELECT cache_set('mine', %s, '1')", f"k{i}")
        sizes.append(entries(ask))
    assert max(sizes) <= max(limit, int(limit * TOLERANCE))


@pytest.mark.parametrize("limit", [1, 2, 5, 10])
def test_small_limits_are_used(ask: Session, limit: int) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s)", limit)
    for i in range(limit * 3):
        ask("SELECT cache_set('mine', %s, '1')", f"k{i}")
        assert ask("SELECT cache_get('mine', %s)", f"k{i}") == 1  # what was just stored is there
        assert entries(ask) == min(i + 1, limit)


@pytest.mark.parametrize("type", ["llm", "embedding", "audio", "crawl", "store"])
def test_the_limits_of_the_built_in_types_hold(ask: Session, type: str) -> None:
    from tests.sql.test_get_and_set import VALUES

    ask("SELECT cache_configure(%s, max_entries => 400)", type)
    table = ask("SELECT relation FROM pgcache_internal.types WHERE type = %s", type)
    sizes = []
    for first in range(0, 1200, 30):
        ask(
            "SELECT count(cache_set(%s, 'k' || i, %s)) FROM generate_series(%s::int, %s::int) i",
            type, VALUES[type][0], first, first + 29,
        )  # fmt: skip
        sizes.append(ask(f"SELECT count(*) FROM {table}"))
    assert max(sizes) <= 400 * TOLERANCE
    assert sizes[-1] >= 400 * 0.9


def test_a_type_without_a_limit_of_bytes_counts_none(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 10, max_bytes => NULL)")
    ask(f"SELECT count(cache_set('mine', 'k' || i, {VALUE.format(size=6400)})) FROM generate_series(1, 20) i")
    assert ask("SELECT pgcache_internal.counter('mine', 'volume')") == 0


@pytest.mark.parametrize("size", [100, 2_000, 20_000])
def test_max_bytes_holds(ask: Session, size: int) -> None:
    limit = 300 * size
    ask("SELECT cache_create_type('mine', max_bytes => %s)", limit)
    sizes = []
    for keys in steps(900, 30):
        singly(ask, keys, VALUE.format(size=size))
        sizes.append(entry_bytes(ask))
    assert max(sizes) <= limit * TOLERANCE
    assert sizes[-1] >= limit * 0.85


@pytest.mark.once
def test_max_bytes_holds_for_mixed_sizes(ask: Session) -> None:
    limit = 2_000_000
    ask("SELECT cache_create_type('mine', max_bytes => %s)", limit)
    sizes = []
    for keys in steps(1500, 30):
        singly(
            ask,
            keys,
            VALUE.format(
                size="CASE WHEN i %% 10 = 0 THEN 25600 WHEN i %% 3 = 0 THEN 3200 ELSE 64 END".replace("%%", "%")
            ),
        )
        sizes.append(entry_bytes(ask))
    assert max(sizes) <= limit * TOLERANCE
    assert sizes[-1] >= limit * 0.8


@pytest.mark.once
def test_max_bytes_holds_for_overwrites_that_grow(ask: Session) -> None:
    """The number of entries stays, their size does not."""
    limit = 2_000_000
    ask("SELECT cache_create_type('mine', max_bytes => %s)", limit)
    sizes = []
    for size in (64, 640, 3200, 6400, 9600, 12800):
        for keys in steps(300, 30):
            singly(ask, keys, VALUE.format(size=size))
            sizes.append(entry_bytes(ask))
    assert max(sizes) <= limit * TOLERANCE


@pytest.mark.once
def test_max_bytes_holds_for_batches(ask: Session) -> None:
    limit = 2_000_000
    ask("SELECT cache_create_type('mine', max_bytes => %s)", limit)
    sizes = []
    for first in range(0, 600, 20):
        values = f"ARRAY(SELECT {VALUE.format(size=6400)} FROM generate_series(%s::int, %s::int) i)"
        keys = "ARRAY(SELECT 'k' || i FROM generate_series(%s::int, %s::int) i)"
        ask(f"SELECT cache_set_many('mine', {keys}, {values})", first, first + 19, first, first + 19)
        sizes.append(entry_bytes(ask))
    # A batch is one write: it cannot be kept out, it can only be made up for at once.
    assert max(sizes) <= limit * TOLERANCE
    assert sizes[-1] >= limit * 0.8


def test_max_bytes_of_audio_holds(ask: Session) -> None:
    ask("SELECT cache_configure('audio', max_bytes => 5000000)")
    sizes = []
    for i in range(60):
        ask("SELECT cache_set_audio(%s, 'v', %b, 'wav')", f"t{i}", bytes(200_000))
        sizes.append(entry_bytes(ask, "audio"))
    assert max(sizes) <= 5_000_000 * TOLERANCE
    assert sizes[-1] >= 4_000_000


def test_max_bytes_of_embeddings_holds(ask: Session) -> None:
    ask("SELECT cache_configure('embedding', max_bytes => 2000000)")
    sizes = []
    for first in range(0, 900, 30):
        ask(
            "SELECT count(cache_set_embedding('t' || i, 'm', array_fill(i::real, '{1536}')::vector))"
            " FROM generate_series(%s::int, %s::int) i",
            first, first + 29,
        )  # fmt: skip
        sizes.append(entry_bytes(ask, "embedding"))
    assert max(sizes) <= 2_000_000 * TOLERANCE
    assert sizes[-1] >= 1_600_000


# How a session writes several keys, `{key}`, and i from {first} to {last}.
SEVERAL_AT_ONCE = {
    "batch": "SELECT cache_set_many_json('mine', jsonb_object_agg({key}, i)) FROM generate_series({first}, {last}) i",
    "statement": "SELECT count(cache_set('mine', {key}, '1')) FROM generate_series({first}, {last}) i",
    "transaction": "DO $$ BEGIN FOR i IN {first}..{last} LOOP PERFORM cache_set('mine', {key}, '1'); END LOOP; END $$",
    "each": """DO $$ BEGIN
        FOR i IN {first}..{last} LOOP PERFORM cache_set('mine', {key}, '1'); COMMIT; END LOOP;
    END $$""",
}


def sizes_while_written(
    sessions: list[Session], how: str, total: int, at_a_time: int, *, until_refused: bool = False
) -> list[int]:
    """How many entries others see while all sessions write new keys, and at the end."""
    watcher, *writers = sessions
    sizes: list[int] = []
    running = len(writers)

    def write(number: int) -> None:
        nonlocal running
        try:
            for first in range(0, total // len(writers) + at_a_time, at_a_time):
                writers[number](
                    SEVERAL_AT_ONCE[how].format(key=f"'{number} ' || i", first=first, last=first + at_a_time - 1)
                )
        except psycopg.Error as error:
            if not until_refused or error.sqlstate != "PC009":
                raise
        finally:
            running -= 1

    def watch() -> None:
        pause = threading.Event()  # without it, the watcher would take a processor from the writers
        while running:
            sizes.append(entries(watcher))
            pause.wait(0.001)

    at_once(watch, *(lambda number=number: write(number) for number in range(len(writers))))
    return [*sizes, entries(watcher)]


@pytest.mark.parametrize(("limit", "writers"), [(100, 8), (2000, 20)])
def test_limits_hold_for_concurrent_sessions(new_session: NewSession, limit: int, writers: int) -> None:
    sessions = [new_session() for _ in range(1 + writers)]
    sessions[0]("SELECT cache_create_type('mine', max_entries => %s)", limit)
    sizes = sizes_while_written(sessions, "each", limit * 2, 50)
    assert max(sizes) <= limit * TOLERANCE
    assert sizes[-1] >= limit * 0.9


@pytest.mark.once
@pytest.mark.parametrize(("limit", "writers"), [(100, 2), (500, 4), (500, 8), (2000, 2), (5000, 8)])
def test_other_limits_hold_for_concurrent_sessions(new_session: NewSession, limit: int, writers: int) -> None:
    test_limits_hold_for_concurrent_sessions(new_session, limit, writers)


@pytest.mark.once
@pytest.mark.parametrize("how", ["batch", "statement", "transaction"])
@pytest.mark.parametrize(
    ("limit", "at_a_time", "writers"), [(500, 7, 4), (1000, 20, 8), (1000, 150, 8), (10_000, 100, 4)]
)
def test_limits_hold_for_concurrent_writers_of_several_keys(
    new_session: NewSession, how: str, limit: int, at_a_time: int, writers: int
) -> None:
    sessions = [new_session() for _ in range(1 + writers)]
    sessions[0]("SELECT cache_create_type('mine', max_entries => %s)", limit)
    sizes = sizes_while_written(sessions, how, limit * 2, at_a_time)
    assert max(sizes) <= limit * TOLERANCE
    assert sizes[-1] >= limit * 0.9


@pytest.mark.once
def test_limits_hold_for_concurrent_transactions_that_keep_their_snapshot(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(5)]
    sessions[0]("SELECT cache_create_type('mine', max_entries => %s)", ENTRIES)
    for session in sessions:
        session("SET default_transaction_isolation = 'repeatable read'")
    sizes = sizes_while_written(sessions, "transaction", ENTRIES * 3, 27)
    # Who is held up long enough fails at what others have evicted, three times, and leaves it to a later write.
    assert max(sizes) <= ENTRIES * 1.5
    assert sizes[-1] >= ENTRIES * 0.8  # they do not see how many there are, so they may remove too many
    sessions[0]("RESET default_transaction_isolation")
    together(sessions[0], 1, ENTRIES // 20)
    assert entries(sessions[0]) <= ENTRIES * TOLERANCE


@pytest.mark.once
def test_a_commit_that_lasts_does_not_keep_others_from_making_room(ask: Session, new_session: NewSession) -> None:
    """After SET CONSTRAINTS, or PREPARE TRANSACTION, it has had its turn and goes on."""
    ask("SELECT cache_create_type('mine', max_entries => 100)")
    singly(ask, "1 .. 100")
    other = new_session()
    with other.transaction():
        other("SELECT cache_set('mine', 'other', '1')")
        other("SET CONSTRAINTS ALL IMMEDIATE")
        assert ask("SELECT cache_set('mine', 'new', '1')")
        assert ask("SELECT cache_get('mine', 'new')") == 1
        assert entries(ask) <= 100 * TOLERANCE
        other("COMMIT")
    assert entries(ask) <= 100 * TOLERANCE


def test_limits_hold_where_constraints_are_immediate(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100)")
    with ask.transaction():
        ask("SET CONSTRAINTS ALL IMMEDIATE")
        for first in range(0, 1000, 50):
            together(ask, first, first + 49)
        ask("COMMIT")
    assert 90 <= entries(ask) <= 100 * TOLERANCE
    assert ask("SELECT count(*) FROM pgcache_internal.room_due") == 0


def test_nothing_stays_due(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100), cache_create_type('other', max_entries => 100)")
    due = "SELECT count(*) FROM pgcache_internal.room_due"
    for end in ("COMMIT", "ROLLBACK", "ROLLBACK TO a; COMMIT", "RELEASE a; SET TRANSACTION READ ONLY; COMMIT"):
        with ask.transaction():
            ask("SAVEPOINT a")
            for type in ("mine", "other"):
                ask("SELECT count(cache_set(%s, 'k' || i, '1')) FROM generate_series(1, 100) i", type)
            assert ask(due) > 0
            for statement in end.split("; "):
                ask(statement)
        ask("SELECT cache_set('mine', 'k', '1')")
        # But where the transaction may not write any more. Then it is left to the upkeep.
        assert (ask(due) > 0) == ("READ ONLY" in end)
    ask("CALL cache_upkeep()")
    assert ask(due) == 0


@pytest.mark.parametrize("reset", ["RESET ALL", "DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP"])
def test_what_is_due_is_not_lost_with_a_sessions_settings(ask: Session, reset: str) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100)")
    together(ask, 1, 100)
    with ask.transaction():
        together(ask, 101, 150)
        ask(reset)
        ask("COMMIT")
    assert ask("SELECT count(*) FROM pgcache.cache_type_mine") <= 100 * TOLERANCE


def test_what_is_due_is_of_its_transaction(ask: Session, new_session: NewSession) -> None:
    """One that commits makes room for what it has written, and leaves the rest to those who wrote it."""
    ask("SELECT cache_create_type('mine', max_entries => 100), cache_create_type('other', max_entries => 100)")
    for type in ("mine", "other"):
        ask("SELECT count(cache_set(%s, 'k' || i, '1')) FROM generate_series(1, 100) i", type)
    other = new_session()
    with other.transaction():
        other("SELECT count(cache_set('other', 'l' || i, '1')) FROM generate_series(1, 50) i")
        together(ask, 101, 150)
        assert entries(ask) <= 100 * TOLERANCE
        other("COMMIT")
    assert entries(ask, "other") <= 100 * TOLERANCE


def test_turns_are_taken_in_one_order(ask: Session, new_session: NewSession) -> None:
    """By name, not as the types were written: so no two transactions wait for each other's."""
    ask("SELECT cache_create_type('a', max_entries => 10), cache_create_type('b', max_entries => 10)")
    other = new_session()
    with other.transaction():
        other("SELECT cache_set('b', 'k', '1')")
        other("SET CONSTRAINTS ALL IMMEDIATE")  # it has the turn in b, and keeps it
        ask("BEGIN")
        ask("SELECT cache_set('b', 'l', '1')")
        ask("SELECT cache_set('a', 'l', '1')")
        committed = ask.start("COMMIT")
        turns = "SELECT granted FROM pg_locks WHERE pid = %s AND relation = %s::regclass"
        wait_until(lambda: other(turns, ask.pid, "pgcache_internal.turn_b") is False)
        assert other(turns, ask.pid, "pgcache_internal.turn_a") is True
        other("COMMIT")
    committed.result(20)


@pytest.mark.once
def test_read_uncommitted_is_read_committed(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s)", ENTRIES)
    ask("SET default_transaction_isolation = 'read uncommitted'")
    singly(ask, f"1 .. {WRITTEN}")
    assert ENTRIES * 0.98 <= entries(ask) <= ENTRIES


def test_limits_hold_while_another_transaction_is_open(ask: Session, new_session: NewSession) -> None:
    """It holds back vacuum, and has written itself."""
    ask("SELECT cache_create_type('mine', max_entries => %s)", ENTRIES)
    other = new_session()
    with other.transaction("ISOLATION LEVEL REPEATABLE READ"):
        other("SELECT count(cache_set('mine', 'other' || i, '1')) FROM generate_series(1, 20) i")
        sizes = [entries(ask) for _ in single_sets(ask)]
    assert max(sizes) <= ENTRIES * TOLERANCE
    assert sizes[-1] >= ENTRIES * 0.9


@pytest.mark.once
def test_limits_hold_after_truncating(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s)", ENTRIES)
    for empty in ("TRUNCATE cache_type_mine", "SELECT 1"):
        sizes = [entries(ask) for _ in single_sets(ask)]
        assert max(sizes) <= ENTRIES * TOLERANCE
        assert sizes[-1] >= ENTRIES * 0.9
        ask(empty)


def test_a_limit_of_bytes_that_is_lowered_is_reached_soon(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    ask("SELECT count(cache_set('mine', 'k' || i, to_jsonb(repeat('x', 700)))) FROM generate_series(1, 10000) i")
    ask("SELECT cache_configure('mine', max_bytes => 100000)")
    singly(ask, "1 .. 50", key="'new ' || i")
    assert entry_bytes(ask, "mine") <= 100_000 * TOLERANCE


def test_a_limit_that_is_lowered_is_reached_soon(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 3000) i")
    ask("SELECT cache_configure('mine', max_entries => 1000)")
    ask("SELECT cache_cleanup('mine')")
    assert entries(ask) <= 1000 * TOLERANCE
    ask("SELECT cache_configure('mine', max_entries => 500)")
    ask("CALL cache_upkeep()")
    assert entries(ask) <= 500 * TOLERANCE
    ask("SELECT cache_configure('mine', max_entries => 200)")
    singly(ask, "10000 .. 10300")
    assert entries(ask) <= 200 * TOLERANCE


@pytest.mark.once
def test_how_many_writes_share_the_cost_of_making_room(ask: Session) -> None:
    """One in so many makes room. What has no limit of entries is as what has a large one."""
    some = 4 << 30
    periods = {
        (None, None): 256, (None, some): 256, (10**6, some): 256, (10_000, None): 100, (1000, None): 10,
        (500, None): 8, (100, None): 3, (1, None): 1, (None, 10**6): 12,
    }  # fmt: skip
    for limits, writes in periods.items():
        assert ask("SELECT pgcache_internal.sweep_every(%s, %s)", *limits) == writes


def test_expired_entries_make_room_first(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => 200)")
    ask("SELECT count(cache_set('mine', 'short' || i, '1', '1 minute')) FROM generate_series(1, 90) i")
    ask("SELECT count(cache_set('mine', 'long' || i, '1', '1 day')) FROM generate_series(1, 90) i")
    ask.advance("1 minute")
    ask("SELECT count(cache_set('mine', 'new' || i, '1', '1 day')) FROM generate_series(1, 90) i")
    ask("SELECT cache_cleanup('mine')")
    assert ask("SELECT count(*) FILTER (WHERE cache_key LIKE 'long%'), count(*) FROM cache_type_mine") >= 80
    assert ask.stats("mine")["cleaned"] >= 80


def test_evicted_and_cleaned_are_counted(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => %s)", ENTRIES)
    ask("SELECT count(cache_set('mine', 'k' || i, '1', '1 hour')) FROM generate_series(1, 2500) i")
    stats = ask.stats("mine")
    assert stats["entries"] + stats["evicted"] == 2500
    assert stats["cleaned"] == 0
    ask.advance("1 hour")
    live = stats["entries"]
    assert ask("SELECT cache_clear_expired('mine')") == live
    stats = ask.stats("mine")
    assert (stats["entries"], stats["cleaned"], stats["evicted"]) == (0, live, 2500 - live)


# Policies. They see a window of the table at a time, so they are right for most entries, not for all.


def read_while_others_are_written(ask: Session, turns: int, *, vacuum: bool) -> int:
    """50 entries are read ten times each while as many others are written as there is room; how many are left?"""
    ask.set_clock("2030-01-01")
    ask("SELECT count(cache_set('mine', 'hot' || i, '1')) FROM generate_series(0, 49) i")
    for turn in range(0, turns, 250):
        in_turn(ask, turn, turn + 249, "cache_get('mine', 'hot' || i % 50), cache_set('mine', 'once' || i, '1')")
        if vacuum:
            ask("VACUUM cache_type_mine")
    assert entries(ask) <= 525
    return int(ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'hot%'"))


@pytest.mark.once
@pytest.mark.parametrize("tracking", ["exact", "sampled"])
def test_lru_keeps_what_is_read(ask: Session, tracking: str) -> None:
    ask("SELECT cache_create_type('mine', ttl => NULL, max_entries => 500, hit_tracking => %s)", tracking)
    assert read_while_others_are_written(ask, 2500, vacuum=True) >= 45


@pytest.mark.once
def test_lru_keeps_what_is_read_when_vacuum_does_not_keep_up(ask: Session, new_session: NewSession) -> None:
    """As with any transaction that is open for long."""
    ask("SELECT cache_create_type('mine', ttl => NULL, max_entries => 500, hit_tracking => 'exact')")
    other = new_session()
    with other.transaction("ISOLATION LEVEL REPEATABLE READ"):
        other("SELECT 1")
        assert read_while_others_are_written(ask, 2500, vacuum=True) >= 45


@pytest.mark.once
def test_lru_keeps_what_is_so_hot_that_few_of_its_hits_are_logged(ask: Session) -> None:
    """Read 100 times while as many others are written as there is room: of those hits none may be in the log."""
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', ttl => NULL, max_entries => 500)")
    ask("SELECT count(cache_set('mine', 'hot' || i, '1')) FROM generate_series(0, 9) i")
    ask(
        "UPDATE cache_type_mine SET hit_count = 1000000, hit_weight ="
        " pgcache_internal.hit_weight_at('sampled', 1000000)"
    )
    hot = "cache_get('mine', 'hot' || i % 10), cache_get('mine', 'hot' || (i + 5) % 10)"
    in_turn(ask, 1, 1500, f"{hot}, cache_set('mine', 'once' || i, '1')")
    assert ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'hot%'") >= 9


@pytest.mark.once
def test_lru_makes_room_when_other_keys_come_into_fashion(ask: Session) -> None:
    """What was read 10,000 times and is not any more does not keep out what would all fit.

    The clock moves with the requests. By its own, a server that slows down would make the new keys look idle: the old
    ones were read last when all was quick.
    """
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', ttl => NULL, max_entries => 500)")
    ask("SELECT count(cache_set('mine', 'old' || i, '1')) FROM generate_series(1, 480) i")
    ask("UPDATE cache_type_mine SET hit_count = 10000, hit_weight = pgcache_internal.hit_weight_at('sampled', 10000)")
    key = "'new' || i * 7919 % 400"
    in_turn(ask, 1, 4000, f"coalesce(cache_get('mine', {key}), to_jsonb(cache_set('mine', {key}, '1')))")
    assert ask(f"SELECT count(cache_get('mine', {key})) FROM generate_series(3601, 4000) i") >= 350


@pytest.mark.once
def test_lru_drops_what_is_not_read_any_more(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', ttl => NULL, max_entries => 500, hit_tracking => 'exact')")
    ask("SELECT count(cache_set('mine', 'hot' || i, '1')) FROM generate_series(1, 50) i")
    ask("SELECT count(cache_get('mine', 'hot' || i)) FROM generate_series(1, 50) i, generate_series(1, 20)")
    for turn in range(40):
        ask.advance("1 minute")
        singly(ask, "1 .. 50", key=f"'once {turn} ' || i")
    assert ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'hot%'") <= 5


@pytest.mark.once
def test_fifo_drops_what_is_oldest_read_or_not(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', ttl => NULL, max_entries => 400, eviction => 'fifo')")
    in_turn(ask, 0, 1199, "cache_set('mine', i::text, '1'), cache_get('mine', (i % 100)::text)")
    kept = [int(key) for key in ask.column("SELECT cache_key FROM cache_type_mine")]
    assert sum(key < 100 for key in kept) == 0
    assert sum(key < 700 for key in kept) < 0.35 * len(kept)


@pytest.mark.once
def test_cost_keeps_what_is_expensive(ask: Session) -> None:
    """At equal sizes, what took more tokens, also where no model has a price. By chance, 40 of them would be kept."""
    ask.set_clock("2030-01-01")
    ask("SELECT cache_configure('llm', max_entries => 400, eviction => 'cost')")
    tokens = "CASE WHEN i % 10 = 0 THEN 10000 ELSE 10 END"
    in_turn(ask, 1, 1200, f"cache_set_llm(i::text, 'm', 'r', {tokens}, ttl => '1 day')")
    assert ask("SELECT count(*) FROM cache_llm_responses WHERE tokens_used = 10000") >= 80


@pytest.mark.once
def test_cost_prefers_the_model_with_the_higher_price(ask: Session) -> None:
    ask("SELECT cache_set_price('dear', 100), cache_set_price('cheap', 0.1)")
    ask.set_clock("2030-01-01")
    ask("SELECT cache_configure('llm', max_entries => 400, eviction => 'cost')")
    model = "CASE WHEN i % 10 = 0 THEN 'dear' ELSE 'cheap' END"
    in_turn(ask, 1, 1200, f"cache_set_llm(i::text, {model}, 'r', 100, ttl => '1 day')")
    assert ask("SELECT count(*) FROM cache_llm_responses WHERE model = 'dear'") >= 80


@pytest.mark.once
def test_cost_prefers_what_is_small(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_bytes => 1000000, eviction => 'cost')")
    small, large = VALUE.format(size=640), VALUE.format(size=12800)
    in_turn(
        ask, 0, 399, f"cache_set('mine', 's' || i, {small}, '1 day'), cache_set('mine', 'l' || i, {large}, '1 day')"
    )
    assert entry_bytes(ask) <= 1_050_000
    kept = ask.row("SELECT count(*) FILTER (WHERE cache_key LIKE 's%') AS small, count(*) AS kept FROM cache_type_mine")
    assert kept["small"] >= 110  # by age alone, 75


@pytest.mark.once
def test_cost_evicts_by_cost_when_the_clock_stands_still(ask: Session) -> None:
    """As it does within a statement."""
    ask.set_clock("2030-01-01")
    ask("SELECT cache_configure('llm', max_entries => 400, eviction => 'cost')")
    for part in range(30):
        ask(
            "SELECT count(cache_set_llm(%s || i, 'm', 'r', CASE WHEN i <= 4 THEN 10000 ELSE 10 END, ttl => '1 day'))"
            " FROM generate_series(1, 40) i",
            f"{part} ",
        )
    assert ask("SELECT count(*) FROM cache_llm_responses WHERE tokens_used = 10000") >= 80


# eviction => 'none'.


def test_none_refuses_what_is_too_much(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => 100, eviction => 'none')")
    stored = 0
    with refused("PC009", "eviction => 'lru'"):
        for i in range(200):
            ask("SELECT cache_set('mine', %s, '1', '1 hour')", f"k{i}")
            stored += 1
    assert 100 <= stored <= 105
    assert entries(ask) == stored
    for call in (
        "cache_add('mine', 'new', '1')",
        "cache_incr('mine', 'new')",
        "cache_set_many('mine', '{new}', '{1}')",
    ):
        with refused("PC009"):
            ask(f"SELECT {call}")
    assert ask("SELECT cache_set('mine', 'k0', '2', '1 hour')")  # what is there may be replaced
    assert ask("SELECT cache_add('mine', 'k0', '3')") is False
    assert ask("SELECT cache_delete_pattern('mine', 'k1%')") > 10
    assert ask("SELECT cache_set('mine', 'new', '1', '1 hour')")
    ask.advance("1 hour")
    assert ask("SELECT cache_set('mine', 'newer', '1')")  # what has expired makes room
    assert ask.stats("mine")["evicted"] == 0
    ask("SELECT cache_configure('mine', eviction => 'lru')")
    ask("SELECT count(cache_set('mine', 'x' || i, '1')) FROM generate_series(1, 300) i")
    assert entries(ask) <= 105


def test_none_knows_what_was_there_before_it_counted(ask: Session) -> None:
    """While the type evicted, or before the crash that emptied the counters."""
    ask("SELECT cache_create_type('mine', max_entries => 100)")
    together(ask, 1, 95)
    ask("SELECT cache_configure('mine', eviction => 'none')")
    assert ask("SELECT pgcache_internal.counter('mine', 'admitted')") == 0
    with refused("PC009"):
        singly(ask, "101 .. 200")
    assert 100 <= entries(ask) <= 102


def test_none_keeps_within_bytes(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_bytes => 1000000, eviction => 'none')")
    with refused("PC009", "Raise a limit"):
        singly(ask, "1 .. 500", VALUE.format(size=6400))
    assert entry_bytes(ask) <= 1_050_000


def test_none_refuses_a_value_that_is_too_large_for_it(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_bytes => 100000, eviction => 'none')")
    with refused("PC009"):
        ask(f"SELECT cache_set('mine', 'k', {VALUE.format(size=640_000)}) FROM (VALUES (1)) v (i)")
    assert entry_bytes(ask) == 0


@pytest.mark.parametrize("eviction", ["lru", "none"])
def test_a_value_that_is_too_large_for_its_type_is_refused_and_the_others_stay(ask: Session, eviction: str) -> None:
    ask("SELECT cache_create_type('mine', max_bytes => 100000, eviction => %s)", eviction)
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 300) i")
    large = VALUE.format(size=640_000)
    for call in (
        f"cache_set('mine', 'large', {large})",
        f"cache_set('mine', 'k1', {large})",
        f"cache_add('mine', 'large', {large})",
        f"cache_set_many('mine', '{{k2,large}}', ARRAY['1'::jsonb, {large}])",
    ):
        with refused("PC009", "max_bytes"):
            ask(f"SELECT {call} FROM (VALUES (1)) v (i)")
    assert entries(ask) == 300
    assert ask.stats("mine")["evicted"] == 0
    assert ask("SELECT cache_get('mine', 'k1')") == 1
    assert ask("SELECT cache_set('mine', 'new', '1')")
    # Large as it is given, small as it is stored.
    assert ask("SELECT cache_set('mine', 'compressed', to_jsonb(repeat('x', 640000)))")
    assert entries(ask) == 302


def test_none_refuses_what_would_go_over_its_bytes(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_bytes => 100000, eviction => 'none')")
    value = VALUE.format(size=38_400)
    for key in ("a", "b"):
        ask(f"SELECT cache_set('mine', %s, {value}) FROM (VALUES (1)) v (i)", key)
    for _ in range(2):
        with refused("PC009", "Raise a limit"):
            ask(f"SELECT cache_set('mine', 'c', {value}) FROM (VALUES (1)) v (i)")
    assert ask(f"SELECT cache_set('mine', 'a', {value}) FROM (VALUES (1)) v (i)")
    assert entries(ask) == 2
    ask("SELECT cache_delete('mine', 'a')")
    assert ask(f"SELECT cache_set('mine', 'c', {value}) FROM (VALUES (1)) v (i)")


def test_a_refusal_of_a_large_type_does_not_count_it(ask: Session) -> None:
    """A glance must do, most of the time."""
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => 60000, eviction => 'none')")
    ask("""INSERT INTO cache_type_mine (type, cache_key, data, expires_at)
        SELECT 'mine', 'k' || i, to_jsonb(repeat('x', 300)), pgcache_internal.cache_now() + '1 hour'
        FROM generate_series(1, 60000) i""")
    ask("SELECT pgcache_internal.measure('mine')")
    ask("SET track_functions = 'pl'")
    for _ in range(50):
        with refused("PC009"):
            ask("SELECT cache_set('mine', 'new', '1')")
    ask("SELECT pg_stat_force_next_flush()")
    assert ask("SELECT coalesce(max(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'measure'") <= 20
    ask.advance("1 hour")  # what has expired makes room at once
    assert ask("SELECT cache_set('mine', 'new', '1')")


def test_none_refuses_a_batch_as_a_whole(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100, eviction => 'none')")
    with refused("PC009"):
        ask(
            "SELECT cache_set_many('mine', ARRAY(SELECT 'k' || i FROM generate_series(1, 300) i),"
            " array_fill('1'::jsonb, '{300}'))"
        )
    assert entries(ask) == 0


@pytest.mark.once
@pytest.mark.parametrize(("how", "at_a_time"), [("each", 1), ("batch", 20), ("statement", 20)])
def test_none_holds_for_concurrent_sessions(new_session: NewSession, how: str, at_a_time: int) -> None:
    sessions = [new_session() for _ in range(9)]
    sessions[0]("SELECT cache_create_type('mine', max_entries => %s, eviction => 'none')", ENTRIES)
    sizes = sizes_while_written(sessions, how, ENTRIES * 2, at_a_time, until_refused=True)
    assert max(sizes) <= ENTRIES * 1.01
    assert sizes[-1] >= ENTRIES * 0.9


def test_none_holds_beside_a_transaction_that_lasts(ask: Session, new_session: NewSession) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100, eviction => 'none')")
    other = new_session()
    with other.transaction():
        other("SELECT count(cache_set('mine', 'other' || i, '1')) FROM generate_series(1, 60) i")
        with refused("PC009"):
            singly(ask, "1 .. 200")
        other("COMMIT")
    assert 90 <= entries(ask) <= 100


def test_none_takes_back_what_is_rolled_back(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100, eviction => 'none')")
    for _ in range(3):
        with ask.transaction():
            together(ask, 1, 100)
    together(ask, 1, 100)
    assert entries(ask) == 100


def test_none_keeps_nobody_waiting_who_has_counted(ask: Session, new_session: NewSession) -> None:
    """The lock that the count takes ends with it, not with the transaction."""
    ask("SELECT cache_create_type('mine', max_entries => 100, eviction => 'none')")
    together(ask, 1, 100)
    ask("SELECT cache_delete_pattern('mine', 'k5%')")
    other = new_session()
    with other.transaction():
        other("SELECT cache_set('mine', 'new', '1')")
        locks = (
            "SELECT array_agg(mode) FROM pg_locks WHERE pid = %s AND relation = 'pgcache_internal.turn_mine'::regclass"
        )
        assert ask(locks, other.pid) == ["ShareLock"]


def test_none_takes_what_replaces_another(ask: Session) -> None:
    """However often, and what is gone makes room."""
    ask("SELECT cache_create_type('mine', max_entries => 100, eviction => 'none')")
    for turn in range(4):
        ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 100) i")
        assert ask("SELECT cache_delete_pattern('mine', 'k_')") == 9
        ask("SELECT count(cache_set('mine', %s || i, '1')) FROM generate_series(1, 9) i", f"{turn} ")
        with refused("PC009", "Raise a limit"):
            ask("SELECT cache_set('mine', 'one more', '1')")
        assert ask("SELECT cache_delete_pattern('mine', %s)", f"{turn} %") == 9
    assert entries(ask) == 91


# measure().


def test_measure_is_exact_for_small_tables(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    for size in (0, 1, 50, 2000):
        ask("SELECT cache_clear('mine')")
        ask(
            f"SELECT count(cache_set('mine', 'k' || i, {VALUE.format(size='64 * (1 + i % 5)')}))"
            " FROM generate_series(1, %s) i".replace("% 5", "%% 5"),
            size,
        )
        ask("SELECT pgcache_internal.measure('mine')")
        stats = ask.stats("mine")
        assert ask("SELECT pgcache_internal.counter('mine', 'entries')") == stats["entries"] == size
        assert ask("SELECT pgcache_internal.counter('mine', 'bytes')") == stats["bytes"]


def test_measure_is_close_for_large_tables(ask: Session) -> None:
    """Beyond 4096 blocks it is an estimate. These are even, so it must be a close one."""
    ask("SELECT cache_create_type('mine')")
    ask(
        "INSERT INTO cache_type_mine (type, cache_key, data) SELECT 'mine', 'k' || i, to_jsonb(repeat('x', 300))"
        " FROM generate_series(1, 90000) i"
    )
    assert ask("SELECT pgcache_internal.heap_blocks('cache_type_mine')") > 4096
    ask("SELECT pgcache_internal.measure('mine')")
    assert abs(ask("SELECT pgcache_internal.counter('mine', 'entries')") - 90_000) < 900
