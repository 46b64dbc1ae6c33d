"""The rules of the house: who may import whom, what importing costs, how large a module may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "sedstream"

FLOORS = [
    {"errors", "compiled"},
    {"grid", "precision", "cores", "recurrences", "traces"},
    {"events"},
    {"exports", "progress", "scoring"},
    {"audio", "speech", "encoders", "decoding"},
    {"front", "manifest"},
    {"ringed"},
    {"zoo"},
    {"block"},
    {"stream"},
    {"loop", "schedule", "short", "whole"},
    {"offline"},
    {"session"},
    {"engine", "looks", "recordings", "sources"},
    {"capacity", "download", "folders"},
    {"catalogue"},
    {"zed"},
    {"serving", "listen", "training", "diarizing"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
"""A module imports only what stands on a lower floor, or in its own folder."""
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

ONLY_ABOVE = {"threading": "engine", "asyncio": "engine", "time": "engine", "logging": "engine"}
FACES = {"progress", "training"}  # what people look at may know the clock
# What belongs to the process, not to a session, may be locked.
SHARED = {("threading", "traces"), ("threading", "cores"), ("threading", "precision")}
TORCH = {"precision", "cores", "traces", "speech", "encoders", "front", "ringed", "zoo", "training"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def home(path: Path) -> str:
    """The floor's name of a module: its folder, or itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Absolute names of what a module imports, anywhere in it, but not for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["sedstream", *path.relative_to(PACKAGE).parts[:-1]]
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from . import x` may name modules
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "sedstream" else {base}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = home(path)
    assert own in FLOOR, f"{own} stands on no floor"
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "sedstream" and rest and rest[0] not in ("__version__", own):
            assert FLOOR[rest[0]] < FLOOR[own], f"{own} imports {name}"
        if top in ONLY_ABOVE and own not in FACES and (top, own) not in SHARED:
            assert FLOOR[own] >= FLOOR[ONLY_ABOVE[top]], f"{own} imports {top}"
        if top in ("torch", "torchaudio"):
            assert own in TORCH, f"{own} imports {top}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 340


@pytest.mark.parametrize("code", ["import sedstream", "import sedstream.cli; sedstream.cli._parser().format_help()"])
def test_import_is_light(code: str) -> None:
    """Neither torch nor numba: whoever asks for help does not wait for them."""
    check = f"{code}\nimport sys; print([m for m in ('torch', 'numba', 'speechbrain', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_names_exist() -> None:
    import sedstream

    assert all(getattr(sedstream, name) is not None for name in sedstream.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sedstream.nothing  # noqa: B018


def test_no_public_name_is_a_modules() -> None:
    """Python puts a module that is imported in its package, in the place of what else would have its name there."""
    import sedstream

    assert not set(sedstream.__all__) & {home(path) for path in MODULES}
    script = "from sedstream import *; import sedstream.offline; print(diarize.__name__, tick.__name__, "
    script += "sedstream.tick.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "diarize tick tick\n"


def test_ruff_and_mypy_are_clean() -> None:
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
