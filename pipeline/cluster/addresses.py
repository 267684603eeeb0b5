"""Which scheduler is asked for, and which are refused: Dask carries code to run."""

import json
import os
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.errors import ClusterError, ConfigurationError

if TYPE_CHECKING:
    from pipeline.params import ExecutionParams

LOOPBACK = "127.0.0.1"
VARIABLE = "DASK_SCHEDULER_ADDRESS"

_ENCRYPTED = {"tls", "wss"}
_SCHEMES = {"tcp", "tls", "ws", "wss", "ucx", "ucxx"}


def asked_for(execution: "ExecutionParams") -> str | None:
    """An address or a scheduler file, by params.yaml or the environment; None: neither."""
    return execution.scheduler or os.environ.get(VARIABLE)


def setting(execution: "ExecutionParams") -> str:
    """What names the scheduler: the key of params.yaml, or the variable."""
    return "execution.scheduler" if execution.scheduler else VARIABLE


def address_of(asked: str, execution: "ExecutionParams") -> str:
    """The address that is meant, if it may be used.

    asked: an address, or the path of a scheduler file. Raises ConfigurationError where it is no
    address, or unencrypted over a network and execution does not allow that, ClusterError where
    the scheduler file is not there or not one.
    """
    address = _read(Path(asked).expanduser(), execution) if asked.endswith(".json") else asked
    _refuse_no_address(address, execution)
    _refuse_open_network(address, execution)
    return address


def _refuse_no_address(address: str, execution: "ExecutionParams") -> None:
    scheme, _, rest = address.rpartition("://")
    try:
        whole = bool(urlsplit(f"//{rest}").port and _host(rest))
    except ValueError:
        whole = False
    if not whole or (scheme or "tcp") not in _SCHEMES:
        raise ConfigurationError(
            f"{setting(execution)}: {address} is no address of a scheduler; write tls://HOST:PORT, "
            "tcp://127.0.0.1:PORT or the path of a scheduler file (.json)"
        )


def _read(path: Path, execution: "ExecutionParams") -> str:
    try:
        address = json.loads(path.read_bytes())["address"]
    except FileNotFoundError:
        raise ClusterError(
            f"{path}: there is no such scheduler file; start the scheduler with "
            f"'dask scheduler --scheduler-file {path}' or correct {setting(execution)}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ClusterError(
            f"{path} is not a scheduler file; 'dask scheduler --scheduler-file {path}' writes one"
        ) from None
    return str(address)


def _refuse_open_network(address: str, execution: "ExecutionParams") -> None:
    """Unencrypted and unauthenticated, only loopback may."""
    scheme, _, rest = address.rpartition("://")
    scheme = scheme or "tcp"  # as Dask reads a bare host:port
    if scheme in _ENCRYPTED or execution.insecure or _is_loopback(_host(rest)):
        return
    raise ConfigurationError(
        f"{setting(execution)}: {address} is plain {scheme} over a network, where whoever reaches a "
        "port can run code; use tls:// (docs/workers.md), or write execution.insecure: true"
    )


def _host(rest: str) -> str:
    return urlsplit(f"//{rest}").hostname or ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
