"""The server that the tests of real clients share."""

from collections.abc import Iterator

import pytest

from tests.server.process import running_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that runs the real model, without a path."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(log, "--parallel", "4", "--threads", "1") as url:
        yield url
