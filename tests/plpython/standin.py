"""A stand-in for an OpenAI-compatible endpoint: real HTTP, a log of what it was asked, and every way to fail.

    with Standin() as endpoint:
        endpoint.sql("Get all users", "SELECT * FROM users")
        endpoint.script = [Reply(status=500), Reply(status=429, headers={"Retry-After": "1"})]

It answers each request by the next step of its script, or properly once there is none.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef-SECRET"


@dataclass
class Reply:
    """A step of the script. how: 'json'; 'raw' (send `body`); 'cut' in the middle, 'reset' before anything; 'nothing'
    after the headers; 'drip' a byte now and then; 'endless': `body` again and again; delay: seconds before anything."""

    status: int = 200
    how: str = "json"
    body: bytes | dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class Request:
    path: str
    key: str | None
    body: dict[str, Any]
    at: float
    status: int = 0
    tokens: int = 0

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


def vector_of(text: str, dimensions: int = 8) -> list[float]:
    """The embedding of a text, which no other text has."""
    digest = hashlib.sha256(text.encode()).digest()
    return [value / 1024 for value in struct.unpack(f">{dimensions}H", digest[: 2 * dimensions])]


def tokens_of(text: str) -> int:
    return 7 + len(text.split())


class Standin:
    def __init__(self, host: str = "127.0.0.1") -> None:
        """host: this machine's address as the database server sees it."""
        self.host = host
        self.log: list[Request] = []
        self.script: list[Reply] = []
        self.answers: dict[str, str] = {}
        self.delay = 0.0
        self.finish = "stop"
        self.shuffle = False
        self.answering = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._ended = threading.Event()
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                standin._handle(self)

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *arguments: object) -> None:
                pass  # a client that has gone

        self._server = Server((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Standin:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._may_answer.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Answer nobody before the block ends."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def sql(self, prompt: str, completion: str) -> None:
        """What to answer to a prompt."""
        self.answers[prompt] = completion

    def answered(self) -> list[Request]:
        """The requests that got an answer, and so cost money."""
        return [request for request in self.log if request.status == 200]

    def texts(self) -> list[str]:
        """Of all embeddings that were asked for, in order."""
        return [text for request in self.log if "input" in request.body for text in request.body["input"]]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        request = Request(handler.path, handler.headers["Authorization"], body, time.monotonic())
        with self._lock:
            self.log.append(request)
            step = self.script.pop(0) if self.script else Reply(delay=self.delay)
            self.answering += 1
            self.most_at_once = max(self.most_at_once, self.answering)
        try:
            self._ended.wait(step.delay)
            self._may_answer.wait()
            self._answer(handler, request, step)
        finally:
            with self._lock:
                self.answering -= 1

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request, step: Reply) -> None:
        if step.how == "reset":
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            return
        if step.how in ("raw", "endless"):
            assert isinstance(step.body, bytes)
            content = step.body
        elif step.status != 200 or step.body is not None:
            content = json.dumps(step.body or {"error": {"message": f"the stand-in says {step.status}"}}).encode()
        else:
            content = json.dumps(self._reply(request)).encode()
        request.status = step.status
        handler.send_response(step.status)
        handler.send_header("Content-Type", "application/json")
        if step.how == "endless":
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", str(len(content)))
        for name, value in step.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if step.how == "cut":
            handler.wfile.write(content[: len(content) // 2])
            handler.close_connection = True
        elif step.how == "nothing":
            self._ended.wait(30)
        elif step.how == "endless":
            while not self._ended.is_set():
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        elif step.how == "drip":
            for byte in content:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                self._ended.wait(0.1)
        else:
            handler.wfile.write(content)

    def _reply(self, request: Request) -> dict[str, Any]:
        if request.path.endswith("/embeddings"):
            texts = request.body["input"]
            request.tokens = sum(map(tokens_of, texts))
            data = [
                {"object": "embedding", "index": place, "embedding": vector_of(text)}
                for place, text in enumerate(texts)
            ]
            if self.shuffle:
                data.reverse()
            return {
                "object": "list", "data": data, "model": request.body["model"],
                "usage": {"prompt_tokens": request.tokens, "total_tokens": request.tokens},
            }  # fmt: skip
        answer = self.answers.get(request.prompt, f"you said: {request.prompt}")
        sent, received = sum(tokens_of(message["content"]) for message in request.body["messages"]), tokens_of(answer)
        request.tokens = sent + received
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "model": request.body["model"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": self.finish}
            ],
            "usage": {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": request.tokens},
        }  # fmt: skip
