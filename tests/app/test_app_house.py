"""The app's place in the house: who imports it, and what it imports."""

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import normjax

HOUSE = Path(normjax.__file__).parent


def imports(source: Path):
    """Modules that a file imports, each with whether it does so within a function."""
    tree = ast.parse(source.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", id(node) in inside


def test_nothing_imports_the_app_but_the_command_when_it_is_called():
    found = {
        (str(source.relative_to(HOUSE)), inside)
        for source in HOUSE.rglob("*.py")
        if "app" not in source.relative_to(HOUSE).parts
        for name, inside in imports(source)
        if name.startswith("normjax.app")
    }
    assert found == {("cli.py", True)}


def test_the_app_imports_no_trainer_and_no_room_above_it():
    for source in (HOUSE / "app").rglob("*.py"):
        for name, _inside in imports(source):
            above = ("normjax.training.loop", "normjax.pruning.run", "normjax.studies", "normjax.cli")
            assert not name.startswith(above), source


def in_a_server(code: str) -> subprocess.CompletedProcess:
    """Runs code in a process that has started as a server does."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "app_settings"}
    words = [sys.executable, "-c", f"import sys, django; django.setup()\n{code}"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)


def test_a_server_that_only_starts_loads_no_network():
    # What computes is in other processes; only the check of a config knows the layers.
    heavy = ("jax", "flax", "orbax", "normjax.functional")
    done = in_a_server(f"print(*[name for name in {heavy} if name in sys.modules])")
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


def test_files_of_others_are_those_that_were_taken():
    folder = HOUSE / "app" / "static" / "app" / "uplot"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_migrations_are_those_of_the_models():
    done = in_a_server(
        "from django.core.management import call_command as c; c('makemigrations', check=True, dry_run=True)"
    )
    assert done.returncode == 0, done.stdout
