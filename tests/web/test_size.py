"""The page stays small: readable files, together under 200 kB."""

from tests.web.node import STATIC

MAX_BYTES = 200_000


def test_the_page_is_under_200_kilobytes() -> None:
    files = [path for path in STATIC.iterdir() if not path.name.startswith("docs.")]
    assert {path.suffix for path in files} == {".html", ".css", ".js", ".svg"}
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    for path in files:  # and readable: not by putting all on a few lines
        assert path.suffix == ".svg" or max(map(len, path.read_text().splitlines())) <= 140, (
            path.name
        )
