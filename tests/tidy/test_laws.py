"""Runs every law over this repository, and over a tree where it must fail."""

from __future__ import annotations

from pathlib import Path

import pytest

import laws

ROOT = Path(__file__).resolve().parents[2]
HEADER = "// One file of a small tree made for this test.\n"

# For each law: files that keep it, and files each of which breaks it.
GOOD = {
    "core/include/khorus/status.h": HEADER + '#include "khorus/types.h"\n',
    "core/base/config.cc": HEADER + '#include "khorus/options.h"\nauto x = std::getenv("A");\n',
    "core/wire/codec.cc": HEADER + '#include "core/base/assert.h"\n#include <vector>\n',
    "core/protocol/node.cc": HEADER + '#include "core/wire/codec.h"  // not <mutex>\n',
    "core/net/tcp.cc": HEADER + "#include <boost/asio.hpp>\n",
    "core/runtime/engine.cc": HEADER + '#include "core/net/tcp.h"\n#include <mutex>\n',
    "backends/plugin.h": HEADER + '#include "khorus/backend.h"\n',
    "backends/gloo/gloo_backend.cc": HEADER
    + '#include "backends/plugin.h"\n#include "backends/gloo/store.h"\n#include <gloo/rank.h>\n',
    "core/protocol/node.h": HEADER + "#pragma once\n",
    "torch_plugin/hooks.cc": HEADER + '#include <torch/torch.h>\n#include "khorus/engine.h"\n',
    "examples/train_lm.cc": HEADER * 900,
    "tests/unit/codec_test.cc": HEADER + '#include "core/wire/codec.h"\n',
    "docs/b.md": "see [a part](#part) and [the tests](../tests/CMakeLists.txt)\n",
    "tests/CMakeLists.txt": "# What the tests are made of.\n",
}
BAD = {
    "include_directions": {
        "core/include/khorus/a.h": '#include "core/base/assert.h"',
        "core/base/a.cc": '#include "core/wire/codec.h"',
        "core/wire/a.cc": '#include "core/protocol/node.h"',
        "core/protocol/a.cc": '#include "core/net/store.h"',
        "core/net/a.cc": '#include "core/runtime/engine.h"',
        "core/launch/a.cc": '#include "core/runtime/engine.h"',
        "core/runtime/a.cc": '#include "core/launch/guard.h"',
        "backends/local/a.cc": '#include "core/wire/codec.h"',
        "backends/gloo/a.cc": '#include "backends/local/local.h"',
        "backends/plugin.h": '#include "backends/local/local.h"',
        "torch_plugin/a.cc": '#include "core/runtime/engine.h"',
        "examples/a.cc": '#include "core/base/assert.h"',
        "core/runtime/b.cc": '#include "tests/sim/network.h"',
        "core/runtime/c.cc": '#include "neighbour.h"',
    },
    "pure_protocol": {
        "core/wire/a.cc": "#include <mutex>",
        "core/wire/b.cc": "#include <sys/socket.h>",
        "core/protocol/a.cc": "auto now = std::chrono::steady_clock::now();",
        "core/protocol/b.cc": 'auto x = getenv("A");',
        "core/protocol/c.cc": "#ifdef FAST",
        "core/protocol/d.cc": '#include "core/base/log.h"',
    },
    "no_feature_macros_in_core": {"core/runtime/a.cc": "#if HAVE_NCCL"},
    "asio_stays_in_net_and_launch": {"core/runtime/a.cc": "#include <boost/asio.hpp>"},
    "torch_stays_in_its_plugin": {
        "core/runtime/a.cc": "#include <torch/torch.h>",
        "backends/local/a.cc": "#include <ATen/ATen.h>",
    },
    "transports_stay_in_their_backend": {
        "core/runtime/a.cc": "#include <gloo/context.h>",
        "backends/gloo/a.cc": "#include <mpi.h>",
        "torch_plugin/a.cc": "#include <cuda_runtime.h>",
    },
    "environment_is_read_in_one_place": {"core/runtime/a.cc": 'auto x = std::getenv("RANK");'},
    "backends_do_not_print": {"backends/gloo/a.cc": 'std::cerr << "lost";'},
    "no_sleeping": {"core/net/a.cc": "std::this_thread::sleep_for(1ms);"},
    "short_files": {"core/runtime/a.cc": "int x;\n" * 400},
    "files_open_with_a_paragraph": {},  # see below: these files come without HEADER
    "plain_names": {"core/net/socket_utils.cc": "", "core/runtime/tensor_manager.h": ""},
    "no_loose_ends": {"core/runtime/a.cc": "// TODO: later"},
    "links_lead_somewhere": {"docs/a.md": "see [the page](gone.md)"},
    "no_places_of_one_machine": {
        "core/runtime/a.cc": 'auto x = "/root/x";',
        "cmake/a.cmake": "# see /work/main",
        ".ci/a.sh": "# from pypi.org",
    },
}


def make_tree(root: Path, files: dict[str, str]) -> laws.Tree:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return laws.Tree(root)


@pytest.mark.parametrize("name", laws.LAWS)
def test_this_repository_keeps(name: str) -> None:
    violations = laws.LAWS[name](laws.Tree(ROOT))
    assert not violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize("name", laws.LAWS)
def test_a_small_good_tree_keeps(name: str, tmp_path: Path) -> None:
    assert laws.LAWS[name](make_tree(tmp_path, GOOD)) == []


@pytest.mark.parametrize("name", laws.LAWS)
def test_each_seeded_violation_is_found(name: str, tmp_path: Path) -> None:
    bad = {path: HEADER + text + "\n" for path, text in BAD[name].items()}
    if name == "files_open_with_a_paragraph":
        bad = {
            "core/base/d.cc": '#include "khorus/types.h"\n',
            "core/base/a.h": "#pragma once\n",
            "core/base/b.h": "// Word.\n",
            "core/base/c.cc": "",
            "tests/tidy/a.py": "import os\n",
            "core/base/CMakeLists.txt": "khorus_layer(base)\n" * 30,
        }
    violations = laws.LAWS[name](make_tree(tmp_path, GOOD | bad))
    assert {line.split(":")[0] for line in violations} == set(bad)


def test_the_tree_is_not_empty() -> None:
    paths = laws.Tree(ROOT).paths
    assert "core/wire/codec.h" in paths
    assert "tests/tidy/laws.py" in paths
