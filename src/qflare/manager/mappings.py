"""
The server's side of mappings (PROTOCOL K): keys that follow from a device's KEM key and one signed descriptor.

Needs no database: what a mapping holds rests sealed under a key derived from the server's master key, in this process.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from qflare.clock import Clock, SystemClock, utc
from qflare.errors import (
    AlreadyExistsError,
    AuthenticationError,
    KeyCheckError,
    KeyNotFoundError,
    KeyStateError,
    LengthError,
    OverloadedError,
    QflareError,
    UsageError,
)
from qflare.manager.kept_mappings import KeptMappings, restore_kept
from qflare.manager.key_mapping import KeptMapping, KeyMapping, ServerKeypair
from qflare.manager.mapper_state import MapperState, open_state, seal_state
from qflare.manager.mapping_signers import MappingSigners
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES, DeviceId, MappingId, TenantId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.kdf import BUCKET_WIDTH_S, bucket_of
from qflare.protocol.descriptor import read_descriptor
from qflare.protocol.identity import device_ref
from qflare.protocol.mapping import Mapping, MappingSigner, NewMapping, create_mappings
from qflare.protocol.mapping_state import MASTER_KEY_BYTES_MIN, restore_mapping, seal_mapping
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

VALID_S_DEFAULT: Final = 30 * 86_400
MAPPINGS_MAX: Final = 1_000_000


CLEANED_MAX: Final = 10_000
"""Mappings that one clean-up removes at most: it works on the loop, some milliseconds."""


class SecureKeyMapper:
    """
    Makes mappings and derives their keys; `DeviceKeyMapping` is the device's side.

    Args:
        server_master_key: 32 bytes or more; copied, and the copy wiped by `close`. It seals what rests here and enters
            nothing that a device must repeat.
        tenant: Whose devices; stands in each ref.
        width_s: Seconds a bucket.
        valid_s: Life of a mapping; `cleanup_expired_mappings` removes older ones.
        clock: What tells the time.

    Raises:
        LengthError: the master key is too short.

    Source: PROTOCOL K1-K4, also for what a mapping does not give: it is not forward secret, sessions are.
    """

    def __init__(
        self,
        server_master_key: SecretBytes | bytes,
        *,
        tenant: TenantId = DEFAULT_TENANT,
        width_s: int = BUCKET_WIDTH_S,
        valid_s: int = VALID_S_DEFAULT,
        clock: Clock | None = None,
    ) -> None:
        if len(server_master_key) < MASTER_KEY_BYTES_MIN:
            name, expected = "server_master_key", f"at least {MASTER_KEY_BYTES_MIN}"
            raise LengthError(name, expected=expected, actual=len(server_master_key))
        if len(tenant) != ID_BYTES:
            raise LengthError("tenant", expected=ID_BYTES, actual=len(tenant))
        if valid_s < 1:
            raise UsageError(f"valid_s must be 1 or more seconds, got {valid_s}")
        self._master_key = SecretBytes.copy_of(server_master_key)
        self._tenant = tenant
        self._width_s = width_s
        self._valid_s = valid_s
        self._clock = clock or SystemClock()
        self._signers = MappingSigners()
        self._kept = KeptMappings(self._clock)
        self._exports = 0
        self._is_closed = False

    async def generate_server_keypair(self) -> ServerKeypair:
        """
        Make the pair that signs descriptors.

        Raises:
            EntropyError: the random source failed.
        """
        self._require_open()
        signer = await asyncio.to_thread(MappingSigner.generate)
        self._signers.adopt(signer)
        return ServerKeypair(signer.verification_key, SecretBytes.copy_of(signer.signing_key))

    async def create_key_mapping(
        self,
        device_id: str,
        client_public_key: bytes,
        server_private_key: ServerKeypair | SecretBytes | bytes,
    ) -> KeyMapping:
        """
        Make a mapping with a device (K1).

        Args:
            device_id: The device's name, 1 to 255 bytes of UTF-8.
            client_public_key: Its ML-KEM-1024 encapsulation key, 1568 bytes.
            server_private_key: From `generate_server_keypair`: the pair or its private half; or a 32-byte seed.

        Raises:
            KeyCheckError: the device's key is none (FIPS 203, section 7.2).
            UsageError: the server key cannot sign, such as a KEM private key; the message says what to pass.
        """
        result = (await self.create_key_mappings_many([(device_id, client_public_key)], server_private_key))[0]
        if isinstance(result, QflareError):
            raise result
        return result

    async def create_key_mappings_many(
        self, devices: Sequence[tuple[str, bytes]], server_private_key: ServerKeypair | SecretBytes | bytes
    ) -> tuple[KeyMapping | QflareError, ...]:
        """Make a mapping with each (device_id, client_public_key), all in one batch; one result or error each."""
        self._require_open()
        if len(self._kept) + len(devices) > MAPPINGS_MAX:
            raise OverloadedError(f"a mapper keeps at most {MAPPINGS_MAX} mappings: call cleanup_expired_mappings()")
        for _, key in devices:
            _require_encapsulation_key(key)
        refs = [device_ref(self._tenant, device_id) for device_id, _ in devices]
        signer = self._signers.find(server_private_key)
        made = await asyncio.to_thread(
            partial(
                create_mappings,
                signer,
                [bytes(key) for _, key in devices],
                refs=refs,
                bucket=self._bucket(),
                width_s=self._width_s,
            )
        )
        return tuple(
            self._keep(new, DeviceId(device_id), bytes(key), signer.verification_key)
            if isinstance(new, NewMapping)
            else _refused(new, device_id)
            for new, (device_id, key) in zip(made, devices, strict=True)
        )

    async def derive_communication_key(
        self, mapping_id: MappingId, purpose: str, *, bucket: int | None = None
    ) -> SecretBytes:
        """
        Derive the key of *purpose* in *bucket* (the present one if not given), 64 bytes; the caller wipes it (K2).

        Raises:
            KeyNotFoundError: no such mapping here.
            StaleBucketError: the bucket is before the mapping's first, or too far ahead.
            UsageError: the purpose cannot be used.
        """
        kept = self._get(mapping_id)
        with self._restore(kept) as mapping:
            return mapping.derive_key(purpose, bucket=self._bucket() if bucket is None else bucket)

    async def derive_communication_keys_many(
        self, wanted: Sequence[tuple[MappingId, str]], *, bucket: int | None = None
    ) -> tuple[SecretBytes | QflareError, ...]:
        """Derive the key of each (mapping_id, purpose) in *bucket*; one key or error each. The caller wipes them."""
        self._require_open()
        at = self._bucket() if bucket is None else bucket
        return await asyncio.to_thread(
            lambda: tuple(self._derived(mapping_id, purpose, at) for mapping_id, purpose in wanted)
        )

    async def rotate_mapping_keys(
        self, mapping_id: MappingId, *, server_private_key: ServerKeypair | SecretBytes | bytes | None = None
    ) -> KeyMapping:
        """
        Make the next generation of a mapping, with a fresh encapsulation and a new descriptor (K3).

        Args:
            mapping_id: Of the mapping, which keeps its id.
            server_private_key: Another signing key; the one it was made with if not given.

        Raises:
            KeyNotFoundError: no such mapping here.
            AlreadyExistsError: it was rotated or removed meanwhile.
        """
        result = (await self.rotate_mapping_keys_many([mapping_id], server_private_key=server_private_key))[0]
        if isinstance(result, QflareError):
            raise result
        return result

    async def rotate_mapping_keys_many(
        self,
        mapping_ids: Sequence[MappingId],
        *,
        server_private_key: ServerKeypair | SecretBytes | bytes | None = None,
    ) -> tuple[KeyMapping | QflareError, ...]:
        """Make the next generation of many mappings, each once; one result or error each."""
        self._require_open()
        given = None if server_private_key is None else self._signers.find(server_private_key)
        results: dict[int, KeyMapping | QflareError] = {}
        groups: dict[bytes, list[int]] = {}
        seen: set[MappingId] = set()
        for place, mapping_id in enumerate(mapping_ids):
            try:
                kept = self._get(mapping_id)
            except KeyNotFoundError as failure:
                results[place] = failure
                continue
            if mapping_id in seen:
                results[place] = UsageError(f"mapping {mapping_id.hex()} stands twice in the batch")
                continue
            seen.add(mapping_id)
            key = kept.public.server_public_key if given is None else given.verification_key
            groups.setdefault(key, []).append(place)
        for key, places in groups.items():
            results |= await self._rotate_group(self._signers[key], {place: mapping_ids[place] for place in places})
        return tuple(results[place] for place in range(len(mapping_ids)))

    async def _rotate_group(
        self, signer: MappingSigner, places: dict[int, MappingId]
    ) -> dict[int, KeyMapping | QflareError]:
        kept = {place: self._get(mapping_id) for place, mapping_id in places.items()}
        held: list[Mapping] = []
        try:
            for each in kept.values():
                held.append(self._restore(each))  # noqa: PERF401 - what was restored is wiped if one fails
            made = await asyncio.to_thread(
                partial(
                    create_mappings,
                    signer,
                    [each.client_public_key for each in kept.values()],
                    refs=[each.public.ref for each in kept.values()],
                    bucket=self._bucket(),
                    width_s=self._width_s,
                    held=held,
                )
            )
        finally:
            for mapping in held:
                mapping.wipe()
        results: dict[int, KeyMapping | QflareError] = {}
        for (place, each), new in zip(kept.items(), made, strict=True):
            if isinstance(new, Refusal):
                results[place] = _refused(new, each.public.device_id)
            elif self._is_closed or not self._kept.has(each):
                new.mapping.wipe()
                results[place] = AlreadyExistsError("the mapping was rotated or removed meanwhile: look at it again")
            else:
                results[place] = self._keep(new, each.public.device_id, each.client_public_key, signer.verification_key)
        return results

    async def verify_key_mapping(self, mapping_id: MappingId, descriptor: bytes | None = None) -> KeyMapping:
        """
        Check that a mapping's sealed state opens and that its descriptor is signed, and return it.

        Args:
            mapping_id: Of the mapping.
            descriptor: As the device has it, to be compared; the one kept here if not given.

        Raises:
            AuthenticationError: one of them does not hold.
            KeyNotFoundError: no such mapping here.
        """
        kept = self._get(mapping_id)
        with self._restore(kept):
            pass
        shown = kept.public.descriptor if descriptor is None else descriptor
        read_descriptor(shown, server_key=kept.public.server_public_key)
        if shown != kept.public.descriptor:
            raise AuthenticationError
        return kept.public

    async def verify_key_mappings_many(self, mapping_ids: Sequence[MappingId]) -> tuple[KeyMapping | QflareError, ...]:
        """Check many mappings as `verify_key_mapping` does; one mapping or error each."""
        results: list[KeyMapping | QflareError] = []
        for mapping_id in mapping_ids:
            try:
                results.append(await self.verify_key_mapping(mapping_id))
            except (AuthenticationError, KeyNotFoundError) as failure:
                results.append(failure)
        return tuple(results)

    async def cleanup_expired_mappings(self, *, limit: int = CLEANED_MAX) -> int:
        """
        Remove mappings whose life is over, at most *limit*; return how many. Fewer than *limit*: none is left.

        Raises:
            UsageError: *limit* is not 1 or more.
        """
        self._require_open()
        if limit < 1:
            raise UsageError(f"limit must be 1 or more, got {limit}")
        return self._kept.drop_expired(limit=limit)

    # --- keeping it across restarts ----------------------------------------------------------------

    @property
    def exports(self) -> int:
        """Number of the latest export that this mapper made or was restored from; keep it apart from the state."""
        return self._exports

    async def export_state(self) -> bytes:
        """
        Return every mapping and signing key, sealed under a key of `server_master_key`; what has expired stays out.

        Its number is `exports` afterwards: whoever keeps it elsewhere can tell an older state at `restore_state`.

        Raises:
            OverloadedError: more than 100,000 mappings.
        """
        self._require_open()
        mappings = self._kept.export()
        number = self._exports + 1
        exported = await asyncio.to_thread(
            partial(
                seal_state,
                self._master_key,
                number=number,
                tenant=self._tenant,
                width_s=self._width_s,
                signers=list(self._signers.values()),
                mappings=mappings,
            )
        )
        self._exports = max(self._exports, number)
        return exported

    async def restore_state(self, exported: bytes, *, at_least: int = 0) -> int:
        """
        Take over what `export_state` returned, in a mapper that is still empty; return how many mappings live.

        Args:
            exported: The sealed state.
            at_least: The number of the latest export that is known; an older state is refused. 0 asks for none: then
                only devices tell, which refuse a generation below the one that they hold.

        Raises:
            AuthenticationError: it was sealed under another master key, or is altered or cut.
            DecodeError: it is no state of a mapper.
            KeyStateError: this mapper has mappings already, or the state is older than *at_least*.
            UsageError: it is of another tenant or width.
        """
        self._require_unused()
        state = await asyncio.to_thread(partial(open_state, self._master_key, bytes(exported)))
        try:
            self._require_fits(state, at_least)
            kept = await asyncio.to_thread(lambda: [restore_kept(each) for each in state.mappings])
            self._require_unused()
        except BaseException:
            state.wipe()
            raise
        self._signers.replace(state.signers)
        self._kept.replace(kept)
        self._exports = state.number
        return len(self._kept)

    def close(self) -> None:
        """Destroy the master key's copy, the signing keys and every mapping."""
        self._is_closed = True
        self._master_key.wipe()
        self._signers.wipe()
        self._kept.clear()

    def __enter__(self) -> Self:
        """Lend the mapper to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close at the end of the block."""
        self.close()

    async def __aenter__(self) -> Self:
        """Lend the mapper to a block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close at the end of the block."""
        self.close()

    def __repr__(self) -> str:
        """Say how many mappings there are, and nothing of the keys."""
        return f"<SecureKeyMapper of {len(self._kept)} mappings>"

    # --- inside -----------------------------------------------------------------------------------

    def _keep(
        self, new: NewMapping, device_id: DeviceId, client_public_key: bytes, server_public_key: bytes
    ) -> KeyMapping:
        expires_s = self._clock.now_s() + self._valid_s
        with new.mapping as mapping:
            public = KeyMapping(
                mapping_id=mapping.mapping_id,
                device_id=device_id,
                ref=mapping.ref,
                generation=mapping.generation,
                bucket=mapping.first_bucket,
                width_s=mapping.width_s,
                descriptor=new.descriptor,
                server_public_key=server_public_key,
                expires_at=utc(expires_s),
            )
            sealed = seal_mapping(mapping, self._master_key)
        self._kept.put(KeptMapping(public, client_public_key, sealed, expires_s))
        return public

    def _require_unused(self) -> None:
        self._require_open()
        if self._kept or self._signers:
            raise KeyStateError("this SecureKeyMapper is in use already: restore into a new one")

    def _require_fits(self, state: MapperState, at_least: int) -> None:
        if state.number < at_least:
            raise KeyStateError(
                f"the state is of export {state.number}, export {at_least} was made since: it is rolled back, and "
                "mappings in it may be of generations that devices have left; restore the latest one"
            )
        if (state.tenant, state.width_s) != (self._tenant, self._width_s):
            raise UsageError(
                f"the state is of tenant {state.tenant.hex()} with buckets of {state.width_s} s: make the mapper with "
                "these"
            )

    def _derived(self, mapping_id: MappingId, purpose: str, bucket: int) -> SecretBytes | QflareError:
        try:
            with self._restore(self._get(mapping_id)) as mapping:
                return mapping.derive_key(purpose, bucket=bucket)
        except QflareError as failure:
            return failure

    def _restore(self, kept: KeptMapping) -> Mapping:
        public = kept.public
        return restore_mapping(
            kept.sealed, self._master_key, mapping_id=public.mapping_id, generation=public.generation
        )

    def _get(self, mapping_id: MappingId) -> KeptMapping:
        self._require_open()
        return self._kept.get(mapping_id)

    def _bucket(self) -> int:
        return bucket_of(self._clock.now_s(), self._width_s)

    def _require_open(self) -> None:
        if self._is_closed:
            raise KeyStateError("this SecureKeyMapper is closed: make a new one")


def _require_encapsulation_key(key: bytes) -> None:
    if not isinstance(key, bytes | bytearray | memoryview):
        raise UsageError(f"client_public_key must be bytes, got {type(key).__name__}")
    if len(key) != kem.EK_BYTES:
        raise LengthError("client_public_key", expected=kem.EK_BYTES, actual=len(key))


def _refused(reason: Refusal, device_id: str) -> QflareError:
    if reason is Refusal.ENCAPSULATION_KEY:
        return KeyCheckError(f"the public key of {device_id!r} is no ML-KEM-1024 key (FIPS 203, section 7.2)")
    return KeyStateError(f"no mapping with {device_id!r} was made: {reason.value}")
