"""The OpenAI-compatible protocol: requests, replies, errors, and when to try again. Needs ai_http.py before it.

What goes wrong is a Failure, which has an SQLSTATE and a hint. The key is in no message: what an endpoint says is
quoted without it.
"""
# ruff: noqa: F821  what ai_http.py defines is in the same function body

import email.utils
import gc
import json
import math
import random
import re
import time
import urllib.parse

PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}
FIELDS = {"chat": ("model", "messages"), "embeddings": ("model", "input")}
LONGEST_PAUSE = 30.0
# Of a text's embedding, in an answer: 4096 numbers of 24 digits, or more that are shorter.
VECTOR_BYTES = 100000
MAX_DIMENSIONS = 16000  # pgvector's own limit
# What looks like a key of anybody's, as endpoints like to repeat it: "Incorrect API key provided: sk-proj-ab...".
KEY_LIKE = re.compile(r"\b(?:sk|pk|gsk|xai|key)-[\w*.-]{6,}|\bBearer\s+\S+", re.IGNORECASE)


class Failure(Exception):  # noqa: N818
    def __init__(self, sqlstate, message, hint, again=False, after=None):
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.hint = hint
        self.again = again
        self.after = after


def endpoint(base_url, kind):
    """The parsed address for a kind of request."""
    url = urllib.parse.urlsplit(base_url.rstrip("/") + PATHS[kind])
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
        raise Failure(
            "PC020",
            "the base URL of the AI endpoint is not valid",
            "The owner sets it: SELECT ai_configure(base_url => 'https://api.openai.com/v1')",
        )
    return url


def body_of(kind, request, settings):
    """The JSON of a request. Callers choose only the fields in FIELDS; the others are the owner's settings."""
    body = {name: request[name] for name in FIELDS[kind]}
    if kind == "embeddings":
        body["encoding_format"] = "float"
    else:
        if settings.get("ai_temperature"):
            body["temperature"] = float(settings["ai_temperature"])
        if settings.get("ai_max_tokens"):
            body["max_tokens"] = int(settings["ai_max_tokens"])
    return body


def headers_for(key):
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "pgcache"}
    if key:
        headers["Authorization"] = "Bearer " + key
    return headers


def without_key(text, key):
    if key:
        text = text.replace(key, "[key]")
    return KEY_LIKE.sub("[key]", text)


def said(body, key):
    """What the endpoint says is wrong, in one line."""
    try:
        reply = json.loads(body)
        error = reply.get("error", reply) if isinstance(reply, dict) else reply
        text = error.get("message") or error.get("detail") or "" if isinstance(error, dict) else error
        text = text if isinstance(text, str) else json.dumps(text)
    except (ValueError, RecursionError):
        text = "" if body.lstrip()[:1] == b"<" else body.decode("utf-8", "replace")
    text = " ".join(without_key(text, key).split())
    return ": " + (text[:297] + "..." if len(text) > 300 else text) if text else ""


def retry_after(headers, now):
    """Seconds, from a header that is a number of them or a date; None if there is none."""
    value = headers.get("Retry-After")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def failure_of(status, headers, body, url, key, now):
    """The Failure for an HTTP status other than 200."""
    where = f"the AI endpoint {url.netloc}"
    what = said(body, key)
    if status == 429:
        broke = b"insufficient_quota" in body
        return Failure(
            "PC023",
            f"{where} allows no more requests now{what}",
            "Check the plan and the billing of the account."
            if broke
            else "Try again later, or raise the rate limit of the account; ai_configure(retries => ...) sets how often"
            " pgcache tries.",
            again=not broke,
            after=retry_after(headers, now),
        )
    if status >= 500 or status == 408:
        return Failure(
            "PC021",
            f"{where} failed with HTTP status {status}{what}",
            "Try again later; cached answers are served meanwhile.",
            again=True,
            after=retry_after(headers, now),
        )
    if status in (401, 403):
        hint = "The owner sets the key: python -m pgcache_py ai-key, or SELECT ai_configure(api_key => '...')"
    elif status == 404 or 300 <= status < 400:
        hint = "Check the base URL, which usually ends in /v1, and the model: SELECT * FROM ai_settings()"
    else:
        hint = "Check the model and the length of the text: SELECT * FROM ai_settings()"
    return Failure("PC022", f"{where} refused the request with HTTP status {status}{what}", hint)


