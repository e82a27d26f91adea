"""What the whole suite shares."""

import vector_sets


def pytest_terminal_summary(terminalreporter):
    """Name the official vector sets that ran, and those that could not."""
    lines = vector_sets.summary_lines()
    if lines:
        terminalreporter.section("vector sets")
        for line in lines:
            terminalreporter.write_line(line)
