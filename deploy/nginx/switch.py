#!/usr/bin/env python3
"""Sends all requests to another instance behind nginx, at once and without a reload.

switch.py blue | green | both

It asks the wanted instance whether it is ready, and makes and removes the files that nginx looks
for at each request. Requests that begin afterwards go to the wanted instance, on connections that
are open already too; those under way end where they are. Ends with 1, and changes nothing, where
the instance is not ready. Standard library only.
"""

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path

READY = "/health/ready"


class NotReady(Exception):
    """Why nothing was changed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("to", choices=["blue", "green", "both"])
    parser.add_argument("--folder", type=Path, default="/etc/nginx/keelmark", metavar="PATH")
    parser.add_argument("--blue", default="http://127.0.0.1:8080", metavar="URL")
    parser.add_argument("--green", default="http://127.0.0.1:8090", metavar="URL")
    given = parser.parse_args()
    instances = {"blue": [given.blue], "green": [given.green], "both": [given.blue, given.green]}
    try:
        for url in instances[given.to]:
            check_ready(url)
        switch(given.folder, given.to)
    except (NotReady, OSError) as error:
        print(f"switch.py: {error}", file=sys.stderr)
        return 1
    print(f"{given.to} answers")
    return 0


def check_ready(url: str) -> None:
    """Asks an instance.

    Raises:
        NotReady: it says no, or nothing.
    """
    try:
        with urllib.request.urlopen(url + READY, timeout=10):
            return
    except (urllib.error.URLError, OSError) as error:
        raise NotReady(f"{url}{READY}: {error}; nothing is changed") from error


def switch(folder: Path, to: str) -> None:
    """Makes the one file before it removes the other: at no moment does a third one answer."""
    if to != "blue":
        (folder / to).touch()
    for other in {"green", "both"} - {to}:
        (folder / other).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
