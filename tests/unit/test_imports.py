"""Imports point down: app -> auth_middleware, service.routes -> service -> sam_engine.

The rules are read from the sources, so that an import inside a function or for the type checker counts too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ENTRY_POINTS = {"app", "gunicorn.conf"}
FLASK_MODULES = {"service.problems", "service.telemetry"}
NOT_A_ROUTE = {"service.routes", "service.routes.context", "service.routes.exchange"}  # what routes share
NOT_IN_THE_ENGINE = {"flask", "werkzeug", "sqlalchemy", "pydantic", "pydantic_core", "pydantic_settings"}
NOWHERE = {"torchvision", "timm"}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
READS_ENVIRONMENT = {"service.settings"}
WRITES_ENVIRONMENT = {"gunicorn.conf"}


def sources(root: Path) -> dict[str, ast.Module]:
    """Modules of the product by dotted name; `gunicorn.conf.py` counts as `gunicorn.conf`."""
    files = [*root.glob("*.py"), *root.glob("sam_engine/**/*.py"), *root.glob("service/**/*.py")]
    trees = {}
    for file in files:
        name = ".".join(file.relative_to(root).parts).removesuffix(".py").removesuffix(".__init__")
        trees[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return trees


def all_files(root: Path) -> Iterator[Path]:
    """Every Python file of the project but those in hidden folders, such as the virtual environment."""
    for file in root.rglob("*.py"):
        if not any(part.startswith(".") for part in file.relative_to(root).parts):
            yield file


def imports(name: str, tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Dotted names of all that a module imports; of `from a import b` also `a.b` if that is a module."""
    is_package = any(module.startswith(f"{name}.") for module in modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".") if is_package else name.split(".")[:-1]
                above = above[: len(above) - (node.level - 1)]
                base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (full for a in node.names if (full := f"{base}.{a.name}") in modules)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "import_module",
            "importlib.import_module",
        ):
            yield from (
                a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer(name: str) -> int | None:
    """0 at the bottom; None for what is not ours."""
    if within(name, "sam_engine"):
        return 0
    if within(name, "service.routes") or name == "auth_middleware":
        return 2
    if within(name, "service"):
        return 1
    return 3 if name in ENTRY_POINTS else None


def why_not(name: str, imported: str) -> str | None:
    """What is wrong with an import, or None."""
    package = imported.partition(".")[0]
    if package in NOWHERE:
        return "is imported nowhere"
    ours, theirs = layer(name), layer(imported)
    if ours == 0 and package in NOT_IN_THE_ENGINE:
        return "has no place in the engine"
    is_flask = package == "flask" or package.startswith("flask_")
    if ours == 1 and is_flask and name not in FLASK_MODULES:
        return "belongs to routes, problems and telemetry"
    if ours is None or theirs is None or within(imported, name):
        return None
    if theirs > ours:
        return "is an upward import"
    if theirs == ours == 2:
        routes = within(name, "service.routes") and within(imported, "service.routes")
        if not routes or imported not in NOT_A_ROUTE:
            return "is a sideways import"
    return "is a sideways import" if theirs == ours == 3 else None


def uses_of_the_environment(tree: ast.Module) -> Iterator[tuple[int, bool]]:
    """Line of each use of the process environment, and whether it only writes there."""
    aliases = {"os"}
    written = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == "os" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            if any(alias.name in {*ENVIRONMENT, "*"} for alias in node.names):
                yield node.lineno, False
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            written.add(node.value)
    for node in ast.walk(tree):
        used = isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
        if used and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield node.lineno, node in written


def violations(root: Path) -> list[str]:
    trees = sources(root)
    found = []
    for name, tree in sorted(trees.items()):
        for imported in sorted(set(imports(name, tree, set(trees)))):
            if reason := why_not(name, imported):
                found.append(f"{name}: {imported} {reason}")
        for line, writes in uses_of_the_environment(tree):
            allowed = name in READS_ENVIRONMENT or (writes and name in WRITES_ENVIRONMENT)
            if not allowed:
                found.append(f"{name}:{line} uses the environment, which service.settings reads")
    for file in all_files(root):
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        packages = {imported.partition(".")[0] for imported in imports(file.stem, tree, set())}
        found += [
            f"{file.relative_to(root)}: {package} is imported nowhere" for package in packages & NOWHERE
        ]
    return found


def test_imports_point_down():
    assert violations(ROOT) == []


def test_the_whole_product_was_read():
    names = set(sources(ROOT))
    assert {"sam_engine", "sam_engine.modeling.tiny_vit", "service.settings", "sam_engine.errors"} <= names
    assert {layer(name) for name in names} - {None} >= {0, 1}
    assert any(file.name == Path(__file__).name for file in all_files(ROOT))


SOUND = {
    "app.py": "import auth_middleware\nfrom service.routes import segment, health\nimport flask\n",
    "auth_middleware.py": "from flask import g\nfrom service.keys import KeyRing\n",
    "gunicorn.conf.py": "import os\nfrom service.settings import load\nos.environ['A'] = '1'\n",
    "sam_engine/__init__.py": "",
    "sam_engine/engine.py": "import torch\nfrom sam_engine.errors import EngineError\n",
    "sam_engine/errors.py": "",
    "service/__init__.py": "",
    "service/settings.py": "import os\nimport pydantic\nvalue = os.environ['A']\nother = os.getenv('B')\n",
    "service/problems.py": "import flask\nfrom . import keys\n",
    "service/telemetry.py": "from flask import g\n",
    "service/keys.py": "from sam_engine.engine import x\nfrom service import settings\nimport sqlalchemy\n",
    "service/store/__init__.py": "from service.store.tables import Row\n",
    "service/store/tables.py": "from .. import settings\n",
    "service/routes/__init__.py": "",
    "service/routes/context.py": "from flask import current_app\n",
    "service/routes/segment.py": "from flask import Blueprint\nfrom service.routes.context import c\n",
    "service/routes/health.py": "from service.keys import x\nfrom sam_engine import errors\n",
    "tests/test_x.py": "import os\nimport app\nos.environ['A']\n",
    ".venv/lib/timm.py": "import torchvision\n",
}


def tree_with(root: Path, changes: dict[str, str]) -> Path:
    for name, text in {**SOUND, **changes}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_a_sound_tree_passes(tmp_path):
    assert violations(tree_with(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sam_engine/engine.py", "import service"),
        ("sam_engine/engine.py", "from service.settings import Settings"),
        ("sam_engine/engine.py", "def f():\n    import app"),
        ("sam_engine/engine.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import app"),
        ("sam_engine/engine.py", "import flask"),
        ("sam_engine/engine.py", "from werkzeug.utils import x"),
        ("sam_engine/engine.py", "import sqlalchemy.orm"),
        ("sam_engine/engine.py", "from pydantic import BaseModel"),
        ("sam_engine/engine.py", "import os\nos.environ['A']"),
        ("sam_engine/engine.py", "import os\nos.environ['A'] = '1'"),
        ("sam_engine/engine.py", "import os as system\nsystem.getenv('A')"),
        ("sam_engine/engine.py", "from os import environ"),
        ("sam_engine/modeling/build.py", "from ...service import keys"),
        ("sam_engine/modeling/__init__.py", "import importlib\nimportlib.import_module('service.keys')"),
        ("service/keys.py", "from service.routes import segment"),
        ("service/keys.py", "from service.routes.context import c"),
        ("service/keys.py", "from .routes.segment import x"),
        ("service/keys.py", "from . import routes"),
        ("service/keys.py", "import auth_middleware"),
        ("service/keys.py", "import app"),
        ("service/keys.py", "import flask"),
        ("service/keys.py", "from flask_limiter import Limiter"),
        ("service/keys.py", "import os\nos.getenv('A')"),
        ("service/store/tables.py", "from flask import g"),
        ("service/store/tables.py", "from ..routes import segment"),
        ("service/routes/segment.py", "from service.routes.health import x"),
        ("service/routes/segment.py", "from service.routes import health"),
        ("service/routes/segment.py", "from . import health"),
        ("service/routes/segment.py", "from .health import x"),
        ("service/routes/segment.py", "import auth_middleware"),
        ("service/routes/segment.py", "import app"),
        ("service/routes/segment.py", "import os\nprint(os.environ)"),
        ("service/routes/context.py", "from service.routes import segment"),
        ("service/telemetry.py", "from service.routes import segment"),
        ("auth_middleware.py", "from service.routes.context import c"),
        ("auth_middleware.py", "import app"),
        ("auth_middleware.py", "import os\nos.environ.get('A')"),
        ("app.py", "import os\nos.environ['A']"),
        ("gunicorn.conf.py", "import os\nprint(os.environ['A'])"),
        ("gunicorn.conf.py", "from os import getenv"),
        ("service/keys.py", "import torchvision.ops"),
        ("training/train.py", "from timm.models import x"),
        ("tests/unit/test_y.py", "def f():\n    import torchvision"),
    ],
)
def test_a_violating_tree_is_caught(file, text, tmp_path):
    found = violations(tree_with(tmp_path, {file: text + "\n"}))
    where = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    assert found
    assert all(message.startswith((where, file)) for message in found)
