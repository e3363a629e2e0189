"""The command `khorus` (`python -m khorus`): what is done with the files that a job leaves."""

from __future__ import annotations

import sys

from khorus import trace

USAGE = "usage: khorus trace merge FILE... [-o OUT]"


def main() -> int:
    if sys.argv[1:2] == ["trace"]:
        return trace.main(sys.argv[2:])
    asked = sys.argv[1:] in (["-h"], ["--help"])
    print(USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
