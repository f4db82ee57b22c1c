"""MLServer: a custom runtime in the server's process, asked with one tensor a field."""

import argparse
import asyncio
import os
from pathlib import Path

from hand_features import Predictor
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Flights(MLModel):
    """Inputs of one row in, a probability out."""

    async def load(self) -> bool:
        self.predictor = Predictor(Path(str(self.settings.parameters.uri)))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        record = {field.name: field.data[0] for field in payload.inputs}
        probability = self.predictor.predict(record)
        output = ResponseOutput(name="probability", shape=[1], datatype="FP64", data=[probability])
        return InferenceResponse(model_name=self.name, outputs=[output])


async def serve(port: int) -> None:
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=port,
            grpc_port=port + 1,
            metrics_port=port + 2,
            parallel_workers=0,
            debug=False,
        )
    )
    model = ModelSettings(
        name="flights",
        implementation=Flights,
        parameters=ModelParameters(uri=os.environ["PREPARED"]),
    )
    await server.start([model])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port))


if __name__ == "__main__":
    main()
