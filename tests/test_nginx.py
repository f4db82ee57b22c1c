"""Whole instances behind nginx, with the recipe in deploy/nginx as it is: nobody notices.

What a reload of nginx costs is measured, with this server behind it and without any.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from tests.balancers import (
    DEPLOY,
    Balancer,
    Front,
    Silent,
    instances,
    placed,
    program,
    running,
)
from tests.serving import lasting_port
from tests.workers import REQUEST, Known, Load, Record, children_of, known_answers, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")

ROUNDS = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "50"))
RECIPE = DEPLOY / "nginx"
PROCESSES = 2
MAIN = """
daemon off;
user root;
worker_processes {processes};
worker_shutdown_timeout 65s;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {more}
    include {folder}/keelmark.conf;
}}
"""
ALONE = """
server {{
    listen 127.0.0.1:{port};
    default_type application/json;
    location / {{ return 200 '{{"request_id": "$http_x_request_id", "same": 1}}'; }}
}}
"""
SAME = [Known(REQUEST, 1, 200, {"same": 1})]


@contextlib.contextmanager
def nginx(blue: int, green: int, *, more: str = "") -> Generator[Balancer]:
    """The recipe in front of two ports; `more` is for the whole of it."""
    with tempfile.TemporaryDirectory(prefix="nginx") as name:
        folder, port = Path(name), lasting_port()
        places = {
            "listen 8000": f"listen 127.0.0.1:{port}",
            "127.0.0.1:8080": f"127.0.0.1:{blue}",
            "127.0.0.1:8090": f"127.0.0.1:{green}",
            "/etc/nginx/keelmark": folder,
        }
        switch = [
            RECIPE / "switch.py",
            *("--blue", f"http://127.0.0.1:{blue}", "--green", f"http://127.0.0.1:{green}"),
            *("--folder", folder),
        ]
        text = placed(RECIPE / "keelmark.conf", places)
        with _running(folder, text, port, more) as pid:
            yield Balancer(port, pid, switch)


@contextlib.contextmanager
def alone(*, more: str = "") -> Generator[Balancer]:
    """One that gives everybody the same answer by itself."""
    with tempfile.TemporaryDirectory(prefix="nginx") as name:
        port = lasting_port()
        with _running(Path(name), ALONE.format(port=port), port, more) as pid:
            yield Balancer(port, pid, ())


@contextlib.contextmanager
def _running(folder: Path, text: str, port: int, more: str) -> Generator[int]:
    (folder / "keelmark.conf").write_text(text)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, processes=PROCESSES, more=more))
    command = [program("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with running(command, port, folder / "log") as pid:
        yield pid


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Generator[Front]:
    with (
        instances(tmp_path_factory.mktemp("instances")) as (blue, green),
        nginx(blue.port, green.port) as balancer,
    ):
        yield Front(balancer, blue, green)


@pytest.mark.parametrize("rounds", [2, pytest.param(ROUNDS, marks=pytest.mark.trial)])
def test_a_switch_under_load_fails_nothing_and_holds_at_once(front: Front, rounds: int):
    wait_until(lambda: len(children_of(front.balancer.pid, "nginx")) == PROCESSES)
    before = children_of(front.balancer.pid, "nginx")
    front.switch_under_load(rounds)
    assert children_of(front.balancer.pid, "nginx") == before  # nothing was reloaded


@pytest.mark.parametrize("rounds", [1, pytest.param(ROUNDS // 5, marks=pytest.mark.trial)])
def test_an_instance_that_stops_is_left_and_taken_up_again(front: Front, rounds: int):
    front.stop_under_load(rounds)


def test_an_instance_that_is_killed_is_passed_over(front: Front):
    front.pass_over_who_was_killed()


def test_what_is_not_ready_is_not_switched_to(front: Front):
    assert "/health/ready: " in front.refuse_what_is_not_ready()
    folder = Path(front.balancer.switch[-1])
    assert [name for name in ("green", "both") if (folder / name).exists()] == []


def test_a_post_that_was_sent_is_never_sent_again():
    blue, green = Silent(), Silent()
    with blue.listening(), green.listening(), nginx(blue.port, green.port) as front:
        (Path(front.switch[-1]) / "both").touch()
        for n in range(1, 3):
            assert front.status() == 502
            assert blue.read + green.read == n


# what a reload of nginx costs


def reloads(
    balancer: Balancer, known: Sequence[Known], count: int, *, looks: bool
) -> dict[str, int]:
    """Requests that fail while nginx is reloaded that often, each time in other processes."""
    with (
        Load(balancer.port, 8, known, pause=0.002, looks=looks) as quick,
        Load(balancer.port, 24, known, pause=0.1, looks=looks) as slow,
    ):
        wait_until(lambda: slow.told > 48)
        for _ in range(count):
            before = children_of(balancer.pid, "nginx")
            os.kill(balancer.pid, signal.SIGHUP)
            wait_until(lambda old=before: not {*old} & {*children_of(balancer.pid, "nginx")})
            time.sleep(0.2)  # for the callers to have kept connections again
    failed = len(quick.failures) + len(slow.failures)
    closed = quick.closed_idle + slow.closed_idle
    return {"asked": quick.asked + slow.asked, "failed": failed, "closed idle": closed}


@pytest.mark.trial
def test_what_reloads_cost(front: Front, record_property: Record):
    """Printed and kept with the report, not judged: deploy/README.md quotes it."""
    known = known_answers(front.blue.store)
    blue, green = front.blue.port, front.green.port
    found: dict[str, dict[str, int]] = {}
    for more, name in (("", "kept"), ("keepalive_timeout 0;", "not kept")):
        for looks in (False, True):
            said = f"{name}, {'looks' if looks else 'does not look'} before it asks"
            with alone(more=more) as balancer:
                found[f"nginx alone, {said}"] = reloads(balancer, SAME, ROUNDS, looks=looks)
            with nginx(blue, green, more=more) as balancer:
                found[f"before Keelmark, {said}"] = reloads(balancer, known, ROUNDS, looks=looks)
    record_property("reloads", found)
    print(json.dumps(found, indent=1))  # noqa: T201  (for whoever writes it down)
    assert all(one["failed"] == 0 for name, one in found.items() if ", not kept" in name)
