"""A relay between a client and the server, which counts round trips, and can fail as networks do."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

# The message with which the server ends the opening of a connection.
READY_FOR_QUERY = b"Z\0\0\0\5I"


class Proxy:
    """dsn: where it listens. round_trips: how often a client has begun to talk after it had listened."""

    def __init__(self, target: str) -> None:
        fields = conninfo_to_dict(target)
        host, port = str(fields["host"]), int(str(fields["port"]))
        if host.startswith("/"):
            self._target: tuple[int, Any] = (socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")
        else:
            self._target = (socket.AF_INET, (socket.gethostbyname(host), port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = make_conninfo(target, host="127.0.0.1", port=self._listener.getsockname()[1])
        self.round_trips = 0
        self.connections = 0
        self.relays: dict[threading.Thread, _Talk] = {}
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.refuse()
        self._listener.close()
        self._flowing.set()

    def freeze(self) -> None:
        """Let nothing more through: the server neither answers nor hangs up."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """End the connections that there are."""
        pairs, self._pairs = self._pairs, []  # a client that connects anew at once is not meant
        for pair in pairs:
            hang_up(*pair)

    def refuse(self) -> None:
        """End the connections, and every new one at once."""
        self._refusing = True
        self.cut()

    def admit(self) -> None:
        self._refusing = False

    def established(self) -> set[threading.Thread]:
        """Those of connections that are open to the end: before that, the server lists, and can end, none."""
        return {relay for relay, talk in list(self.relays.items()) if relay.is_alive() and talk.established}

    def wait_for_the_end(self) -> None:
        """Wait until no connection is open any more."""
        for relay in list(self.relays):
            relay.join(10)
            assert not relay.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            self.connections += 1
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(self._target[0])
            server.connect(self._target[1])
            self._pairs.append((client, server))
            talk = _Talk(self)
            for ends in ((client, server, talk, True), (server, client, talk, False)):
                relay = threading.Thread(target=self._relay, args=ends, daemon=True)
                self.relays[relay] = talk
                relay.start()

    def _relay(self, source: socket.socket, sink: socket.socket, talk: _Talk, from_client: bool) -> None:
        try:
            while data := source.recv(65536):
                self._flowing.wait()
                talk.said(data, from_client)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            hang_up(source, sink)


def hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            # Closing alone would go unnoticed as long as another thread listens.
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class _Talk:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._client_spoke_last = False
        self.established = False
        self._lock = threading.Lock()

    def said(self, data: bytes, by_client: bool) -> None:
        with self._lock:
            if by_client and not self._client_spoke_last:
                self._proxy.round_trips += 1
            self._client_spoke_last = by_client
            self.established = self.established or (not by_client and READY_FOR_QUERY in data)
