"""An HTTP request that never keeps the backend from seeing a cancel.

PostgreSQL sets a flag when a statement is cancelled or runs out of time, and looks at it while it executes SQL, not
while Python waits for a socket. So no wait here is longer than POLL seconds, and between two of them `check` is called,
which executes some SQL. Sockets do not block; looking up a name cannot be interrupted, so a thread does that.
"""

import http.client
import io
import os
import selectors
import signal
import socket
import ssl
import threading
import time

POLL = 0.1
MAX_REFUSAL = 64 << 10  # of what an endpoint says is wrong
ALL_SIGNALS = signal.valid_signals() if hasattr(signal, "valid_signals") else range(1, signal.NSIG)


class Unreachable(Exception):  # noqa: N818
    """Nothing, or not a whole answer, came back. `again`: whether another attempt could fare better."""

    def __init__(self, message, again=True):
        super().__init__(message)
        self.again = again


class TooLong(Exception):  # noqa: N818
    """The answer has more bytes than it may have."""


class Waiter:
    """Waits until `deadline`, a time of time.monotonic(), and looks for a cancel meanwhile."""

    def __init__(self, seconds, check):
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.check = check

    def step(self):
        """How long the next wait may be. Raises if time is up, or whatever `check` raises."""
        self.check()
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Unreachable(f"no answer within {round(self.seconds, 3):g} s", again=False)
        return min(POLL, left)

    def wait(self, sock, event):
        selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        with selector:
            selector.register(sock, event)
            while not selector.select(self.step()):
                pass


class Wire:
    """What http.client takes for a socket."""

    def __init__(self, sock, waiter):
        self.sock = sock
        self.waiter = waiter

    def attempt(self, operation, *arguments):
        while True:
            try:
                return operation(*arguments)
            except (ssl.SSLWantReadError, BlockingIOError) as error:
                writing = operation == self.sock.send and not isinstance(error, ssl.SSLWantReadError)
                self.waiter.wait(self.sock, selectors.EVENT_WRITE if writing else selectors.EVENT_READ)
            except ssl.SSLWantWriteError:
                self.waiter.wait(self.sock, selectors.EVENT_WRITE)

    def sendall(self, data):
        rest = memoryview(data)
        while rest:
            rest = rest[self.attempt(self.sock.send, rest) :]

    def makefile(self, mode):
        return io.BufferedReader(Incoming(self), 65536)

    def close(self):
        """The socket stays open until post closes it: http.client closes this before it has read the answer."""


class Incoming(io.RawIOBase):
    """What comes in over a Wire."""

    def __init__(self, wire):
        self.wire = wire

    def readable(self):
        return True

    def readinto(self, buffer):
        self.wire.waiter.step()
        return self.wire.attempt(self.wire.sock.recv_into, buffer)


def addresses(host, port, waiter):
    """What getaddrinfo says, from a thread unless it answers at once. The server's signals are not for that thread."""
    found = []

    def look_up():
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)

    if host == "localhost" or ":" in host or host.replace(".", "").isdigit():
        look_up()
    else:
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        try:
            thread = threading.Thread(target=look_up, daemon=True)
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        while not found:
            thread.join(waiter.step())
    if isinstance(found[0], OSError):
        raise Unreachable(f"the name {host} cannot be looked up: {found[0].strerror or found[0]}")
    return found[0]


def connected(host, port, waiter):
    """A non-blocking socket, connected to the first address that answers."""
    problem = "no address"
    for family, kind, protocol, _, address in addresses(host, port, waiter):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.connect_ex(address)
            waiter.wait(sock, selectors.EVENT_WRITE)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            problem = os.strerror(code)
        except BaseException:
            sock.close()
            raise
        sock.close()
    raise Unreachable(f"cannot connect: {problem}")


def post(url, body, headers, seconds, check, limit):
    """POST to url, a result of urllib.parse.urlsplit; returns (status, headers, body). Raises Unreachable, TooLong.

    check: called at least every POLL seconds; what it raises ends the request. limit: bytes of an answer with status
    200, of others only the beginning is read. Redirects are not followed.
    """
    waiter = Waiter(seconds, check)
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    try:
        sock = connected(url.hostname, port, waiter)
        try:
            if secure:
                context = ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=url.hostname, do_handshake_on_connect=False)
            wire = Wire(sock, waiter)
            if secure:
                wire.attempt(sock.do_handshake)
            connection = http.client.HTTPConnection(url.hostname, port)
            connection.sock = wire
            connection.request("POST", url.path, body, dict(headers, Host=url.netloc, Connection="close"))
            response = connection.getresponse()
            good = response.status == 200
            if good and (response.length or 0) > limit:
                raise TooLong
            most = limit + 1 if good else MAX_REFUSAL
            content = response.read(most)
            if good and len(content) > limit:
                raise TooLong
            if response.length and len(content) < most:
                raise Unreachable("the connection was cut in the middle of the answer")
            return response.status, response.headers, content
        finally:
            sock.close()
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"its certificate is not valid: {error.verify_message}", again=False) from None
    except http.client.IncompleteRead:
        raise Unreachable("the connection was cut in the middle of the answer") from None
    except (http.client.HTTPException, OSError) as error:
        raise Unreachable("the connection failed: %s" % (str(error) or type(error).__name__)) from None
