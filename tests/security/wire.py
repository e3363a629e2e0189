"""The handshake, the frames and the store's requests by hand, as core/net/HANDSHAKE.md has them.

What an attacker would write: it shares no code with Khorus, so that it also checks that page.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
from dataclasses import dataclass

MAGIC = b"\x8fKHORUS\n"
HELLO_BYTES, CONFIRM_BYTES, HEADER_BYTES = 192, 32, 28
RANK, CLIENT, SERVER = 1, 2, 3  # roles
ACCEPTED, KEY, JOB, EPOCH, ROLE, WRONG_RANK, NOT_ADMITTED, TLS = 0, 1, 4, 5, 6, 7, 8, 9  # verdicts
BOUND_S = 30.0


def mac(key: bytes, label: str, data: bytes) -> bytes:
    return hmac.new(key, label.encode() + b"\0" + data, hashlib.sha256).digest()


@dataclass(frozen=True)
class Identity:
    """Who says hello, and to whom."""

    job: str
    role: int = CLIENT
    peer_role: int = SERVER
    rank: int = -1
    peer_rank: int = -1
    epoch: int = 0
    versions: tuple[int, int] = (1, 0x000100)
    tls: bool = False

    def hello(self, key: bytes) -> bytes:
        """The 192 bytes, with a fresh nonce."""
        body = struct.pack(
            "<8sIIBBBBiiIQ64s32s24x",
            MAGIC, *self.versions, 0, self.role, self.peer_role, self.tls, self.rank,
            self.peer_rank, 0, self.epoch, self.job.encode(), os.urandom(32),
        )  # fmt: skip
        return body + mac(key, "khorus initiator hello", body)


def like(recorded: bytes) -> Identity:
    """The identity in a hello that somebody else has sent."""
    fields = struct.unpack("<8sIIBBBBiiIQ64s32s24x", recorded[:160])
    _, wire, library, _, role, peer_role, tls, rank, peer_rank, _, epoch, job, _ = fields
    name = job.rstrip(b"\0").decode()
    versions = wire, library
    return Identity(name, role, peer_role, rank, peer_rank, epoch, versions, bool(tls))


def address_of(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


def connect(address: str) -> socket.socket:
    return socket.create_connection(address_of(address), timeout=BOUND_S)


def read(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or those before the end."""
    data = b""
    while len(data) < size:
        try:
            piece = connection.recv(size - len(data))
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def is_closed(connection: socket.socket) -> bool:
    """Waits for the end of the connection; whatever came before it does not count."""
    while True:
        try:
            if not connection.recv(65536):
                return True
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


class Seal:
    """Seals the frames of one direction."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.next = 0

    def frame(
        self, payload: bytes, *, number: int | None = None, length: int | None = None
    ) -> bytes:
        if number is None:
            number = self.next
            self.next += 1
        head = struct.pack("<IQ", len(payload) if length is None else length, number)
        return head + hmac.new(self.key, head + payload, hashlib.sha256).digest()[:16] + payload


class Refused(Exception):
    def __init__(self, verdict: int, hello: bytes) -> None:
        super().__init__(f"verdict {verdict}")
        self.verdict = verdict
        self.hello = hello


class Member:
    """A connection that has authenticated, as the initiator."""

    def __init__(self, address: str, key: bytes, identity: Identity) -> None:
        self.socket = connect(address)
        own = identity.hello(key)
        self.socket.sendall(own)
        answer = read(self.socket, HELLO_BYTES)
        if len(answer) != HELLO_BYTES:
            raise Refused(-1, answer)
        if answer[16] != ACCEPTED:
            raise Refused(answer[16], answer)
        assert hmac.compare_digest(
            mac(key, "khorus responder hello", own + answer[:160]), answer[160:]
        )
        confirm = mac(key, "khorus initiator confirm", own + answer)
        self.socket.sendall(confirm)
        self.answer = answer
        self.said = own + confirm  # and every frame
        self.seal = Seal(mac(key, "khorus key to responder", own + answer))
        self.incoming = Seal(mac(key, "khorus key to initiator", own + answer))

    def send(self, payload: bytes) -> None:
        frame = self.seal.frame(payload)
        self.said += frame
        self.socket.sendall(frame)

    def receive(self) -> bytes:
        """The payload of the next frame, verified; empty at the end."""
        head = read(self.socket, HEADER_BYTES)
        if len(head) < HEADER_BYTES:
            return b""
        payload = read(self.socket, struct.unpack("<I", head[:4])[0])
        assert self.incoming.frame(payload) == head + payload
        return payload


SET, GET = 1, 2


def request(kind: int, key: str, value: bytes = b"", *, number: int = 1, wait_ms: int = 0) -> bytes:
    name = key.encode()
    return struct.pack("<BIIH", kind, number, wait_ms, len(name)) + name + value


class StoreClient(Member):
    """A client of the job's store: (status code, body)."""

    def __init__(self, address: str, key: bytes, job: str) -> None:
        super().__init__(address, key, Identity(job))

    def ask(self, payload: bytes) -> tuple[int, bytes]:
        self.send(payload)
        answer = self.receive()
        assert len(answer) >= 5, "the store has ended the connection"
        return answer[4], answer[5:]

    def set(self, key: str, value: bytes) -> tuple[int, bytes]:
        return self.ask(request(SET, key, value))

    def get(self, key: str, wait_ms: int = 20_000) -> tuple[int, bytes]:
        return self.ask(request(GET, key, wait_ms=wait_ms))
