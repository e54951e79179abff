"""The way to a Ray cluster: the package, the address, the connection."""

import importlib
import importlib.util
import logging
import os
import socket
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from recipe.system.errors import UserError

CONNECT_SECONDS = 5.0
HTTP2_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # an empty frame of type 4


def require_ray():
    """The ray package. Raises UserError with the command that installs it."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("ray is not installed: pip install 'ray[train,default]==2.60.0', or run this without Ray")
    return importlib.import_module("ray")


def connect(logs: bool = True):
    """The ray package, connected to RAY_ADDRESS (host:port, or auto: the cluster of this machine), or where that is
    empty to a cluster of this process alone, on the loopback. `logs`: whether to print what workers print. Raises
    UserError where nobody answers."""
    ray = require_ray()
    settings = {"log_to_driver": logs, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS") or None
    if address is None:
        ray.init("local", _node_ip_address="127.0.0.1", **settings)
        return ray
    if address != "auto":
        require_answer(address)
    try:
        ray.init(address, ignore_reinit_error=True, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster at RAY_ADDRESS={address} ({said}): ray start --head makes one") from error
    return ray


def require_answer(address: str) -> None:
    """Raises UserError within seconds unless a server of Ray's kind answers: http(s)://host:port, or gRPC at host:port.

    ray.init itself waits for minutes where something takes the connection and says nothing.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        well_formed = parts.scheme in ("", "http", "https") and parts.hostname and parts.port
    except ValueError:
        well_formed = False
    if not well_formed:
        raise UserError(
            f"found RAY_ADDRESS={address}, expected http://HOST:8265 (to submit a job), HOST:6379 (from a machine of "
            "the cluster) or auto"
        )
    try:
        if parts.scheme:
            urlopen(f"{address.rstrip('/')}/api/version", timeout=CONNECT_SECONDS).close()
        else:
            greet((parts.hostname, parts.port))
    except HTTPError:
        pass  # it wants the token first
    except (OSError, HTTPException) as error:
        said = getattr(error, "reason", None) or error
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address} ({said}): is the cluster up, its port open?"
        ) from error


def greet(place: tuple[str, int]) -> None:
    """Exchanges the first frames of HTTP/2, which gRPC speaks. Raises OSError where that isn't answered in kind."""
    with socket.create_connection(place, timeout=CONNECT_SECONDS) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS)  # RFC 9113, section 3.4
        answer = connection.recv(9)
    if answer[3:4] != HTTP2_SETTINGS[3:4] and os.environ.get("RAY_USE_TLS") != "1":
        raise OSError("something else than Ray listens there")
