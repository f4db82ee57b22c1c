"""README.md's blocks of code, for the test that runs them; run, it writes the real answer there.

python -m tests.readme
"""

import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.serving import Server, serving

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
SHIPPED: Final = ROOT / "models" / "shipped"
IDS: Final = ("request_id", "prediction_id")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in _BLOCK.findall(README.read_text()) if name == language]


def curl_command() -> str:
    return next(text for text in blocks("bash") if text.startswith("curl"))


def stated_answer() -> dict[str, Any]:
    return json.loads(blocks("json")[0])


def ask(server: Server) -> dict[str, Any]:
    """What the README's `curl` sends, sent to this server."""
    words = shlex.split(curl_command())
    assert words[2] == "localhost:8080/predict/flights", words
    return server.post("/predict/flights", words[words.index("-d") + 1].encode()).body


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(SHIPPED, Path(folder)) as server,
    ):
        answer = ask(server)
    text = README.read_text()
    written = json.dumps(answer, indent=1) + "\n"
    README.write_text(text.replace(blocks("json")[0], written, 1))


if __name__ == "__main__":
    sys.exit(main())
