"""What workers of version 33 and those before, which know no headings, ask of the database."""

from pathlib import Path

from qflare.model.ids import DEFAULT_TENANT
from qflare.model.session import ClaimOutcome, ClaimResult
from qflare.stores.postgres.columns import as_time, as_uuid, as_uuids, hashed_append
from qflare.stores.postgres.definition import parse_queries
from store_records import BUCKET, NOW_S

RELEASED = Path(__file__).parent / "stores" / "released" / "0001_queries.sql"


async def confirm_before(
    admin, claims, function="qflare.confirm_sessions", *, tenant_id=DEFAULT_TENANT, now_s=NOW_S, live_bucket=BUCKET - 1
):
    """Confirm as workers of version 33 and those before do."""
    queries = parse_queries(RELEASED.read_text(), origin=RELEASED.name)
    (statement,) = (query.text for query in queries if query.name == "confirm_sessions")
    return await admin.fetchrow(
        statement.replace("qflare.confirm_sessions", function),
        as_uuid(tenant_id),
        [its.form for its in claims],
        [its.ticket_bucket for its in claims],
        as_uuids([its.sid for its in claims]),
        [its.ref for its in claims],
        [its.key_version for its in claims],
        [its.start for its in claims],
        [its.lifetime for its in claims],
        [its.policy for its in claims],
        [its.th3_hash for its in claims],
        [its.leaf_hash for its in claims],
        [its.leaf_data for its in claims],
        [its.state_bucket for its in claims],
        [its.sealed_chain_key for its in claims],
        [its.proves_kem for its in claims],
        as_time(now_s),
        live_bucket,
    )


def confirming_before(admin):
    """Return `confirm_sessions` of such a worker's store."""

    async def confirm_sessions(tenant_id, claims, *, now_s, live_bucket, heading):  # noqa: ARG001 - it knows none
        row = await confirm_before(admin, claims, tenant_id=tenant_id, now_s=now_s, live_bucket=live_bucket)
        outcomes = tuple(
            ClaimOutcome(ClaimResult(result), index)
            for result, index in zip(row["results"], row["log_indexes"], strict=True)
        )
        made = [its.leaf_hash for its, got in zip(claims, outcomes, strict=True) if got.result is ClaimResult.CREATED]
        return outcomes, hashed_append(row, made)

    return confirm_sessions
