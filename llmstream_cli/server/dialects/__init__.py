"""Wire formats, one a file: what may be asked, how answers are written, the routes.

To add one is to add a file, with a `DIALECT` or with routes of another file's. All are served.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from llmstream_cli.errors import LLMStreamError
from llmstream_cli.server.http.failure import error_body

if TYPE_CHECKING:
    from llmstream_cli.server.dialects.common import Dialect


@cache
def all_dialects() -> "tuple[Dialect, ...]":
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return tuple(module.DIALECT for module in modules if hasattr(module, "DIALECT"))


def error_shape(path: str) -> Callable[[LLMStreamError], dict[str, Any]]:
    """Return what writes the errors of a route in the words of its API."""
    for dialect in all_dialects():
        if dialect.prefix and path.startswith(dialect.prefix):
            return dialect.error_body
    return error_body
