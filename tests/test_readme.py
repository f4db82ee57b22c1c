"""What README.md says can be done can be done, and gives what it says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from keelmark import Bundle
from tests import readme
from tests.serving import serving

ROOT = readme.ROOT


def test_curl_gives_the_answer_that_the_readme_shows(tmp_path: Path) -> None:
    with serving(readme.SHIPPED, tmp_path) as server:
        given = readme.ask(server)
    stated = readme.stated_answer()
    for answer in (given, stated):
        for name in readme.IDS:
            assert re.fullmatch(r"[A-Za-z0-9._:-]+", answer.pop(name))
    assert given == stated, "run: python -m tests.readme"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's Python has run."""
    folder = tmp_path_factory.mktemp("readme")
    (code,) = readme.blocks("python")
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120)
    return folder


def test_the_extras_of_the_readme_have_what_its_python_imports() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    install = next(text for text in readme.blocks("bash") if "pip install" in text)
    (named,) = re.findall(r"\.\[([\w,]+)\]", install)
    wanted = " ".join(text for name in named.split(",") for text in extras[name])
    (code,) = readme.blocks("python")
    imported = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
    packages = {"pandas": "pandas", "sklearn": "scikit-learn", "numpy": None, "keelmark": None}
    assert imported == packages.keys()
    for package in filter(None, packages.values()):
        assert re.search(rf"\b{package}>", wanted), package


def test_the_python_of_the_readme_packs_a_bundle(packed: Path) -> None:
    bundle = Bundle.open(packed / "build" / "store" / "fraud" / "1")
    assert bundle.outputs[0].kind == "probability"


def test_the_commands_of_the_readme_work_on_what_it_packed(packed: Path, tmp_path: Path) -> None:
    commands = next(text for text in readme.blocks("bash") if "keelmark verify" in text)
    verify = next(line for line in commands.splitlines() if line.startswith("keelmark verify"))
    arguments = verify.split("#")[0].split()[1:]
    command = [sys.executable, "-m", "keelmark", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=packed, env=environment, check=True, timeout=60)
    with serving(packed / "build" / "store", tmp_path) as server:
        answer = server.predict("fraud", {"amount": 20.0, "country": "US"})
    assert answer.body["served_by"] == "model"
    assert answer.body["prediction"] > 0.2


def test_every_file_that_the_readme_links_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", readme.README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(readme.blocks("bash")), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["serve", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
