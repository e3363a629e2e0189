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


def _same(new: int | None, old: int | None, name: str) -> int | None:
    """One of the two spellings of an argument."""
    if new is not None and old not in (None, new):
        raise ValueError(
            f"run({name}_num_proc={new}, {name}_np={old}): they are the same; give one"
        )
    return old if new is None else new


def _check_size(np: int, least: int | None, most: int | None) -> None:
    if np < 1:
        raise ValueError(f"run(np={np}): expected 1 or more")
    if not (least or np) <= np <= (most or np):
        raise ValueError(
            f"run(np={np}, min_np={least}, max_np={most}): a job has np ranks from beginning to "
            "end; give numbers that it lies between"
        )


def _flags(**values: object) -> list[str]:
    """khorusrun's flags of these names, of those that are given."""
    flags = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags.append(f"{flag}={value}")
    return flags


def run(
    func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    np: int = 1,
    hosts: str | None = None,
    *,
    num_proc: int | None = None,
    min_num_proc: int | None = None,
    max_num_proc: int | None = None,
    min_np: int | None = None,
    max_np: int | None = None,
    slots: int | None = None,
    reset_limit: int | None = None,
    cooldown_range: Sequence[int] | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    start_timeout: float | None = None,
    ssh_port: int | None = None,
    ssh_identity_file: str | os.PathLike[str] | None = None,
    disable_cache: bool | None = None,
    output_filename: str | os.PathLike[str] | None = None,
    verbose: bool | int | None = None,
    use_gloo: bool | None = None,
    use_mpi: bool | None = None,
    mpi_args: str | None = None,
    network_interface: str | Sequence[str] | None = None,
    executable: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> list[Any]:
    """Calls func(*args, **kwargs) in `np` new processes and returns their results by rank.

    The function calls init() itself. RuntimeError: a rank failed; the launcher has printed which
    one, and why. The arguments are horovod.run's:

    num_proc: the same as np. min_np, max_np, min_num_proc, max_num_proc: np must lie between.
    hosts, hostfile, ssh_port, ssh_identity_file: as khorusrun's; other hosts must have the folder
    for temporary files in common with this one.
    reset_limit: how many failed ranks are started again (khorus.torch.elastic); None: none.
    start_timeout: seconds in which all ranks must meet. network_interface: one, or several.
    output_filename: a folder for the ranks' output. executable: the Python of the ranks.
    use_mpi: mpirun starts the ranks, with `mpi_args` too. use_gloo: khorusrun does, as by default.
    env (not Horovod's): adds to the environment of the ranks.
    slots is for discovered hosts, which there are not: ValueError. cooldown_range (no host is ever
    excluded) and disable_cache (no checks are remembered) change nothing.
    """
    if num_proc is not None and np not in (1, num_proc):
        raise ValueError(f"run(num_proc={num_proc}, np={np}): they are the same; give one")
    np = np if num_proc is None else num_proc
    _check_size(np, _same(min_num_proc, min_np, "min"), _same(max_num_proc, max_np, "max"))
    if hosts is not None and hostfile is not None:
        raise ValueError("run(): hosts and hostfile were both given; give one")
    if use_gloo and use_mpi:
        raise ValueError("run(): use_gloo and use_mpi were both given; give one")
    if slots is not None:
        raise ValueError(f"run(slots={slots}): hosts are not discovered; give hosts='NAME:{slots}'")
    if not isinstance(network_interface, str) and network_interface is not None:
        network_interface = ",".join(network_interface)
    if mpi_args is not None and not use_mpi:
        raise ValueError("run(): mpi_args need use_mpi=True")
    command = [str(khorusrun_path()), "-np", str(np)]
    command += _flags(
        hosts=hosts,
        hostfile=hostfile,
        ssh_port=ssh_port,
        ssh_identity_file=ssh_identity_file,
        reset_limit=reset_limit,
        start_timeout=start_timeout,
        network_interfaces=network_interface,
        output_filename=output_filename,
        verbose=bool(verbose),
        gloo=bool(use_gloo),
        mpi=bool(use_mpi),
        mpi_args=mpi_args,
    )
    command += [str(executable or sys.executable), "-m", "khorus._run_rank"]
    return _results(command, np, (func, tuple(args), dict(kwargs or {})), env or {})


def _results(
    command: list[str],
    np: int,
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
    env: Mapping[str, str],
) -> list[Any]:
    environment = {**os.environ, **env}
    # The ranks find modules where this process does.
    environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    with tempfile.TemporaryDirectory(prefix="khorus-run-") as name:
        folder = Path(name)
        key = secrets.token_bytes(32)
        descriptor = os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        function = folder / "function"
        write_signed(function, key, call)
        write_signed(folder / "call", key, (_script_of(call[0]), function))
        done = subprocess.run([*command, str(folder)], env=environment, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"run(): a rank failed, khorusrun ended with {done.returncode}; see its output"
            )
        return [read_signed(folder / f"result.{rank}", key) for rank in range(np)]
