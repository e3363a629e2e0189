"""Pickles with a MAC (HMAC-SHA256), which is verified before anything is unpickled. Not public.

Functions that pickle cannot name (lambdas, those of a notebook) need the package cloudpickle.
"""

from __future__ import annotations

import hashlib
import hmac
import pickle
from typing import Any

from khorus.exceptions import HorovodInternalError

_MAC_BYTES = hashlib.sha256().digest_size


def _mac(key: bytes, name: str, data: bytes) -> bytes:
    return hmac.digest(key, name.encode() + b"\0" + data, "sha256")


def signed(key: bytes, name: str, value: object) -> bytes:
    """The value as bytes that opened() takes under the same key and name."""
    try:
        import cloudpickle
    except ImportError:
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    else:
        data = bytes(cloudpickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    return _mac(key, name, data) + data


def opened(key: bytes, name: str, data: bytes) -> Any:
    """HorovodInternalError, and nothing is unpickled, if it was not signed under key and name."""
    mac, data = data[:_MAC_BYTES], data[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, name, data)):
        raise HorovodInternalError(
            f"what arrived as {name!r} was not made by this job: its MAC is wrong; it was not "
            "unpickled"
        )
    return pickle.loads(data)
