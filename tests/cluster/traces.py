"""What a job may leave behind, and what of its key can be seen from outside. Linux's /proc."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest

from launching import BOUND_S, wait_for_end

KEY_BYTES = 32


def wait_until_gone(folder: Path, ranks: int) -> None:
    """The processes that have left their numbers in `folder`; no sleeping, no polling."""
    deadline = time.monotonic() + BOUND_S
    for rank in range(ranks):
        pid = int((folder / f"pid.{rank}").read_text())
        wait_for_end(pid, deadline)


def shared_memory() -> set[str]:
    """Of Khorus. Ray keeps a store of its own there."""
    return {path.name for path in Path("/dev/shm").iterdir() if "khorus" in path.name}


class Keys:
    """The keys that this process makes while the fixture is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[bytes] = []
        original = secrets.token_bytes

        def token_bytes(count: int | None = None) -> bytes:
            key = original(count)
            if len(key) == KEY_BYTES:
                self.made.append(key)
            return key

        monkeypatch.setattr(secrets, "token_bytes", token_bytes)

    def visible(self, *folders: Path) -> list[str]:
        """Command lines, environments, and files under the folders that show one of the keys."""
        places = [path / name for path in Path("/proc").glob("[0-9]*") for name in _OPEN]
        places += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return [str(path) for path in places if self._shown(path)]

    def _shown(self, path: Path) -> bool:
        try:
            text = path.read_bytes()
        except OSError:  # it has ended, or is another user's
            return False
        return any(form in text for key in self.made for form in forms(key))


_OPEN = ("cmdline", "environ")


def forms(key: bytes) -> list[bytes]:
    return [key, key.hex().encode(), repr(key)[2:-1].encode()]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Keys:
    return Keys(monkeypatch)
