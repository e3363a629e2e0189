"""Running a command in a test: to its end, within a bound, and what it wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


def ended(
    *words: object,
    environment: Mapping[str, str],
    timeout_s: float,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        env=environment,
        cwd=folder,
        capture_output=True,
        encoding="latin-1",  # a trainer may generate any byte
        timeout=timeout_s,
        check=False,
    )


def text_of(result: subprocess.CompletedProcess[str]) -> str:
    """What a command has written that ended well."""
    assert result.returncode == 0, f"{result.args}\n{result.stdout[-9000:]}{result.stderr[-9000:]}"
    return result.stdout


def good(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Its lines."""
    return text_of(result).splitlines()
