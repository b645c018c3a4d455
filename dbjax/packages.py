"""Packages that not everybody has, imported when they are needed."""

import importlib
from typing import Any

from dbjax.errors import SettingError


def optional_package(package: str, purpose: str, install: str) -> Any:
    """Imports a package that is needed for one purpose only.

    Raises:
        SettingError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SettingError(
            f"{purpose} needs the package {package!r}, which cannot be imported; install it with: "
            f"pip install {install}"
        ) from error
