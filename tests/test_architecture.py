"""The house's rules, held by machine: who may import whom, how large a module grows, what start-up costs."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for top in ("node", "protocol") for path in (ROOT / top).rglob("*.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
BROAD_EXCEPTS_ALLOWED = 5  # in the whole project, each with its reason beside it
LARGEST_MODULE = 400  # lines; beyond it a module has two reasons to change

# One sin for each contract: the file that commits it, and the line that is its sin.
SINS = {
    "the daemon is layered, and the wire is at the bottom": ("node/core/prompt.py", "import node.ports"),
    "protocol/ is pure: no daemon, no loop, no socket, no clock, no luck, no log": ("protocol/ids.py", "import time"),
    "core/ decides and never does": ("node/core/admission.py", "import trio"),
    "the learner is pure: only its worker knows threads, a clock and the system": (
        "node/learner/table.py",
        "import time",
    ),
    "the daemon asks the learner's process and never imports the learner": (
        "node/adapters/learner_child.py",
        "import node.learner.table",
    ),
    "services and the HTTP surface work on ports: no adapter, no settings, no foreign library of an adapter": (
        "node/services/serve.py",
        "import node.adapters.system",
    ),
    "services do not know each other": ("node/services/serve.py", "import node.services.tend"),
    "adapters do not know each other": ("node/adapters/nvml.py", "import node.adapters.system"),
    "each foreign library has one door": ("node/services/tend.py", "import psutil"),
    "only the composition root and the command line see the settings": ("node/telemetry.py", "import node.settings"),
    "no cycles inside the wire or the core": ("node/core/strategy.py", "import node.core.engine_flags"),
}


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as run; run()",
        "--no-cache",
    ]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120, check=False)


def test_every_contract_is_kept() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout[-3000:]


def test_every_contract_has_a_planted_sin() -> None:
    assert {contract["name"] for contract in CONTRACTS} == set(SINS)


@pytest.mark.parametrize("contract", SINS)
def test_a_planted_sin_breaks_its_contract(contract: str, tmp_path: Path) -> None:
    for top in ("node", "protocol"):
        shutil.copytree(ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file, line = SINS[contract]
    sinner = tmp_path / file
    sinner.write_text(sinner.read_text() + f"\n{line}\n")

    result = lint(tmp_path)

    assert result.returncode != 0
    assert f"{contract} BROKEN" in " ".join(result.stdout.split()), result.stdout[-3000:]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_stays_small(module: Path) -> None:
    source = module.read_text()
    assert ast.get_docstring(ast.parse(source)), "no docstring"
    assert source.count("\n") <= LARGEST_MODULE


def test_broad_excepts_are_few_and_argued_for() -> None:
    found = []
    for module in MODULES:
        lines = module.read_text().splitlines()
        for handler in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(handler, ast.ExceptHandler) and _is_broad(handler):
                found.append(f"{module.relative_to(ROOT)}:{handler.lineno}")
                reason = lines[handler.lineno - 1].partition("#")[2].removeprefix(" noqa: BLE001").strip(" -")
                assert len(reason.split()) > 3, f"{found[-1]}: a broad except without its reason"
    assert len(found) < BROAD_EXCEPTS_ALLOWED, found


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["version"], ["status", "--help"], ["ask", "--help"], ["records", "list", "--help"]]
)
def test_quick_verbs_import_nothing_heavy(arguments: list[str]) -> None:
    probe = (
        "import sys; from node.cli.main import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'libp2p', 'vllm', 'transformers', 'trio', 'hypercorn', 'starlette', 'numpy', 'rich'};"
        "found = heavy & set(sys.modules); assert not found, found; sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_readme_names_every_room() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [str(path.relative_to(ROOT)) for path in MODULES if path.name not in readme and path.name[0] != "_"]
    assert not missing, f"not in the tree of README.md: {missing}"
