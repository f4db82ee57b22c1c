"""The files of a new project, from templates and from what its table shows."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from server.starter.code_of_definition import definition_code
from server.starter.code_of_fallback import fallback_code, records
from server.starter.code_of_table import table_code
from server.starter.code_of_training import training_code
from server.starter.columns import Survey
from server.starter.libraries import Library

TEMPLATES: Final = files("server.starter") / "templates"
FILES: Final = {
    "README.md": "README.md",
    "compare.py": "compare.py.txt",
    "definition.py": "definition.py.txt",
    "fallback.py": "fallback.py.txt",
    "pyproject.toml": "pyproject.toml.txt",
    "requirements.txt": "requirements.txt",
    "table.py": "table.py.txt",
    "train.py": "train.py.txt",
    "tests/test_bundle.py": "tests/test_bundle.py.txt",
    "tests/test_definition.py": "tests/test_definition.py.txt",
    ".github/workflows/model.yml": "model.yml",
    ".gitignore": "gitignore",
}
"""Each file of a project and the template that it is made from."""

_PLACE: Final = re.compile(r"@@(\w+)@@")


def write_project(folder: Path, survey: Survey, library: Library) -> list[Path]:
    """Writes every file into a folder that is there; gives their paths."""
    said = {
        "name": folder.name,
        "library": library.name,
        "requirement": library.requirement,
        "example": json.dumps(next(records(survey)), indent=1, ensure_ascii=False),
        **table_code(survey, folder),
        **definition_code(survey),
        **fallback_code(survey),
        **training_code(survey, library),
    }
    return [_write(folder / name, template, said) for name, template in FILES.items()]


def _write(path: Path, template: str, said: Mapping[str, str]) -> Path:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PLACE.sub(lambda found: said[found[1]], text), encoding="utf-8")
    return path
