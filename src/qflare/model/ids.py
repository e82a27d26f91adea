"""Names of things, as types of their own so that they cannot be mixed up."""

from __future__ import annotations

from typing import Final, NewType

TenantId = NewType("TenantId", bytes)
"""16 bytes, random; the organisation a device belongs to."""

DeviceId = NewType("DeviceId", str)
"""1 to 255 bytes of UTF-8, exactly as given."""

DeviceRef = NewType("DeviceRef", bytes)
"""32 bytes: `H("device", tenant_id, device_id)[:32]` (PROTOCOL H2)."""

SessionId = NewType("SessionId", bytes)
"""16 bytes, random, made by the server (`sid`)."""

StreamId = NewType("StreamId", bytes)
"""16 bytes, random, made by the sender of a record."""

RequestId = NewType("RequestId", bytes)
"""16 bytes: the stream id of a request, by which its reply names it (PROTOCOL R6)."""

TokenId = NewType("TokenId", bytes)
"""16 bytes, random; names an enrolment token."""

MappingId = NewType("MappingId", bytes)
"""16 bytes, random; names a mapping (PROTOCOL K)."""

CallId = NewType("CallId", bytes)
"""16 bytes, random, made by whoever asks; names one change, so that it is carried out once."""

IncidentId = NewType("IncidentId", bytes)
"""16 bytes, random; names an incident of the detector."""

ResponseId = NewType("ResponseId", bytes)
"""16 bytes, random, made by whoever asks; names a response to an incident, so that it is carried out once."""

WorkerId = NewType("WorkerId", bytes)
"""16 bytes, random, made by a worker at its start; names its part of what all workers count."""

ID_BYTES: Final = 16
REF_BYTES: Final = 32
NAME_BYTES_MAX: Final = 255

DEFAULT_TENANT: Final = TenantId(bytes(ID_BYTES))
"""The tenant that is used where none is given."""
