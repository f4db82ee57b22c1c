#!/usr/bin/env python3
"""Sends all requests to another instance behind HAProxy, at once and without a reload.

switch.py blue | green | both

It asks HAProxy whether the wanted instance is ready, changes the map in HAProxy's memory, and
writes the same into the file that HAProxy reads when it starts. Requests that begin afterwards go
to the wanted instance, on connections that are open already too; those under way end where they
are. Ends with 1, and changes nothing, where the instance is not ready. Standard library only.
"""

import argparse
import csv
import os
import socket
import sys
from pathlib import Path

KEY = "live"


class Refused(Exception):
    """Why nothing was changed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("to", choices=["blue", "green", "both"])
    parser.add_argument("--socket", default="/run/haproxy/keelmark.sock", metavar="PATH")
    parser.add_argument("--map", type=Path, default="/etc/haproxy/keelmark.map", metavar="PATH")
    given = parser.parse_args()
    try:
        switch(given.socket, given.map, given.to)
    except (Refused, OSError) as error:
        print(f"switch.py: {error}", file=sys.stderr)
        return 1
    print(f"{given.to} answers")
    return 0


def switch(address: str, path: Path, to: str) -> None:
    """See above.

    Raises:
        Refused: HAProxy says that what is wanted is not ready, or has no such map.
        OSError: HAProxy is not there, or the file cannot be written.
    """
    servers = csv.DictReader(ask(address, "show stat").removeprefix("# ").splitlines())
    of_it = [row for row in servers if row["pxname"] == to and row["act"] == "1"]
    states = {row["svname"]: row["status"] for row in of_it if row["svname"] != "BACKEND"}
    if not states or any(not state.startswith("UP") for state in states.values()):
        raise Refused(f"{to} is not ready, nothing is changed: HAProxy sees {states or 'nothing'}")
    if said := ask(address, f"set map {path} {KEY} {to}").strip():
        raise Refused(f"HAProxy did not change {path}: {said}")
    keep(path, f"{KEY} {to}\n")


def ask(address: str, command: str) -> str:
    """What HAProxy answers to one command."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def keep(path: Path, text: str) -> None:
    """Replaces a file as a whole, also where the machine stops in between."""
    aside = path.with_name(path.name + ".new")
    with aside.open("w") as file:
        file.write(text)
        os.fsync(file.fileno())
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