def malformed(url, what):
    return Failure(
        "PC024",
        f"the answer of the AI endpoint {url.netloc} is not valid: {what}",
        "Check that the base URL is that of an OpenAI-compatible API: SELECT * FROM ai_settings()",
    )


def number(value):
    """Whether it is one, and fits into a real, as vectors have them."""
    return type(value) in (int, float) and -3.4e38 < value < 3.4e38


def tokens_of(reply):
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return 0
    counts = [usage.get("total_tokens")]
    if not number(counts[0]):
        counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    return min(999999999, sum(int(count) for count in counts if number(count) and count > 0))


def read_chat(reply, url):
    """{"content", "tokens", "finish", "provider"} of a chat completion."""
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise malformed(url, "it has no choices[0].message")
    content = message.get("content")
    if content is None and message.get("refusal"):
        content = ""
    if not isinstance(content, str):
        raise malformed(url, "its message has no content")
    # jsonb cannot hold U+0000, nor half a surrogate pair.
    content = content.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    finish = choice.get("finish_reason")
    return {
        "content": content,
        "tokens": tokens_of(reply),
        "finish": finish if isinstance(finish, str) else None,
        "provider": url.hostname,
    }


def read_embeddings(reply, url, count, check):
    """{"vectors", "tokens"}; the vectors, as pgvector writes them, in the order of the texts asked: by their index."""
    data = reply.get("data")
    if not isinstance(data, list) or len(data) != count:
        raise malformed(url, f"{count} texts were sent, and it has not as many embeddings")
    vectors = [None] * count
    lengths = set()
    for item in data:
        check()
        place = item.get("index") if isinstance(item, dict) else None
        vector = item.get("embedding") if isinstance(item, dict) else None
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < count:
            raise malformed(url, f"an embedding has no index from 0 to {count - 1}")
        if vectors[place] is not None:
            raise malformed(url, f"two embeddings have the index {place}")
        if not isinstance(vector, list) or not 0 < len(vector) <= MAX_DIMENSIONS or not all(map(number, vector)):
            raise malformed(url, f"the embedding {place} is no list of 1 to {MAX_DIMENSIONS} numbers")
        vectors[place] = "[" + ",".join(map(repr, vector)) + "]"
        lengths.add(len(vector))
    if len(lengths) > 1:
        raise malformed(url, "its embeddings have different lengths")
    return {"vectors": vectors, "tokens": tokens_of(reply)}


def backoff(attempt, chance=random.random):
    """Seconds before attempt 1, 2, ...: half a second, doubled each time, up to half of it by chance."""
    return min(LONGEST_PAUSE, 0.5 * 2 ** (attempt - 1)) * (1 - chance() / 2)


