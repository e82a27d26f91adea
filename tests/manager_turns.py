"""Sessions that are to outlive turns, and what stands of them in the database."""

from manager_world import Edge
from qflare.model.ids import SessionId


async def sessions_of(manager, count, **how):
    """Agree on *count* sessions, four a device; return (edge, session) pairs."""
    found = []
    while len(found) < count:
        edge = await Edge.provision(manager)
        found += [(edge, await edge.connect(manager, **how)) for _ in range(min(4, count - len(found)))]
    return found


async def all_carry(manager, sessions):
    """Whether each session takes a record of the server's bucket."""
    bucket = await manager.current_bucket()
    for edge, session in sessions:
        with await manager.open_record(edge.seal(session.sid, b"x", bucket=bucket)) as opened:
            assert opened.plaintext.equals(b"x")


async def stand(admin, bucket):
    """Return how often each chain key of *bucket* stands in the database, as rows and on pages."""
    rows = await admin.fetch(
        "SELECT sid, epoch, count(*) AS times FROM ("
        " SELECT sid, epoch::bigint FROM qflare.session_state WHERE bucket = $1"
        " UNION ALL SELECT w.sid, w.epoch FROM qflare.session_page AS p, unnest(p.sids, p.epochs) AS w (sid, epoch)"
        " WHERE p.bucket = $1) AS c GROUP BY sid, epoch",
        bucket,
    )
    return {(SessionId(row["sid"].bytes), row["epoch"]): row["times"] for row in rows}
