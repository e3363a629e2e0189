"""khorus.run: a function on several ranks, from a program that is no rank.

The call and the results travel as pickles through files in a folder that only this user can enter,
each with a MAC (HMAC-SHA256) under a key that is made for this one job; nothing is unpickled before
its MAC is verified. Functions that pickle cannot name (lambdas, those of a notebook) need the
package cloudpickle; those of the calling script are found by running it again under another name.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from khorus._signed import opened, signed
from khorus.launch import khorusrun_path

__all__ = ["run"]


def write_signed(path: Path, key: bytes, value: object) -> None:
    # The whole name, not the stem: the results of all ranks lie in one folder.
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(signed(key, path.name, value))
    partial.rename(path)


def read_signed(path: Path, key: bytes) -> Any:
    return opened(key, path.name, path.read_bytes())


def _script_of(func: Callable[..., Any]) -> str | None:
    """What a rank must run before it knows the function; None if it can import it."""
    if getattr(func, "__module__", None) != "__main__":
        return None
    path = getattr(sys.modules["__main__"], "__file__", None)
    return str(Path(path).resolve()) if path else None


def _command(
    folder: Path, np: int, hosts: str | None, output_filename: str | None, options: Sequence[str]
) -> list[str]:
    command = [str(khorusrun_path()), "-np", str(np), *options]
    if hosts is not None:
        command += ["--hosts", hosts]
    if output_filename is not None:
        command += ["--output-filename", output_filename]
    return [*command, sys.executable, "-m", "khorus._run_rank", str(folder)]


def run(
    func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    np: int = 1,
    hosts: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    output_filename: str | None = None,
    use_gloo: bool | None = None,
    use_mpi: bool | None = None,
    verbose: bool | None = None,
) -> list[Any]:
    """Calls func(*args, **kwargs) in `np` new processes and returns their results by rank.

    The function calls init() itself. `env` adds to the environment of the ranks. RuntimeError: a
    rank failed; the launcher has printed which one, and why."""
    if np < 1:
        raise ValueError(f"run(np={np}): expected 1 or more")
    options = ["--mpi"] if use_mpi else ["--gloo"] if use_gloo else []
    if verbose:
        options.append("--verbose")
    environment = {**os.environ, **(env or {})}
    # The ranks find modules where this process does.
    environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    with tempfile.TemporaryDirectory(prefix="khorus-run-") as name:
        folder = Path(name)
        key = secrets.token_bytes(32)
        descriptor = os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        call = folder / "function"
        write_signed(call, key, (func, tuple(args), dict(kwargs or {})))
        write_signed(folder / "call", key, (_script_of(func), call))
        command = _command(folder, np, hosts, output_filename, options)
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"run(): a rank failed, khorusrun ended with {done.returncode}; see its output"
            )
        return [read_signed(folder / f"result.{rank}", key) for rank in range(np)]
