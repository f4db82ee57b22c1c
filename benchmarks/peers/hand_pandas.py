"""FastAPI, pydantic, a DataFrame of one row, and the pipeline of scikit-learn from training."""

import argparse
import os
from pathlib import Path

import joblib
import uvicorn
from fastapi import FastAPI
from flight import Flight, Late
from pandas_features import frame


def application(folder: Path) -> FastAPI:
    pipeline = joblib.load(folder / "pipeline.joblib")
    app = FastAPI()

    @app.post("/predict")
    async def predict(flight: Flight) -> Late:
        probability = pipeline.predict_proba(frame([flight.model_dump()]))[0, 1]
        return Late(probability=float(probability))

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
