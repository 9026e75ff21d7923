"""What fuzzing needs and nothing else does; atheris has no types."""

import importlib
from types import ModuleType


def needed(name: str) -> ModuleType:
    """Return the package, or end the process: a fuzz run that did not take place is a failure."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        text = f"tests.fuzz: the package {name} is missing: pip install '.[fuzz]'"
        raise SystemExit(text) from None
