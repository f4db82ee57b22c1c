"""MLflow: a Python model, logged to a folder and served by its own scoring server."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import mlflow
from hand_features import Predictor


class Flights(mlflow.pyfunc.PythonModel):
    """A table of records in, probabilities out."""

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor(Path(context.artifacts["model"]))

    def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN201  (it reads them)
        # A table has NaN for what a record has null for.
        table = model_input.astype(object).where(model_input.notna(), None)
        return [self.predictor.predict(record) for record in table.to_dict("records")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    arguments = parser.parse_args()
    saved = arguments.scratch / "model"
    here = Path(__file__).parent
    mlflow.pyfunc.save_model(
        saved,
        python_model=Flights(),
        artifacts={"model": os.environ["PREPARED"]},
        code_paths=[str(here / "hand_features.py"), str(here / "mlflow_model.py")],
        pip_requirements=["onnxruntime"],
    )
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(saved)]
    command += ["--port", arguments.port, "--workers", "1", "--env-manager", "local"]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
