"""Whole instances behind HAProxy, with the recipe in deploy/haproxy as it is: nobody notices."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Generator
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
    run,
    running,
)
from tests.serving import lasting_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")

ROUNDS = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "50"))
RECIPE = DEPLOY / "haproxy"


@contextlib.contextmanager
def haproxy(blue: int, green: int, wish: str | None = None) -> Generator[Balancer]:
    """The recipe in front of two ports; `wish` is what stands in its map."""
    port = lasting_port()
    with tempfile.TemporaryDirectory(prefix="hap") as name:  # paths of sockets are short
        folder = Path(name)
        places = {
            "bind :8000": f"bind 127.0.0.1:{port}",
            "127.0.0.1:8080": f"127.0.0.1:{blue}",
            "127.0.0.1:8090": f"127.0.0.1:{green}",
            "/run/haproxy": folder,
            "/etc/haproxy": folder,
        }
        settings = folder / "keelmark.cfg"
        settings.write_text(placed(RECIPE / "keelmark.cfg", places))
        path = folder / "keelmark.map"
        path.write_text(wish or (RECIPE / "keelmark.map").read_text())
        checked = run([program("haproxy"), "-c", "-dW", "-f", settings])
        assert checked.returncode == 0, checked.stderr  # not a warning either
        switch = [RECIPE / "switch.py", "--socket", folder / "keelmark.sock", "--map", path]
        with running([program("haproxy"), "-db", "-f", settings], port, folder / "log") as pid:
            yield Balancer(port, pid, switch)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Generator[Front]:
    with (
        instances(tmp_path_factory.mktemp("instances")) as (blue, green),
        haproxy(blue.port, green.port) as balancer,
    ):
        yield Front(balancer, blue, green)


@pytest.mark.parametrize("rounds", [2, pytest.param(ROUNDS, marks=pytest.mark.trial)])
def test_a_switch_under_load_fails_nothing_and_holds_at_once(front: Front, rounds: int):
    front.switch_under_load(rounds)


@pytest.mark.parametrize("rounds", [1, pytest.param(ROUNDS // 5, marks=pytest.mark.trial)])
def test_an_instance_that_stops_is_left_and_taken_up_again(front: Front, rounds: int):
    front.stop_under_load(rounds)


def test_an_instance_that_is_killed_is_passed_over(front: Front):
    front.pass_over_who_was_killed()


def test_what_is_not_ready_is_not_switched_to(front: Front):
    assert "green is not ready, nothing is changed" in front.refuse_what_is_not_ready()
    assert Path(front.balancer.switch[-1]).read_text() == "live blue\n"


def test_what_was_switched_to_holds_for_a_new_haproxy(front: Front):
    front.balancer.switch_to("green")
    kept = Path(front.balancer.switch[-1]).read_text()
    assert kept == "live green\n"
    with haproxy(front.blue.port, front.green.port, kept) as again:
        assert again.versions(3) == {"2"}


def test_a_post_that_was_sent_is_never_sent_again():
    blue, green = Silent(), Silent()
    with (
        blue.listening(),
        green.listening(),
        haproxy(blue.port, green.port, "live both\n") as front,
    ):
        for n in range(1, 5):
            assert front.status() == 502
            assert blue.read + green.read == n
