"""A proxy in front of the broker, which a test cuts or freezes. Clients see only the proxy."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading


class Proxy:
    """Forwards connections to a broker on 127.0.0.1, and puts its own port into the broker's answers.

    Attributes:
        sent: the bytes that clients have sent so far.
    """

    def __init__(self, brokers: str) -> None:
        host, _, port = brokers.partition(",")[0].rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        # A broker's metadata have each host followed by its port.
        self._advertised = (host.encode() + struct.pack(">i", int(port)), host.encode() + struct.pack(">i", self.port))
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cut = False
        self._is_frozen = False
        self._freezes_after: int | None = None
        self.sent = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Closes all connections, and each new one at once."""
        with self._lock:
            self._is_cut = True
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def restore(self) -> None:
        """Lets connections through again."""
        self._is_cut = self._is_frozen = False

    def freeze(self) -> None:
        """Loses the broker's answers from now on, and goes on to forward requests."""
        self._is_frozen = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    client.close()
                    continue
                broker = socket.create_connection(self._target)
                self._sockets += [client, broker]
            threading.Thread(target=self._requests, args=(client, broker), daemon=True).start()
            threading.Thread(target=self._answers, args=(broker, client), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                self.sent += len(data)
                broker.sendall(data)
        self._close(client, broker)

    def _answers(self, broker: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), broker.makefile("rb") as answers:
            while len(length := answers.read(4)) == 4:
                answer = answers.read(int.from_bytes(length, "big", signed=True))
                if not self._is_frozen:
                    client.sendall(length + answer.replace(*self._advertised))
        self._close(client, broker)

    @staticmethod
    def _close(*sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
