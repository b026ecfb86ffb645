"""Types of bytes: bytea goes in and comes out, whole numbers stay numbers."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.conftest import NewRole, NewSession
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once

EVERY_BYTE = bytes(range(256))
LARGEST = 2**63 - 1


@pytest.fixture(params=["bytes", "files"])
def type_of_bytes(ask: Session, request: pytest.FixtureRequest) -> str:
    type: str = request.param
    if type != "bytes":
        ask("SELECT cache_create_type(%s, bytes => true, ttl => NULL)", type)
    return type


@pytest.mark.parametrize("value", [b"", b"0", b"12", b"\\x61", EVERY_BYTE, EVERY_BYTE * 40_000])
def test_bytes_come_back_as_they_were(ask: Session, type_of_bytes: str, value: bytes) -> None:
    assert ask("SELECT cache_set_bytes(%s, 'k', %s)", type_of_bytes, value) is True
    assert ask("SELECT cache_get_bytes(%s, 'k')", type_of_bytes) == value
    assert ask("SELECT cache_ttl(%s, 'k')", type_of_bytes) is None
    assert ask.stats(type_of_bytes)["hits"] == 1
    assert ask("SELECT decode(cache_get(%s, 'k') ->> 'bytes', 'base64')", type_of_bytes) == value


def test_a_miss_is_null_and_counted(ask: Session, type_of_bytes: str) -> None:
    assert ask("SELECT cache_get_bytes(%s, 'k')", type_of_bytes) is None
    ask("SELECT cache_set_bytes(%s, 'k', 'x', '1 minute', tags => '{t}')", type_of_bytes)
    ask("SELECT cache_invalidate_tags('t')")
    assert ask("SELECT cache_get_bytes(%s, 'k')", type_of_bytes) is None
    assert ask.stats(type_of_bytes)["misses"] == 2


def test_numbers_stay_numbers(ask: Session, type_of_bytes: str) -> None:
    ask.set_clock("2030-01-01")
    type = type_of_bytes
    assert ask("SELECT cache_incr(%s, 'n', 5, '1 minute')", type) == 5
    assert ask("SELECT cache_incr(%s, 'n', -7)", type) == -2
    assert ask("SELECT cache_get_bytes(%s, 'n')", type) == b"-2"
    assert ask("SELECT cache_get(%s, 'n')", type) == {"number": -2}
    assert ask.rows("SELECT * FROM cache_get_many_bytes(%s, '{n,m}')", type) == [("n", b"-2", -2), ("m", None, None)]
    assert ask("SELECT cache_ttl(%s, 'n')", type) == timedelta(minutes=1)
    ask("SELECT cache_set(%s, 'n', %s)", type, f'{{"number": {LARGEST}}}')
    with refused("PC011"):
        ask("SELECT cache_incr(%s, 'n')", type)
    assert ask("SELECT cache_get_bytes(%s, 'n')", type) == str(LARGEST).encode()
    assert ask("SELECT cache_incr(%s, 'absent', create_if_missing => false)", type) is None


@pytest.mark.parametrize("value", [b"", b"5", EVERY_BYTE])
def test_bytes_are_no_counter_until_they_have_expired(ask: Session, type_of_bytes: str, value: bytes) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set_bytes(%s, 'k', %s, '1 minute')", type_of_bytes, value)
    with refused("PC011"):
        ask("SELECT cache_incr(%s, 'k')", type_of_bytes)
    assert ask("SELECT cache_get_bytes(%s, 'k')", type_of_bytes) == value
    ask.advance("1 minute")
    assert ask("SELECT cache_incr(%s, 'k', 3)", type_of_bytes) == 3
    assert ask("SELECT cache_get(%s, 'k')", type_of_bytes) == {"number": 3}


def test_fractions_are_not_counted(ask: Session) -> None:
    with refused("PC004"):
        ask("SELECT cache_incr_float('bytes', 'k', 0.5)")


def test_add(ask: Session, type_of_bytes: str) -> None:
    assert ask("SELECT cache_add_bytes(%s, 'k', 'one')", type_of_bytes) is True
    assert ask("SELECT cache_add_bytes(%s, 'k', 'two')", type_of_bytes) is False
    assert ask("SELECT cache_get_bytes(%s, 'k')", type_of_bytes) == b"one"
    ask("SELECT cache_set_bytes(%s, 'k', 'x', tags => '{t}'), cache_invalidate_tags('t')", type_of_bytes)
    assert ask("SELECT cache_add_bytes(%s, 'k', 'two')", type_of_bytes) is True


def test_numbers_beside_bytes(ask: Session, type_of_bytes: str) -> None:
    assert ask("SELECT cache_set_bytes(%s, 'n', NULL, number => 5)", type_of_bytes) is True
    assert ask("SELECT cache_add_bytes(%s, 'n', NULL, number => 6)", type_of_bytes) is False
    assert ask("SELECT cache_add_bytes(%s, 'm', NULL, number => 6)", type_of_bytes) is True
    assert ask("SELECT cache_incr(%s, 'n') + cache_incr(%s, 'm')", type_of_bytes, type_of_bytes) == 13


def test_the_hint_for_null_fits_the_type(ask: Session) -> None:
    for call in ("cache_set_bytes('bytes', 'k', NULL)", "cache_set('bytes', 'k', NULL)", "cache_set('llm', 'k', NULL)"):
        with pytest.raises(psycopg.Error) as error:
            ask(f"SELECT {call}")
        assert "cache_delete" in (error.value.diag.message_hint or "")
        assert "jsonb" not in (error.value.diag.message_hint or "")
    with pytest.raises(psycopg.Error) as error:
        ask("SELECT cache_set('store', 'k', NULL)")
    assert "jsonb" in (error.value.diag.message_hint or "")


def test_many_in_one_call(ask: Session, type_of_bytes: str) -> None:
    ask.set_clock("2030-01-01")
    stored = ask(
        "SELECT cache_set_many_bytes(%s, '{a,b,c,a}', %s, '1 hour', numbers => '{NULL,5,NULL,NULL}',"
        " ttls => '{NULL,1 minute,NULL,NULL}')",
        type_of_bytes,
        [b"first", None, EVERY_BYTE, b"last"],
    )
    assert stored == 3
    assert ask.rows("SELECT * FROM cache_get_many_bytes(%s, '{c,b,z,a,b}')", type_of_bytes) == [
        ("c", EVERY_BYTE, None),
        ("b", b"5", 5),
        ("z", None, None),
        ("a", b"last", None),
        ("b", b"5", 5),
    ]
    assert ask("SELECT cache_ttl(%s, 'b')", type_of_bytes) == timedelta(minutes=1)
    assert ask("SELECT cache_ttl(%s, 'a')", type_of_bytes) == timedelta(hours=1)
    assert ask("SELECT cache_set_many_bytes(%s, '{}', '{}')", type_of_bytes) == 0


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("cache_set_bytes('bytes', 'k', NULL)", "PC004"),
        ("cache_set_bytes('bytes', 'k', NULL, tags => '{t}')", "PC004"),
        ("cache_set_bytes('store', 'k', 'x')", "PC004"),
        ("cache_set_bytes('store', 'k', NULL, number => 1)", "PC004"),
        ("cache_set_bytes('store', 'k', NULL, tags => '{t}', number => 1)", "PC004"),
        ("cache_set_bytes('bytes', 'k', 'x', number => 1)", "PC004"),
        ("cache_set_bytes('nothing', 'k', NULL, number => 1)", "PC001"),
        ("cache_add_bytes('store', 'k', NULL, number => 1)", "PC004"),
        ("cache_add_bytes('bytes', 'k', 'x', number => 1)", "PC004"),
        ("cache_add_bytes('bytes', 'k', NULL)", "PC004"),
        ("cache_set_many_bytes('bytes', '{k}', '{x}', numbers => '{5}')", "PC004"),
        ("cache_set_many_bytes('bytes', '{j,k}', '{x,y}', numbers => '{NULL,5}')", "PC004"),
        ("cache_set_bytes('store', 'k', 'x', tags => '{t}')", "PC004"),
        ("cache_set_bytes('audio', 'k', 'x')", "PC004"),
        ("cache_set_bytes('llm', 'k', 'x')", "PC004"),
        ("cache_add_bytes('store', 'k', 'x')", "PC004"),
        ("cache_get_bytes('store', 'k')", "PC004"),
        ("cache_get_bytes('nothing', 'k')", "PC001"),
        ("cache_set_bytes('nothing', 'k', 'x')", "PC001"),
        ("cache_get_bytes('bytes', '')", "PC002"),
        ("cache_set_bytes('bytes', repeat('k', 1025), 'x')", "PC002"),
        ("cache_set_bytes('bytes', 'k', 'x', '0')", "PC003"),
        ("cache_set_bytes('bytes', 'k', 'x', jitter => 2)", "PC003"),
        ("cache_set_bytes('bytes', 'k', 'x', tags => '{NULL}')", "PC013"),
        ("cache_get_many_bytes('store', '{k}')", "PC004"),
        ("cache_get_many_bytes('bytes', '{k,NULL}')", "PC002"),
        ("cache_get_many_bytes('bytes', NULL)", "PC002"),
        ("cache_set_many_bytes('store', '{k}', '{x}')", "PC004"),
        ("cache_set_many_bytes('bytes', '{k}', '{}')", "PC004"),
        ("cache_set_many_bytes('bytes', '{k,l}', '{x,NULL}')", "PC004"),
        ("cache_set_many_bytes('bytes', '{k}', '{x}', ttls => '{0,1}')", "PC004"),
        ("cache_set_many_bytes('bytes', '{k}', '{x}', ttls => '{0}')", "PC003"),
        ("cache_set('bytes', 'k', '1')", "PC004"),
        ("cache_set('bytes', 'k', '{}')", "PC004"),
        ("cache_set('bytes', 'k', '{\"bytes\": \"\", \"number\": 1}')", "PC004"),
        ("cache_set('bytes', 'k', '{\"number\": 9223372036854775808}')", "PC004"),
        ("cache_set('bytes', 'k', '{\"number\": 1.5}')", "PC004"),
        ("cache_create_type('both', bytes => true, fields => '{\"a\": \"any\"}')", "PC010"),
    ],
)
def test_what_is_refused(ask: Session, call: str, sqlstate: str) -> None:
    with refused(sqlstate):
        ask(f"SELECT {call}")
    assert ask("SELECT count(*) FROM cache_bytes") == 0


def test_nothing_is_stored_where_nothing_can_be(ask: Session) -> None:
    ask("SELECT cache_set_bytes('bytes', 'k', 'x')")
    with ask.transaction("READ ONLY"):
        assert ask("SELECT cache_get_bytes('bytes', 'k')") == b"x"
        with refused("25006"):
            ask("SELECT cache_set_bytes('bytes', 'k', 'y')")
    ask("SELECT cache_configure('bytes', enabled => false)")
    assert ask("SELECT cache_set_bytes('bytes', 'k', 'y')") is False
    assert ask("SELECT cache_set_many_bytes('bytes', '{k}', '{y}')") == 0


def test_limits_hold(ask: Session) -> None:
    ask("SELECT cache_configure('bytes', max_bytes => 4000000)")
    for number in range(60):
        ask("SELECT cache_set_bytes('bytes', %s, %s)", f"k{number}", EVERY_BYTE * 1000)
    assert ask("SELECT sum(octet_length(bytes)) FROM cache_bytes") <= 4_000_000
    assert ask("SELECT cache_get_bytes('bytes', 'k59')") == EVERY_BYTE * 1000
    with refused("PC009"):
        ask("SELECT cache_set_bytes('bytes', 'k', %s)", EVERY_BYTE * 20_000)


def test_replacement_in_a_full_type(ask: Session) -> None:
    ask("SELECT cache_configure('bytes', max_entries => 200)")
    for number in range(400):
        ask("SELECT cache_set_bytes('bytes', %s, %s)", f"k{number}", f"value {number}".encode())
    assert ask("SELECT count(*) FROM cache_bytes") <= 200
    assert ask.stats("bytes")["evicted"] >= 200
    for key, value in ask.rows("SELECT cache_key, bytes FROM cache_bytes"):
        assert value == f"value {key[1:]}".encode()


def test_one_of_many_adds(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(8)]
    added = at_once(
        *(
            lambda each=each, number=number: each("SELECT cache_add_bytes('bytes', 'k', %s)", b"%d" % number)
            for number, each in enumerate(sessions)
        )
    )
    assert added.count(True) == 1
    assert sessions[0]("SELECT cache_get_bytes('bytes', 'k')") == b"%d" % added.index(True)


def test_walls_and_rights(ask: Session, role: NewRole) -> None:
    acme, reader = role("write"), role("read")
    ask("SELECT cache_grant(%s, 'write', '{acme}')", acme("SELECT current_user"))
    acme("SELECT cache_set_bytes('bytes', 'k', 'theirs')")
    assert reader("SELECT cache_get_bytes('bytes', 'k')") is None
    assert acme("SELECT cache_get_bytes('bytes', 'k')") == b"theirs"
    assert acme.rows("SELECT * FROM cache_get_many_bytes('bytes', '{k}')") == [("k", b"theirs", None)]
    assert acme("SELECT cache_set_bytes('bytes', 'n', NULL, number => 5)") is True
    assert acme("SELECT cache_add_bytes('bytes', 'm', NULL, number => 5)") is True
    assert acme("SELECT cache_set_many_bytes('bytes', '{n}', '{NULL}', numbers => '{6}')") == 1
    with refused("PC004"):
        acme("SELECT cache_set_bytes('bytes', 'n', NULL)")
    with refused("42501"):
        reader("SELECT cache_set_bytes('bytes', 'k', 'x')")
    with refused("42501"):
        reader("SELECT cache_set_bytes('bytes', 'k', NULL, number => 5)")


def test_a_dropped_table_is_made_again(ask: Session) -> None:
    ask("DROP TABLE cache_bytes")
    ask("SELECT cache_create_type('files', bytes => true)")
    assert ask("SELECT cache_set_bytes('files', 'k', 'x')") is True
    ask("SELECT cache_drop_type('files')")
    with refused("PC001"):
        ask("SELECT cache_get_bytes('files', 'k')")
