"""Requests, replies, errors and repetitions, over real HTTP to the stand-in. No database is needed."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.plpython.standin import KEY, Reply, Standin, vector_of

SETTINGS = {"ai_answer_bytes": "10000", "ai_deadline": "5", "ai_retries": "2", "ai_timeout": "2"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
URL = urlsplit("http://ai.example/v1")

Ask = Callable[..., Any]


@pytest.fixture
def ask(bodies: SimpleNamespace, standin_server: Standin) -> Ask:
    def run(kind: str = "chat", request: Any = CHAT, check: Callable[[], None] = lambda: None, **settings: str) -> Any:
        chosen = {"ai_base_url": standin_server.url, **SETTINGS, **{f"ai_{k}": v for k, v in settings.items()}}
        return bodies.ask(kind, request, chosen, KEY, check)

    return run


def failure(bodies: SimpleNamespace, run: Callable[[], Any]) -> Any:
    with pytest.raises(bodies.Failure) as raised:
        run()
    assert raised.value.hint
    assert KEY not in raised.value.message
    return raised.value


def test_chat(ask: Ask, standin_server: Standin) -> None:
    reply = ask()
    assert reply == {"content": "you said: hello", "tokens": 18, "finish": "stop", "provider": "127.0.0.1"}
    (request,) = standin_server.log
    assert (request.path, request.key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert request.body == CHAT


def test_settings_of_the_owner_and_nothing_else_from_callers(ask: Ask, standin_server: Standin) -> None:
    ask(request={**CHAT, "max_tokens": 10**6, "tools": []}, temperature="0", max_tokens="50")
    assert standin_server.log[0].body == {**CHAT, "temperature": 0.0, "max_tokens": 50}


def test_embeddings_go_by_their_index(ask: Ask, standin_server: Standin) -> None:
    standin_server.shuffle = True
    texts = ["a", "b", "c"]
    reply = ask("embeddings", {"model": "m", "input": texts})
    assert [json.loads(vector) for vector in reply["vectors"]] == [vector_of(text) for text in texts]
    assert reply["tokens"] == 24


@pytest.mark.parametrize(
    "step",
    [
        Reply(status=500), Reply(status=503), Reply(status=429), Reply(how="reset"), Reply(how="cut"),
        Reply(status=429, headers={"Retry-After": "0.3"}),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again(ask: Ask, standin_server: Standin, step: Reply) -> None:
    standin_server.script = [step]
    assert ask()["content"] == "you said: hello"
    first, second = standin_server.log
    waited = second.at - first.at
    assert waited > (0.3 if step.headers else 0.2)


@pytest.mark.parametrize(
    ("step", "sqlstate", "requests"),
    [
        (Reply(status=500), "PC021", 3),
        (Reply(how="reset"), "PC021", 3),
        (Reply(how="cut"), "PC021", 3),
        (Reply(status=429, headers={"Retry-After": "0"}), "PC023", 3),
        (Reply(status=429, headers={"Retry-After": "60"}), "PC023", 1),
        (Reply(status=429, body={"error": {"code": "insufficient_quota", "message": "no money"}}), "PC023", 1),
        (Reply(status=401), "PC022", 1),
        (Reply(status=404), "PC022", 1),
        (Reply(status=400), "PC022", 1),
        (Reply(status=302, headers={"Location": "http://elsewhere.example/"}), "PC022", 1),
        (Reply(how="raw", body=b"{not json"), "PC024", 1),
        (Reply(how="raw", body=b""), "PC024", 1),
        (Reply(how="raw", body=b"[]"), "PC024", 1),
        (Reply(how="raw", body=b"<html>"), "PC024", 1),
        (Reply(body={"choices": []}), "PC024", 1),
        (Reply(body={"choices": [{"message": {"content": 1}}]}), "PC024", 1),
        (Reply(how="nothing"), "PC021", 1),
    ],
)
def test_failures(
    ask: Ask, bodies: SimpleNamespace, standin_server: Standin, step: Reply, sqlstate: str, requests: int
) -> None:
    standin_server.script = [step] * 5
    started = time.monotonic()
    found = failure(bodies, lambda: ask(timeout="0.5"))
    assert found.sqlstate == sqlstate
    assert len(standin_server.log) == requests
    assert time.monotonic() - started < 15


def test_a_slow_drip_is_not_waited_for_for_ever(ask: Ask, bodies: SimpleNamespace, standin_server: Standin) -> None:
    standin_server.script = [Reply(how="drip")]
    started = time.monotonic()
    assert "no answer within 0.5 s" in failure(bodies, lambda: ask(timeout="0.5", deadline="60")).message
    assert time.monotonic() - started < 10, "the whole answer takes longer"


def test_the_deadline_holds_over_all_repetitions(ask: Ask, bodies: SimpleNamespace, standin_server: Standin) -> None:
    standin_server.script = [Reply(status=500, delay=0.4)] * 50
    failure(bodies, lambda: ask(deadline="1", retries="20"))
    assert len(standin_server.log) <= 3


def test_nobody_listens(bodies: SimpleNamespace, ask: Ask) -> None:
    found = failure(bodies, lambda: ask(base_url="http://127.0.0.1:9/v1", retries="0"))
    assert found.sqlstate == "PC021"
    assert "cannot connect: Connection refused" in found.message


def test_a_name_that_does_not_exist(bodies: SimpleNamespace, ask: Ask) -> None:
    found = failure(bodies, lambda: ask(base_url="http://no-such-host.invalid/v1", retries="0"))
    assert found.sqlstate == "PC021"


def test_a_check_is_called_while_waiting_and_can_end_it(ask: Ask, standin_server: Standin) -> None:
    class CancelledError(Exception):
        pass

    started = time.monotonic()

    def check() -> None:
        if time.monotonic() > started + 0.3:
            raise CancelledError

    for step in (
        Reply(delay=30),
        Reply(how="nothing"),
        Reply(how="drip"),
        Reply(status=429, headers={"Retry-After": "30"}),
    ):
        standin_server.script = [step]
        started = time.monotonic()
        with pytest.raises(CancelledError):
            ask(check=check, timeout="60", deadline="60")
        assert time.monotonic() - started < 10, "it waited for the endpoint, which takes longer"


@pytest.mark.parametrize(
    "said",
    [f"Incorrect API key provided: {KEY}.", f"Bearer {KEY}", "Incorrect API key provided: sk-proj-ab******xyz1."],
)
def test_the_key_is_cut_out_of_what_the_endpoint_says(
    ask: Ask, bodies: SimpleNamespace, standin_server: Standin, said: str
) -> None:
    for body in ({"error": {"message": said}}, {"error": said}, {"detail": [said]}):
        standin_server.script = [Reply(status=401, body=body)]
        message = failure(bodies, ask).message
        assert "[key]" in message
        assert "sk-" not in message


@pytest.mark.parametrize("data", [
    [], [{"index": 0, "embedding": [1.0]}],
    [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}],
    [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [2.0]}],
    [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [2.0, 3.0]}],
    [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": ["2"]}],
    [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": []}],
    [{"index": 0, "embedding": [1.0]}, {"embedding": [1.0]}],
    [{"index": 0, "embedding": [1.0]}, {"index": True, "embedding": [1.0]}],
    [{"index": 0, "embedding": [1.0]}, None],
])  # fmt: skip
def test_embeddings_that_could_be_another_texts_are_refused(
    ask: Ask, bodies: SimpleNamespace, standin_server: Standin, data: Any
) -> None:
    standin_server.script = [Reply(body={"data": data})]
    assert failure(bodies, lambda: ask("embeddings", {"model": "m", "input": ["a", "b"]})).sqlstate == "PC024"


HUGE = json.dumps({"choices": [{"message": {"content": "x" * 20000}}]}).encode()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Reply(how="raw", body=HUGE), "longer than 10000 bytes"),
        # Its size is enough to refuse it: the rest never comes.
        (Reply(how="nothing", body={"x": "x" * 20000}), "longer than 10000 bytes"),
        (Reply(how="endless", body=b"x" * 1000), "longer than 10000 bytes"),
        (Reply(how="endless", body=b"x"), "longer than 10000 bytes"),
        (Reply(how="raw", body=gzip.compress(HUGE), headers={"Content-Encoding": "gzip"}), "it is compressed"),
        (Reply(how="raw", body=b"[" * 9000), "it is nested too deep"),
        (Reply(how="raw", body=b'{"a":' * 1900), "it is nested too deep"),
        (Reply(how="raw", body=b"1" * 9000), "it is no JSON"),
    ],
)
def test_answers_that_are_too_much(
    ask: Ask, bodies: SimpleNamespace, standin_server: Standin, step: Reply, message: str
) -> None:
    standin_server.script = [step]
    found = failure(bodies, ask)
    assert (found.sqlstate, len(standin_server.log)) == ("PC024", 1)
    assert message in found.message
    if "longer" in message:
        assert "ai_configure(answer_bytes => ...)" in found.hint
        assert ask(answer_bytes="1000")["content"] == "you said: hello"


@pytest.mark.parametrize("how", ["raw", "endless"])
@pytest.mark.parametrize(
    "body", [b"x" * 200000, json.dumps({"error": {"message": "y" * 200000}}).encode(), b"[" * 200000]
)
def test_of_a_huge_refusal_the_beginning_is_shown(
    ask: Ask, bodies: SimpleNamespace, standin_server: Standin, how: str, body: bytes
) -> None:
    standin_server.script = [Reply(status=400, how=how, body=body)]
    found = failure(bodies, ask)
    assert found.sqlstate == "PC022"
    assert found.message.endswith("...")
    assert len(found.message) < 500


def test_embeddings_may_be_longer_than_other_answers(
    ask: Ask, bodies: SimpleNamespace, standin_server: Standin
) -> None:
    data = [{"index": place, "embedding": [0.0123456789] * 3072} for place in range(3)]
    checks: list[None] = []
    standin_server.script = [Reply(body={"data": data}), Reply(body={"data": data * 8})]
    request = {"model": "m", "input": ["a", "b", "c"]}
    reply = ask("embeddings", request, check=lambda: checks.append(None))
    assert len(reply["vectors"]) == 3
    assert len(checks) > 3, "it can be cancelled between two vectors"
    found = failure(bodies, lambda: ask("embeddings", request))
    assert "longer than 310000 bytes" in found.message
    assert "ai_configure(batch => ...)" in found.hint


@pytest.mark.parametrize("value", [10**400, 1e39, True, "1", None, [1.0]])
def test_what_no_vector_holds(ask: Ask, bodies: SimpleNamespace, standin_server: Standin, value: Any) -> None:
    standin_server.script = [Reply(body={"data": [{"index": 0, "embedding": [1.0, value]}]})]
    found = failure(bodies, lambda: ask("embeddings", {"model": "m", "input": ["a"]}))
    assert "is no list of 1 to 16000 numbers" in found.message


def test_retry_after(bodies: SimpleNamespace) -> None:
    now = time.time()
    assert bodies.retry_after({"Retry-After": "7"}, now) == 7
    assert bodies.retry_after({"Retry-After": formatdate(now + 30, usegmt=True)}, now) == pytest.approx(30, abs=1)
    assert bodies.retry_after({"Retry-After": formatdate(now - 30, usegmt=True)}, now) == 0
    for value in ("soon", "nan", "inf", "", None):
        assert bodies.retry_after({"Retry-After": value}, now) is None


def test_backoff_doubles_and_has_a_bound(bodies: SimpleNamespace) -> None:
    assert [bodies.backoff(n, lambda: 0.0) for n in (1, 2, 3, 20)] == [0.5, 1.0, 2.0, 30.0]
    assert bodies.backoff(1, lambda: 1.0) == 0.25


@pytest.mark.parametrize(
    "base_url",
    ["", "ftp://x/v1", "/etc/passwd", "file:///etc/passwd", "http://", "http://user:pw@host/v1", "http://h/?a=b"],
)
def test_base_urls_that_are_refused(bodies: SimpleNamespace, base_url: str) -> None:
    assert failure(bodies, lambda: bodies.endpoint(base_url, "chat")).sqlstate == "PC020"


def test_no_key_for_a_paid_endpoint(bodies: SimpleNamespace) -> None:
    settings = {**SETTINGS, "ai_base_url": "https://api.openai.com/v1"}
    with pytest.raises(bodies.Failure) as raised:
        bodies.ask("chat", CHAT, settings, "", lambda: None)
    assert raised.value.sqlstate == "PC020"
    assert "ai-key" in raised.value.hint


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 5}, 5),
        ({"prompt_tokens": 2, "completion_tokens": 3}, 5),
        ({}, 0),
        (None, 0),
        ({"total_tokens": "x"}, 0),
    ],
)
def test_tokens(bodies: SimpleNamespace, usage: Any, tokens: int) -> None:
    assert bodies.tokens_of({"usage": usage}) == tokens


def test_where_the_key_comes_from(bodies: SimpleNamespace, tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")

    def key(rows: list[Any], path: str = "", may: bool = True, **environ: str) -> Any:
        plpy = SimpleNamespace(execute=lambda query: rows if "ai_secrets" in query else [{"may": may}])
        return bodies.key_from(plpy, {"ai_api_key_file": path}, environ)

    row = [{"value": "from-table"}]
    assert key(row, str(file), OPENAI_API_KEY="from-environment") == "from-table"
    assert key([], str(file), OPENAI_API_KEY="from-environment") == "from-file"
    assert key([], OPENAI_API_KEY="from-environment\n") == "from-environment"
    assert key([]) == ""
    file.write_text("sk-first\r\n# rotated in May\n")
    assert key([], str(file)) == "sk-first"
    for sqlstate, wrong in (("No such file", "missing"), ("may not read files", "key")):
        with pytest.raises(bodies.Failure, match=sqlstate) as raised:
            key([], str(tmp_path / wrong), may=wrong == "missing")
        assert raised.value.sqlstate == "PC020"
    for bad in ("sk-a b", "sk-\x7f", "sk-\xe9"):
        with pytest.raises(bodies.Failure, match="characters that no key has") as raised:
            key([], OPENAI_API_KEY=bad)
        assert bad not in str(raised.value)
