"""The reference of the benchmarks: uvicorn, a raw ASGI app, the same fused graph, no more.

It checks nothing, counts nothing and knows the record's shape by heart: the floor under any server
that decodes JSON and runs this graph. `--echo` answers a constant: the floor under any uvicorn
application.
"""

import argparse
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn

from features import Fitted
from features.runtime import Session

START = {"type": "http.response.start", "status": 200}
CONTENT_TYPE = (b"content-type", b"application/json")


def answerer(bundle: Path) -> Callable[[bytes], bytes]:
    """Body to answer: decode, one packed row (or a list of them), one run."""
    fitted = Fitted.load(bundle / "features.json")
    session = Session(str(bundle / "model.onnx"))
    convert = [_converter(fitted, field.name) for field in fitted.fields]
    names = [field.name for field in fitted.fields]
    decode = msgspec.json.Decoder().decode
    encode = msgspec.json.Encoder().encode

    def answer(body: bytes) -> bytes:
        records = decode(body)
        if type(records) is list:
            rows = [[f(r.get(n)) for f, n in zip(convert, names, strict=True)] for r in records]
            return encode({"predictions": session.run(np.array(rows))[0].tolist()})
        get = records.get
        row = np.array([[f(get(name)) for f, name in zip(convert, names, strict=True)]])
        value = session.run(row)[0].item()
        return b'{"prediction": %.9g}' % value

    return answer


def _converter(fitted: Fitted, name: str) -> Callable[[Any], float]:
    kind = next(field.kind for field in fitted.fields if field.name == name)
    if kind == "category":
        codes = {text: code for code, text in enumerate(fitted.vocabularies[name])}
        return lambda value: codes.get(value, len(codes))
    if kind == "timestamp":
        return lambda value: datetime.fromisoformat(value).timestamp()
    return lambda value: math.nan if value is None else value


def echo(_body: bytes) -> bytes:
    return b'{"prediction": 0.5}'


def application(answer: Callable[[bytes], bytes]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        content = answer(body)
        length = (b"content-length", b"%d" % len(content))
        await send({**START, "headers": [CONTENT_TYPE, length]})
        await send({"type": "http.response.body", "body": content})

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="The bare server.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--echo", action="store_true")
    arguments = parser.parse_args()
    answer = echo if arguments.echo else answerer(arguments.bundle)
    uvicorn.run(
        application(answer),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        lifespan="off",
    )


if __name__ == "__main__":
    main()
