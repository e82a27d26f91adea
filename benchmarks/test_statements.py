"""Statements of a handshake, by pg_stat_statements: time inside PostgreSQL, from a server of the system's packages."""

from __future__ import annotations

from functools import partial

import pytest
from counting import find_binaries, open_counting
from handshaking import handshakes
from server import Server

BATCH = 256
MOST = 8
"""Statements that are shown: the others together are a few per cent."""
FOUND = """
    SELECT s.query, s.calls, s.total_exec_time, s.wal_bytes::bigint AS wal_bytes
      FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid
     WHERE s.query NOT LIKE '%pg_stat_statements%'
     ORDER BY s.total_exec_time DESC LIMIT $1
"""


@pytest.fixture(scope="module")
def counting_server():
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL with pg_stat_statements is installed (Debian: apt-get install postgresql)")
    opened = Server(devices=BATCH * 4, opening=partial(open_counting, binaries=binaries))
    yield opened
    opened.close()


@pytest.mark.parametrize("form", ["hello", "offer"])
def test_statements(bench, counting_server, form):
    """Few statements a batch, and most of their time in the one that commits the sessions."""
    server, rounds = counting_server, 3 if bench.is_quick else 20
    handshakes(server, form, BATCH)
    server.run(server.admin.execute("SELECT pg_stat_statements_reset()"))
    bench.once(lambda: [handshakes(server, form, BATCH) for _ in range(rounds)])
    done = rounds * BATCH
    for row in server.run(server.admin.fetch(FOUND, MOST)):
        bench.figure(
            f"{form} form, batches of {BATCH}: {_name(row['query'])}",
            [row["total_exec_time"] * 1e3 / done],
            "µs a handshake",
            note=f"{row['calls'] / rounds:.2g} calls a batch, {row['wal_bytes'] / done:,.0f} bytes of WAL a handshake",
        )


def _name(query: str) -> str:
    """Return what a statement says of itself in its first comment, or its first words."""
    return query.strip().splitlines()[0].removeprefix("-- ").partition(". ")[0].rstrip(".;(")[:90].replace("|", "/")