def json_of(content, url):
    """A JSON object. Raises Failure.

    Nothing can end the parser before its end. The collector of garbage would make it five times as slow.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        reply = json.loads(content)
    except RecursionError:
        raise malformed(url, "it is nested too deep") from None
    except ValueError:
        raise malformed(url, "it is no JSON") from None
    finally:
        if collects:
            gc.enable()
    if not isinstance(reply, dict):
        raise malformed(url, "it is no JSON object")
    return reply


def once(url, body, key, count, limit, seconds, check):
    """One request; returns what read_... returns. Raises Failure."""
    try:
        status, headers, content = post(url, body, headers_for(key), seconds, check, limit)
    except TooLong:
        less = "Let the model say less: ai_configure(max_tokens => ...)"
        if count is not None:
            less = "Send fewer texts at once: ai_configure(batch => ...)"
        raise Failure(
            "PC024",
            f"the answer of the AI endpoint {url.netloc} is longer than {limit} bytes",
            f"{less}, or raise the limit: ai_configure(answer_bytes => ...)",
        ) from None
    except Unreachable as error:
        raise Failure(
            "PC021",
            f"the AI endpoint {url.netloc} cannot be reached: {without_key(str(error), key)}",
            "Check that it runs and that this server reaches it: SELECT * FROM ai_settings();"
            " cached answers are served meanwhile.",
            again=error.again,
        ) from None
    if status != 200:
        raise failure_of(status, headers, content, url, key, time.time())
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise malformed(url, "it is compressed, which it was not asked to be")
    reply = json_of(content, url)
    return read_chat(reply, url) if count is None else read_embeddings(reply, url, count, check)


def ask(kind, request, settings, key, check):
    """Ask the endpoint, again after what may pass. Raises Failure."""
    url = endpoint(settings["ai_base_url"], kind)
    if not key and url.hostname.endswith("openai.com"):
        raise Failure(
            "PC020",
            f"there is no API key for {url.hostname}",
            "The owner sets it: python -m pgcache_py ai-key; or another endpoint, such as Ollama:"
            " SELECT ai_configure(base_url => 'http://127.0.0.1:11434/v1')",
        )
    body = json.dumps(body_of(kind, request, settings)).encode()
    count = len(request["input"]) if kind == "embeddings" else None
    limit = int(settings["ai_answer_bytes"]) + VECTOR_BYTES * (count or 0)
    deadline = time.monotonic() + float(settings["ai_deadline"])
    retries = int(float(settings["ai_retries"]))
    attempt = 0
    while True:
        left = max(0.05, deadline - time.monotonic())
        try:
            return once(url, body, key, count, limit, min(float(settings["ai_timeout"]), left), check)
        except Failure as failure:
            attempt += 1
            pause = backoff(attempt) if failure.after is None else failure.after
            if not failure.again or attempt > retries or time.monotonic() + pause >= deadline:
                raise
        until = time.monotonic() + pause
        while time.monotonic() < until:
            check()
            time.sleep(min(POLL, max(0.0, until - time.monotonic())))


def key_from(plpy, settings, environ):
    """The owner's key: from its table, else from a file on the server, else from the server's environment.

    Only its first line, and never what no key has in it: an error would quote the header that it would be in. The file
    is read by the server's own user, so that takes an owner who may read any file.
    """
    rows = plpy.execute("select value from pgcache_internal.ai_secrets where name = 'api_key'")
    path = settings.get("ai_api_key_file")
    key = ""
    if rows:
        key = rows[0]["value"]
    elif not path:
        key = environ.get("OPENAI_API_KEY", "")
    else:
        may = plpy.execute("select pg_catalog.pg_has_role(current_user, 'pg_read_server_files', 'usage') as may")
        if not may[0]["may"]:
            raise Failure(
                "PC020",
                "the owner of pgcache may not read files of the server, such as one with the API key",
                "GRANT pg_read_server_files to that role, or let it store the key: python -m pgcache_py ai-key",
            )
        try:
            with open(path, encoding="ascii") as file:
                key = file.read(4096)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not ASCII"
            raise Failure(
                "PC020",
                f"the file with the API key cannot be read: {reason}",
                "ai_configure(api_key_file => ...) names it; the server's own user must be able to read it.",
            ) from None
    key = key.strip().partition("\n")[0].strip()
    if not re.fullmatch("[!-~]*", key):
        raise Failure(
            "PC020",
            "the API key has spaces or other characters that no key has",
            "The owner stores it as the provider shows it: python -m pgcache_py ai-key",
        )
    return key


def fetch(plpy, kind, request, environ):
    """What the SQL function ai_fetch returns: the reply, or {"error": ...}, which its caller raises."""
    try:
        rows = plpy.execute("select name, value from pgcache_internal.settings where name like 'ai\\_%'")
        settings = {row["name"]: row["value"] for row in rows}
        tick = plpy.prepare("select 1")  # executing anything is where PostgreSQL looks for a cancel
        return ask(kind, request, settings, key_from(plpy, settings, environ), lambda: plpy.execute(tick))
    except Failure as failure:
        return {"error": {"sqlstate": failure.sqlstate, "message": failure.message, "hint": failure.hint}}
    except (KeyError, TypeError, ValueError) as error:  # of a request or setting that is not as ours are: not quoted
        message = f"the AI endpoint cannot be asked: {type(error).__name__}"
        return {"error": {"sqlstate": "PC020", "message": message, "hint": "Check SELECT * FROM ai_settings()."}}
