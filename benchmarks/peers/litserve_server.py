"""LitServe: one server process, one worker."""

import argparse
import os
from pathlib import Path
from typing import Any

import litserve as ls
from hand_features import Predictor


class Flights(ls.LitAPI):
    """A record in, a probability out."""

    def setup(self, device: str) -> None:
        self.predictor = Predictor(Path(os.environ["PREPARED"]))  # this is another process

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, record: dict[str, Any]) -> float:
        return self.predictor.predict(record)

    def encode_response(self, output: float) -> dict[str, float]:
        return {"probability": output}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    server = ls.LitServer(Flights(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
