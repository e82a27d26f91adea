"""The key manager's calls about the server's own identity (PROTOCOL A1): for operators, not for devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.service.arguments import as_bytes, as_call_id
from qflare.service.covered import covered, told_once
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from qflare.manager.certificates import IdentityReport, RootKey
    from qflare.protocol.identity import Certificate


class IdentityCalls(TenantView):
    """Mixed into `QuantumKeyManager`; the identity is the whole cluster's, whatever the tenant."""

    async def identity(self) -> bytes:
        """Return ``root vk ‖ CERT`` as it is served (A1)."""
        return (await self._engine()).foundation.identity.public.served

    async def server_id(self) -> bytes:
        """Return the id that devices pin, 32 bytes."""
        return (await self._engine()).foundation.identity.server_id

    async def get_identity_report(self) -> IdentityReport:
        """Return the certificate in force and every key of the identity with its state, reason and time."""
        return await (await self._engine()).certificates.report()

    @covered
    async def rotate_identity(
        self, *, reason: str, is_compromised: bool = False, call_id: bytes | None = None
    ) -> Certificate:
        """
        Replace the announce and the log key, with the root in the database; every worker follows by itself.

        The keys before stay good for what is under way, to the second bucket after this one.

        Args:
            reason: Why; stands in the log, 1 to 200 bytes of UTF-8.
            is_compromised: The keys before are known to others: they end at once.
            call_id: 16 random bytes that name this rotation: repeated with them, within a day, nothing is rotated and
                the certificate of the first time is returned.

        Raises:
            KeyStateError: the root is offline: `request_certificate` and `import_certificate` instead.
            IllegalTransitionError: another worker changed the identity meanwhile.
        """
        change = as_call_id(call_id)
        certificates = (await self._engine()).certificates
        return await certificates.rotate(reason=reason, is_compromised=is_compromised, call_id=change)

    @covered
    async def request_certificate(
        self, *, reason: str, is_compromised: bool = False, call_id: bytes | None = None
    ) -> bytes:
        """
        Make the next announce and log key, pre-active, and return what the offline root has to sign for them.

        *call_id* is 16 random bytes: repeated with them, within a day, it returns a request for the keys of the first
        time, as long as they wait.

        Raises:
            AlreadyExistsError: the keys that were made under *call_id* wait no more.
            IllegalTransitionError: another worker changed the identity meanwhile.
        """
        change = as_call_id(call_id)
        certificates = (await self._engine()).certificates
        return await certificates.request(reason=reason, is_compromised=is_compromised, call_id=change)

    @covered
    async def import_certificate(self, certificate: bytes) -> Certificate:
        """
        Bring CERT into force, which the offline root signed for the keys of the latest `request_certificate`.

        The certificate that is in force already changes nothing and is returned.

        Raises:
            ServerIdentityError: this server's root did not sign these bytes.
            KeyNotFoundError: no keys wait for it.
            KeyStateError: its serial is not above the one in force.
            UsageError: it is for other keys, buckets or another log than this server's.
        """
        encoded = as_bytes(certificate, name="certificate")
        return await (await self._engine()).certificates.install(encoded)

    @told_once(lambda root: root.stored.wipe(), remedy="export it again")
    async def export_root(self) -> RootKey:
        """
        Return a copy of the root's signing key; the log says so first. The caller wipes it.

        Raises:
            KeyStateError: it was removed from the database before.
        """
        engine = await self._engine()
        await engine.foundation.log.require_signer()
        return await engine.certificates.export_root()

    @covered
    async def remove_root(self) -> None:
        """Remove the root's signing key from the database: it is kept offline from now on."""
        await (await self._engine()).certificates.remove_root()
