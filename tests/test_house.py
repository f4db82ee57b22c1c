"""The rules of the house: who may import whom, what is public, what no file may hold."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("features", "models", "server", "keelmark")
"""Each may import itself and what stands to its left; nobody imports the public face."""

OF_THE_EDGE = {
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
    "pydantic_settings",
    "prometheus_client",
}
OF_AUTHORS = {
    "lightgbm",
    "onnx",
    "onnxmltools",
    "pandas",
    "polars",
    "pyarrow",
    "sklearn",
    "skl2onnx",
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import of a module, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0]


def environment_readers(path: Path) -> list[int]:
    """Lines that touch the process's environment through `os`."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    lines: list[int] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "os" and node.attr in names:
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for alias in node.names if alias.name in names]
    return lines


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def run_python(code: str, *, cwd: Path = ROOT, **variables: str) -> CompletedProcess[str]:
    """Runs code in a fresh interpreter that finds this repository and has a bare environment."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str):
    to_the_right = PACKAGES[PACKAGES.index(package) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imported(path)
        if name in to_the_right
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["features", "models", "keelmark"])
def test_http_and_prometheus_stay_in_the_server(package: str):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imported(path)
        if name in OF_THE_EDGE
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["features", "models", "keelmark"])
def test_only_the_server_reads_the_environment(package: str):
    """But for the line of features/runtime.py that turns off telemetry."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules(package)
        for line in environment_readers(path)
        if path != ROOT / "features/runtime.py"
    ]
    assert not wrong


def test_the_runtime_sets_one_variable_and_reads_none():
    source = (ROOT / "features/runtime.py").read_text()
    lines = [source.splitlines()[n - 1] for n in environment_readers(ROOT / "features/runtime.py")]
    assert len(lines) == 1
    assert "ORT_DISABLE_TELEMETRY" in lines[0]


def test_onnxruntime_is_imported_in_one_place():
    importers = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in modules(package)
        for _, name in imported(path)
        if name == "onnxruntime"
    }
    assert importers == {"features/runtime.py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_listed_sorted_and_there(package: str):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


def test_the_public_face_says_what_it_has():
    import keelmark

    with pytest.raises(AttributeError, match="no 'Booster'; it has Bundle, FeatureSet"):
        _ = keelmark.Booster


def test_importing_keelmark_loads_nothing_heavy():
    heavy = {"numpy", "onnxruntime", "features", "models", "server"}
    ran = run_python(f"import sys, keelmark; print(sorted({heavy} & sys.modules.keys()))")
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.parametrize("module", ["features", "models", "server.cli", "server.apps"])
def test_serving_needs_no_library_of_authors(module: str):
    """onnx, pyarrow, pandas and scikit-learn are extras; a server does not have them."""
    ran = run_python(f"import sys, {module}; print(sorted({OF_AUTHORS} & sys.modules.keys()))")
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.parametrize("name", ["features", "models", "server"])
def test_a_foreign_package_of_our_name_is_reported(name: str, tmp_path: Path):
    shadow = tmp_path / name / "__init__.py"
    shadow.parent.mkdir()
    shadow.touch()
    ran = run_python("import keelmark", cwd=tmp_path)
    assert ran.returncode == 1
    assert f"ImportError: {shadow} is imported as {name!r}" in ran.stderr
    assert "python -P" in ran.stderr


def test_a_foreign_module_of_our_name_is_reported(tmp_path: Path):
    (tmp_path / "models.py").touch()
    ran = run_python("import keelmark", cwd=tmp_path)
    assert f"ImportError: {tmp_path / 'models.py'} is imported as 'models'" in ran.stderr


def test_a_folder_without_init_shadows_nothing(tmp_path: Path):
    (tmp_path / "features").mkdir()
    assert run_python("import keelmark", cwd=tmp_path).returncode == 0


def test_the_runtime_leaves_an_empty_home_empty(tmp_path: Path):
    """onnxruntime from 1.31 on writes a device id into the cache folder unless told not to."""
    ran = run_python("import features.runtime", HOME=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.iterdir()) == []


REGISTRIES = re.compile(
    rb"https?://[^\s\"'<>]*(pypi|pythonhosted|npmjs|yarnpkg|docker\.io|ghcr\.io|quay\.io|gcr\.io|debian\.org"
    rb"|crates\.io|golang\.org|conda|artifactory|nexus)|(extra-)?index[-_]url|find[-_]links"
)
MACHINE_PATHS = re.compile(rb"(?<![\w.$}/-])/(work|tmp|home|root|Users|mnt)/[\w.-]")


UNTOLD = re.compile(
    rb"\b(CONTRACTS|DESIGN|SPEC\d*|STYLE)\b(\.md| \xc2\xa7|,|\))|\(#\d+\)|\b[Ii]ssue #?\d"
)
"""Where decisions were talked over: readers of this repository do not have it."""


@pytest.mark.parametrize(
    "pattern",
    [REGISTRIES, MACHINE_PATHS, UNTOLD],
    ids=["an address of a registry", "a path of a machine", "papers that readers do not have"],
)
def test_no_file_holds(pattern: re.Pattern[bytes]):
    holding = [
        f"{path.relative_to(ROOT)}: {found[0].decode(errors='replace')}"
        for path in tracked()
        if path != Path(__file__)
        if (found := pattern.search(path.read_bytes()))
    ]
    assert not holding


LOCKS = sorted(ROOT.glob("*.lock"))


def pins(lock: Path) -> dict[str, set[str]]:
    """Name to the versions that a lock pins, one per marker."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_pin_of_a_lock_has_hashes(lock: Path):
    lines = re.sub(r"\\\n\s*", "", lock.read_text()).splitlines()
    assert lines
    assert [line for line in lines if " --hash=sha256:" not in line] == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-build.lock"])
def test_locks_of_one_environment_agree(lock: str):
    """`make test` puts the development lock over what `make serve` has installed."""
    others = pins(ROOT / "requirements-dev.lock")
    differing = {
        name: (versions, others[name])
        for name, versions in pins(ROOT / lock).items()
        if name in others and not versions <= others[name]
    }
    assert not differing


def test_locks_hold_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name_of = re.compile(r"[A-Za-z0-9-]+")
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    for lock, asked in (("requirements.lock", []), ("requirements-dev.lock", extras)):
        names = {name_of.match(text)[0] for text in [*project["dependencies"], *asked]}  # pyright: ignore[reportOptionalSubscript]
        assert names - {"keelmark"} <= pins(ROOT / lock).keys(), f"{lock}: run `make lock`"
