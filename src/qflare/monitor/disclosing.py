"""Making a disclosure: chosen fields of an entry that was just proven, the others as their commitments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import EvidenceError, KeyStateError, UsageError
from qflare.model.event import FIELDS_ENTRY
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.disclosure import Disclosure, ShownField
from qflare.protocol.entry import DATA_FIELD, DEVICE_FIELD, TENANT_FIELD, commit_field, field_salt, open_stored

if TYPE_CHECKING:
    from collections.abc import Collection

    from qflare.monitor.proof import EventProof
    from qflare.protocol.entry import EntryVault
    from qflare.protocol.identity import ServerIdentity


def disclose(
    proof: EventProof,
    *,
    vault: EntryVault,
    identity: ServerIdentity,
    names: Collection[str],
    shows_device: bool,
    shows_tenant: bool,
) -> Disclosure:
    """
    Return the disclosure of an entry.

    Args:
        proof: Of the entry, from `prove_event`.
        vault: Opens what is sealed.
        identity: Whose log key signed the proof's head.
        names: Fields of the data that are shown.
        shows_device: Whether the device is shown, or that there is none.
        shows_tenant: Whether the tenant is shown.

    Raises:
        EvidenceError: the entry's row stores nothing that opens.
        KeyStateError: the entry is erased.
        UsageError: the entry has no committed fields, or not one of *names*.
    """
    entry = proof.entry
    if entry.entry_type != FIELDS_ENTRY or entry.stored is None:
        raise UsageError(
            f"entry {entry.index} is of type {entry.entry_type}, whose fields cannot be shown one by one: only the "
            "whole entry can"
        )
    if entry.is_erased:
        raise KeyStateError(f"entry {entry.index} was erased: what it said is gone")
    opening = open_stored(entry.tenant_id, entry.stored, key=entry.sealed_key, vault=vault)
    if opening is None:
        raise EvidenceError(f"entry {entry.index} does not open", index=entry.index)
    fields = opening.fields(entry.tenant_id)
    known = {field.name for field in fields if field.kind == DATA_FIELD}
    if unknown := sorted(set(names) - known):
        named = ", ".join(sorted(known)) or "none"
        raise UsageError(f"entry {entry.index} has no field {unknown[0]!r}; it has: {named}")
    is_shown = {TENANT_FIELD: shows_tenant, DEVICE_FIELD: shows_device}
    chosen: list[ShownField | bytes] = []
    for field in fields:
        salt = field_salt(opening.salt, field)
        is_wanted = field.name in names if field.kind == DATA_FIELD else is_shown[field.kind]
        chosen.append(ShownField(field, salt) if is_wanted else commit_field(field, salt))
    certificate = identity.certificate
    return Disclosure(
        index=entry.index,
        leaf_data=entry.leaf_data,
        fields=tuple(chosen),
        path=proof.path,
        note=encode_note(certificate.log_origin, certificate.log_key, proof.checkpoint),
        identity=identity.served,
    )
