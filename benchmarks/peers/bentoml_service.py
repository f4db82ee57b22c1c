"""BentoML: one service, one worker, an asynchronous method."""

import os
from pathlib import Path
from typing import Any

import bentoml
from hand_features import Predictor


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Flights:
    """A record in, a probability out."""

    def __init__(self) -> None:
        self.predictor = Predictor(Path(os.environ["PREPARED"]))

    @bentoml.api
    async def predict(self, record: dict[str, Any]) -> dict[str, float]:
        return {"probability": self.predictor.predict(record)}
