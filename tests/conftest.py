"""What the whole suite shares."""

import vector_sets
from postgres_database import (  # noqa: F401 - fixtures
    admin,
    database_dsn,
    empty_database_dsn,
    postgres_cluster,
    postgres_template,
    store,
)


def pytest_terminal_summary(terminalreporter):
    """Name the official vector sets that ran, and those that could not."""
    lines = vector_sets.summary_lines()
    if lines:
        terminalreporter.section("vector sets")
        for line in lines:
            terminalreporter.write_line(line)
