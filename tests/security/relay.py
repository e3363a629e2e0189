"""An attacker on the path between two ranks: passes on what they send, and changes it on demand.

What it takes for a piece is a frame, or, under TLS, a record (RFC 8446, 5.1).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Literal

import wire
from jobs import AttackTest, Job

UP, DOWN = 0, 1  # from the one that connects; to it

# What is sent in place of a frame, given those that went before it.
Attack = Callable[[bytes, list[bytes]], bytes]


class Relay:
    """One connection from a rank to the address `target`, once that is known."""

    def __init__(self, *, tls: bool = False) -> None:
        self._head_bytes = 5 if tls else wire.HEADER_BYTES
        self._length: tuple[slice, Literal["big", "little"]] = (
            (slice(3, 5), "big") if tls else (slice(0, 4), "little")
        )
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(wire.BOUND_S)
        self.port = self._listening.getsockname()[1]
        self._target: str | None = None
        self._ready = threading.Event()
        self._attacks: list[Attack | None] = [None, None]
        self.hello = b""  # of the one that connects, with its confirmation
        self.frames: list[list[bytes]] = [[], []]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def lead_to(self, address: str) -> None:
        self._target = address
        self._ready.set()

    def attack(self, direction: int, attack: Attack) -> None:
        """The next frame in this direction is not what it was."""
        self._attacks[direction] = attack

    def close(self) -> None:
        self._ready.set()
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        try:
            caller, _ = self._listening.accept()
        except TimeoutError:
            return
        with caller:
            if not self._ready.wait(wire.BOUND_S) or self._target is None:
                return
            with wire.connect(self._target) as callee:
                caller.settimeout(None)
                callee.settimeout(None)
                hello = wire.read(caller, wire.HELLO_BYTES)
                callee.sendall(hello)
                caller.sendall(wire.read(callee, wire.HELLO_BYTES))
                confirm = wire.read(caller, wire.CONFIRM_BYTES)
                callee.sendall(confirm)
                self.hello = hello + confirm
                down = threading.Thread(target=self._pass_on, args=(DOWN, callee, caller))
                down.start()
                self._pass_on(UP, caller, callee)
                down.join()

    def _pass_on(self, direction: int, source: socket.socket, target: socket.socket) -> None:
        try:
            place, order = self._length
            while head := wire.read(source, self._head_bytes):
                frame = head + wire.read(source, int.from_bytes(head[place], order))
                attack = self._attacks[direction]
                self._attacks[direction] = None
                target.sendall(attack(frame, self.frames[direction]) if attack else frame)
                self.frames[direction].append(frame)
        except OSError:
            pass  # the other end has hung up
        for end in source, target:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is over already


class RelayTest(AttackTest):
    def attack(self, job: Job, relay: Relay, direction: int, attack: Attack, words: str) -> None:
        """What one rank sends the other is changed: the other notices, and both end."""
        job.step()
        relay.attack(direction, attack)
        job.start_step()
        said = job.failures(2)
        receiver = 0 if direction == UP else 1
        self.assertRegex(said[receiver], f"rank {1 - receiver} .*({words})")
        self.assertIn("lost", said[1 - receiver])
        self.assertNotEqual(job.end().code, 0)
