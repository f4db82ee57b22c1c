"""FastAPI, pydantic, features with numpy, onnxruntime, and one Prometheus histogram a feature."""

import argparse
import os
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from flight import Flight, Late
from hand_features import Predictor
from prometheus_client import Histogram, make_asgi_app

BUCKETS = (-10, -5, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100, 500, 1000)


def application(folder: Path) -> FastAPI:
    predictor = Predictor(folder)
    app = FastAPI()
    app.mount("/metrics", make_asgi_app())
    values = Histogram("feature_value", "Values of features", ["feature"], buckets=BUCKETS)
    observed = [values.labels(name) for name in predictor.names]
    scores = Histogram("score", "Probabilities", buckets=[share / 10 for share in range(11)])

    @app.post("/predict")
    async def predict(flight: Flight) -> Late:
        features = predictor.features(flight.model_dump())
        for histogram, value in zip(observed, features[0].tolist(), strict=True):
            histogram.observe(value)
        probability = float(predictor.run(features)[0])
        scores.observe(probability)
        return Late(probability=probability)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvicorn.run(
        application(Path(os.environ["PREPARED"])),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
