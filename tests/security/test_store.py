"""Poison in the job's store, put there by somebody who knows the key, and wrong requests."""

from __future__ import annotations

import os
import socket
import struct
import threading

import wire
from jobs import EPOCH, AttackTest, Job

# Status codes (core/include/khorus/status.h).
OK = 0
LONG = b"\x1b]0;" * 16_384, b"9" * 65_536  # would set a terminal's title


class Store(AttackTest):
    def test_an_address_that_was_there_before_its_rank(self) -> None:
        """The rank whose name was taken says so, and what it is called."""
        with self.job(2, held=[0, 1]) as job:
            self.assertEqual(job.client().set(f"addr/{EPOCH}/0", b"127.0.0.1:9")[0], OK)
            job.let_go(2)
            self.assertIn(f"addr/{EPOCH}/0", job.failures(2)[0])
            self.assertNotEqual(job.end().code, 0)

    def test_addresses_that_are_none(self) -> None:
        for poison in b"", b":", b"127.0.0.1:99999", b"[::1", b"localhost:80", *LONG:
            with self.subTest(poison=poison[:20]), self.job(2, held=[0]) as job:
                self.assertEqual(job.client().set(f"addr/{EPOCH}/0", poison)[0], OK)
                why = job.failures(1)[1]
                self.assertLess(len(why), 1000, "it repeats the poison")
                self.assertTrue(why.isprintable(), why)
                job.let_go()
                self.assertEqual(job.end().code, 1)  # and not by a signal

    def test_an_address_that_is_the_attackers(self) -> None:
        """Who cannot prove the key is no parent, and hears only what anybody may."""
        with socket.create_server(("127.0.0.1", 0)) as trap, self.job(2, held=[0]) as job:
            trap.settimeout(wire.BOUND_S)
            heard: list[bytes] = []

            def answer() -> None:
                connection, _ = trap.accept()
                connection.settimeout(wire.BOUND_S)
                with connection:
                    hello = wire.read(connection, wire.HELLO_BYTES)
                    body = bytearray(hello[:160])
                    body[20:24], body[24:28] = hello[24:28], hello[20:24]
                    connection.sendall(
                        bytes(body) + wire.mac(bytes(32), "khorus responder hello", hello + body)
                    )
                    heard.append(hello + wire.read(connection, 1 << 20))

            thread = threading.Thread(target=answer)
            thread.start()
            host, port = trap.getsockname()
            job.client().set(f"addr/{EPOCH}/0", f"{host}:{port}".encode())
            self.assertIn("does not know this job's key", job.failures(1)[1])
            thread.join()
            self.assertEqual(len(heard[0]), wire.HELLO_BYTES, "it went on after the wrong answer")
            self.assertNotIn(job.key, heard[0])
            job.let_go()
            self.assertNotEqual(job.end().code, 0)

    def test_what_is_set_stays(self) -> None:
        with self.job(2, held=[1]) as job:
            before = job.address(0)
            code, why = job.client().set(f"addr/{EPOCH}/0", b"127.0.0.1:9")
            self.assertNotEqual(code, OK)
            self.assertIn(b"addr", why)
            self.assertEqual(job.address(0), before)
            job.let_go()
            job.wait_until_ready()
            self.assert_unharmed(job)

    def assert_hung_up(self, job: Job, bytes_of_a_frame: bytes) -> None:
        client = job.client()
        client.socket.sendall(bytes_of_a_frame)
        self.assertEqual(wire.read(client.socket, 1 << 20), b"")

    def test_wrong_requests_end_their_own_connection_only(self) -> None:
        with self.job() as job:
            job.wait_until_ready()
            waiting = job.client()
            waiting.send(wire.request(wire.GET, "later", wait_ms=30_000))
            for payload in (
                b"",
                bytes(10),
                struct.pack("<BIIH", 3, 1, 0, 0),
                struct.pack("<BIIH", wire.GET, 1, 0, 9) + b"short",
                wire.request(wire.GET, "key", b"a value in a get"),
                os.urandom(1 << 20),
            ):
                client = job.client()
                client.send(payload)
                self.assertEqual(client.receive(), b"", payload[:20])
            good = wire.request(wire.GET, "later")
            sealed = job.client().seal
            self.assert_hung_up(job, struct.pack("<IQ", 0xFFFFFFFF, 0) + bytes(16))
            self.assert_hung_up(job, struct.pack("<IQ", (1 << 20) + 1, 0) + bytes(16))
            self.assert_hung_up(job, sealed.frame(good))  # of another connection
            for number in 1, 2**64 - 1:
                client = job.client()
                client.socket.sendall(client.seal.frame(good, number=number))
                self.assertEqual(client.receive(), b"")
            # Neither too long a key nor too long a value is kept.
            for key, size in ("k" * 257, 1), ("long", 65_537):
                self.assertNotEqual(job.client().set(key, bytes(size))[0], OK)
                self.assertNotEqual(job.client().get(key, 0)[0], OK)
            self.assertEqual(job.client().set("later", b"now")[0], OK)
            self.assertEqual(waiting.receive()[5:], b"now")
            self.assert_unharmed(job)
