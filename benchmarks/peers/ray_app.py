"""Ray Serve: one replica behind one proxy, both on this machine."""

import argparse
import os
import signal
import threading
from pathlib import Path

import ray
from hand_features import Predictor
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=256)
class Flights:
    """A record in, a probability out."""

    def __init__(self, folder: str) -> None:
        self.predictor = Predictor(Path(folder))

    async def __call__(self, request: Request) -> dict[str, float]:
        return {"probability": self.predictor.predict(await request.json())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    arguments = parser.parse_args()
    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        _temp_dir=str(arguments.scratch),
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    serve.run(Flights.bind(os.environ["PREPARED"]), route_prefix="/predict")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
