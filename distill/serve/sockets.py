"""Where a service listens."""

from __future__ import annotations

import socket
import sys

from distill.errors import UserError

BACKLOG = 2048  # connections that wait to be accepted


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets that listen at one address, one for each worker.

    On Linux the system spreads connections over them evenly. They stay open here when a worker
    dies, so that what it has not accepted yet waits for its successor. Elsewhere it is one socket.

    Raises:
        UserError: Somebody else listens there, or there is no such address.
    """
    where = f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:  # shared ones would not notice
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            if port:
                probe.listen(1)
            address = (address[0], probe.getsockname()[1], *address[2:])
        shared = count > 1 and sys.platform == "linux"
        sockets = []
        for _ in range(count if shared else 1):
            one = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address)
            one.listen(BACKLOG)
            one.setblocking(False)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "name another --port, or end what listens there"
        raise UserError(f"cannot listen, {reason}", where, hint) from None
    return sockets if shared else sockets * count


def address_of(listening: socket.socket) -> str:
    """Where a socket is asked."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    host = listening.getsockname()[0]
    return bool(host.startswith("127.") or host == "::1")
