"""The tree at the top of errors.py is the one in the code."""

import inspect
import re

from llmstream_cli import errors


def test_the_drawn_tree_has_every_error_with_its_status_and_exit_code() -> None:
    drawn = {
        name: (int(status), int(code))
        for name, status, code in re.findall(
            r"(\w+Error) +(\d{3}) +(\d+)", inspect.getdoc(errors) or ""
        )
    }
    defined = {
        name: (error.status, error.exit_code)
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.LLMStreamError)
    }
    del defined["LLMStreamError"]
    assert drawn == defined
