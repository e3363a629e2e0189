"""The device of the tests' own for torch (tests/gpu/torch_device.h), which counts as CUDA here; it
ends the process when an operation is not ordered after what it needs.

KHORUS_TEST_TORCH_DEVICE names the library with the device. Without it there is none, and
`pytestmark` skips the module that takes it from here.
"""

from __future__ import annotations

import ctypes
import os
import types
from typing import Any

import pytest
import torch

import khorus.torch as hvd
from khorus.torch import _device

LIBRARY = os.environ.get("KHORUS_TEST_TORCH_DEVICE", "")
pytestmark = pytest.mark.skipif(not LIBRARY, reason="there is no device of the tests' own")

if LIBRARY:
    library = ctypes.CDLL(LIBRARY, ctypes.RTLD_GLOBAL)
    library.driver_stream.restype = ctypes.c_void_p
    library.driver_stream.argtypes = [ctypes.c_int, ctypes.c_int64]
    library.host_waits.restype = ctypes.c_uint64
    library.register_torch_device()
    module: Any = types.ModuleType("torch.gpudouble")  # which torch imports with the first tensor
    module._lazy_init = lambda: None
    module.is_available = lambda: False  # else optimizers ask it about graphs
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: generator(hvd.local_rank()).manual_seed(seed)
    module.get_rng_state = lambda device: generator(device.index).get_state()
    module.set_rng_state = lambda state, device: generator(device.index).set_state(state)
    torch._register_device_module("gpudouble", module)


def generator(device: int) -> torch.Generator:
    return torch._C._accelerator_getDefaultGenerator(device)


class Double:
    """What _device.Cuda is for CUDA."""

    type = "gpudouble"
    dlpack_type = 12

    def current_stream(self, device: torch.device) -> Any:
        return torch.accelerator.current_stream(device)

    def handle_of(self, stream: Any) -> int:
        return int(library.driver_stream(stream.device_index, stream.stream_id))

    def record(self, stream: Any, timing: bool = False) -> Any:
        event = torch.Event(device=stream.device, enable_timing=timing)
        event.record(stream)
        return event

    def handle_of_event(self, event: Any) -> int:
        return int(event.event_id)


if LIBRARY:
    _device.gpu = Double()


def here() -> torch.device:
    return torch.device("gpudouble", hvd.local_rank())
