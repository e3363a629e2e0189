"""pytest in a process whose NCCL is the double's: lazy_pytest.py ARGUMENTS

torch's libraries want more functions of NCCL than the double has; none of them is called here, so
they need not be found when torch is imported.
"""

from __future__ import annotations

import os
import sys

sys.setdlopenflags(os.RTLD_LAZY)

import pytest  # noqa: E402

sys.exit(pytest.main(sys.argv[1:]))
