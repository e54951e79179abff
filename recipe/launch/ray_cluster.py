"""Connecting to a Ray cluster: the package, the address, the connection."""

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
    """Imports and returns ray. Raises UserError with the install command where it is missing."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("ray is not installed: pip install 'ray[train,default]==2.60.0', or run this without Ray")
    return importlib.import_module("ray")


def connect(logs: bool = True):
    """Returns the ray package, connected to RAY_ADDRESS: host:port, auto for this machine's cluster, or empty for a new
    local cluster, on loopback, that ends with this process. `logs` prints the workers' output here. Raises UserError
    where no cluster answers."""
    ray = require_ray()
    settings = {"log_to_driver": logs, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS") or None
    if address is None:
        ray.init("local", _node_ip_address="127.0.0.1", **settings)
        return ray
    if address != "auto":
        require_reachable(address)
    try:
        ray.init(address, ignore_reinit_error=True, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster at RAY_ADDRESS={address} ({reason}): ray start --head starts one") from error
    return ray


def require_reachable(address: str) -> None:
    """Raises UserError within seconds unless Ray answers: its API at http(s)://host:port, or gRPC at host:port.

    ray.init itself waits for minutes where a server accepts the connection and never answers.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = (parts.hostname, parts.port) if parts.scheme in ("", "http", "https") else (None, None)
    except ValueError:
        parts, host, port = None, None, None
    if not (parts and host and port):
        raise UserError(
            f"found RAY_ADDRESS={address}, expected http://HOST:8265 (to submit a job), HOST:6379 (on a machine "
            "of the cluster) or auto"
        )
    try:
        if parts.scheme:
            urlopen(f"{address.rstrip('/')}/api/version", timeout=CONNECT_SECONDS).close()
        else:
            exchange_http2_frames((host, port))
    except HTTPError:
        pass  # it answers, but requires a token
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address} ({reason}): is the cluster up and its port open?"
        ) from error


def exchange_http2_frames(endpoint: tuple[str, int]) -> None:
    """Exchanges the first frames of HTTP/2, on which gRPC is built. Raises OSError for any other kind of answer."""
    with socket.create_connection(endpoint, timeout=CONNECT_SECONDS) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS)  # RFC 9113, section 3.4
        answer = connection.recv(9)
    if answer[3:4] != HTTP2_SETTINGS[3:4] and os.environ.get("RAY_USE_TLS") != "1":
        raise OSError("a server other than Ray listens there")
