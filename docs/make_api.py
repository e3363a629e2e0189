"""Makes docs/api.md from the public headers.

python docs/make_api.py            writes it
python docs/make_api.py --check    exit code 1 if it is not what the headers say

Each header becomes a section: what its first comment says as text, then its declarations with
their comments as they stand, without includes and guards.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
FOLDERS = (ROOT / "core/include", ROOT / "torch_plugin/include")
# In the order in which a reader wants them; others follow by name.
FIRST = ("khorus.h", "engine.h", "work.h", "types.h", "options.h", "status.h", "torch.h")
INTRODUCTION = """# The interface

Made from the headers by `python docs/make_api.py`; a test keeps it so. `khorus/khorus.h` is where
to start, `khorus/torch.h` what trainers on libtorch use, `khorus/c.h` the same for C, and
`khorus/backend.h` what a new data plane implements.
"""


def split_comment(text: str) -> tuple[str, str]:
    """The header's first comment as plain text, and the rest."""
    if text.startswith("/*"):
        end = text.index("*/") + 2
        lines = [re.sub(r"^\s*(/\*|\*/|\*)\s?", "", line) for line in text[:end].splitlines()]
        return "\n".join(line.removesuffix("*/") for line in lines).strip(), text[end:]
    lines = text.splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("//"))
    return "\n".join(line[3:] for line in lines[:count]), "\n".join(lines[count:])


def as_markdown(comment: str) -> str:
    """Indented lines are examples."""
    out: list[str] = []
    inside = False
    for line in comment.splitlines():
        example = line.startswith("  ") or (inside and not line.strip())
        if example != inside:
            out.append("```cpp" if example else "```")
            inside = example
        out.append(line[2:] if example else line)
    if inside:
        out.append("```")
    return re.sub(r"\n+```\n", "\n```\n", "\n".join(out))


def declarations(text: str) -> str:
    guard = r"#\s*(pragma once|include|ifndef KHORUS_\w+_H_|define KHORUS_\w+_H_)"
    kept = [line for line in text.splitlines() if not re.match(guard, line)]
    body = re.sub(r'#ifdef __cplusplus\n(extern "C" \{|\})\n#endif\n', "", "\n".join(kept) + "\n")
    body = re.sub(r"\n#endif[^\n]*_H_[^\n]*\n", "\n", body)
    return re.sub(r"\n{3,}", "\n\n", body).strip()


def page() -> str:
    headers = [path for folder in FOLDERS for path in folder.rglob("*.h")]
    rank = {name: i for i, name in enumerate(FIRST)}
    headers.sort(key=lambda path: (rank.get(path.name, len(FIRST)), path.name))
    parts = [INTRODUCTION]
    for path in headers:
        comment, rest = split_comment(path.read_text())
        parts.append(f"## khorus/{path.name}\n\n{as_markdown(comment)}\n")
        parts.append(f"```cpp\n{declarations(rest)}\n```\n")
    return "\n".join(parts)


def main() -> int:
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
        return 0
    if PAGE.read_text() == page():
        return 0
    print("docs/api.md is not what the headers say; run: python docs/make_api.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
