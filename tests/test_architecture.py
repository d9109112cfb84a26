"""The shape of the house, enforced: imports go one way, the core does no I/O, modules stay small."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import xfrmi
from tests.each import each

PACKAGE = Path(xfrmi.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = {
    "errors": 0, "wire": 0,
    "core": 1,
    "formats": 2, "dev": 2,
    "daemon": 3, "client": 3,
    "interpose": 4, "lab": 4, "teach": 4, "top": 4,
    "doctor": 5, "web": 5,
    "cli": 6,
    "__main__": 7,
}  # fmt: skip
"""A module imports from its own layer's package and from lower layers only."""

SAME_LAYER_FRIENDS = {("errors", "wire"), ("wire", "errors"), ("daemon", "client"), ("client", "daemon")}

CORE_FORBIDDEN = {"socket", "os", "time", "logging", "asyncio", "threading", "random", "subprocess", "select"}
"""What decides is a pure function of bytes, tables and a clock that is passed in."""

COLD_START_FORBIDDEN = {"numpy", "cryptography", "pyroute2", "asyncio", "rich", "scapy"}
"""Never at module level where `xfrmi state list` would pay for it."""

MAX_LINES = 400


def part(module: str) -> str | None:
    """'xfrmi.wire.ip' -> 'wire'; None for what is not ours."""
    names = module.split(".")
    return (names[1] if len(names) > 1 else "") if names[0] == "xfrmi" else None


@functools.cache  # three tests ask of every module
def imports(path: Path, *, top_level_only: bool = False) -> list[str]:
    """Every module name that a file imports (not those only for the type checker)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: list[str] = []
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found += [f"{module}.{alias.name}" if module == "xfrmi" else module for alias in node.names]
    return found


def own_part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@each("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    mine = own_part(path)
    if mine == "__init__":
        return
    for module in imports(path):
        theirs = part(module)
        if not theirs or theirs == "__version__" or theirs == mine:
            continue
        assert theirs in LAYERS, f"{module} belongs to no layer"
        lower = LAYERS[theirs] < LAYERS[mine]
        assert lower or (mine, theirs) in SAME_LAYER_FRIENDS, f"{mine} (layer {LAYERS[mine]}) imports {module}"


@each("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_does_no_io(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & CORE_FORBIDDEN


@each(
    "path",
    [p for p in MODULES if own_part(p) in ("wire", "formats", "client", "cli", "errors")],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_cold_start_stays_light(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not roots & COLD_START_FORBIDDEN


@each("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_scapy_is_an_oracle_and_modules_stay_small(path: Path) -> None:
    text = path.read_text()
    assert "scapy" not in {name.split(".")[0] for name in imports(path)}
    assert len(text.splitlines()) <= MAX_LINES
    assert path.stem not in ("utils", "helpers", "misc", "common")
