"""A server and devices without sockets, clock or database: what the tests of both forms play with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qflare.model.ids import DeviceRef, TenantId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.random import random_bytes
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol.announcement import Announcement, verify_announcement
from qflare.protocol.bucket import BucketKeys, make_bucket_keys
from qflare.protocol.checkpoint import sign_checkpoint
from qflare.protocol.confirm import Confirmation, confirm_hellos, encode_confirmation
from qflare.protocol.credential import DeviceCredential
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.hello import HelloClaim, answer_hellos, open_hellos
from qflare.protocol.identity import ServerIdentity, decode_identity, device_ref, issue_certificate
from qflare.protocol.log import Frontier, inclusion_paths
from qflare.protocol.offer import AnswerClaim, Offer, OfferTarget, confirm_answers, make_offers, open_answers
from qflare.protocol.receipt import encode_receipt
from qflare.protocol.seen import SeenHellos
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH_S = 300
BUCKET = 5_900_000
NOW_S = BUCKET * WIDTH_S + 17
ORIGIN = "log.example/qflare"
TENANT = TenantId(bytes(range(16)))
OTHER_TENANT = TenantId(bytes(range(1, 17)))


@dataclass
class Server:
    """The server's secrets, its live buckets, its roster and its log."""

    identity: ServerIdentity
    announce_sk: SecretBytes
    log_sk: SecretBytes
    keyring: dict[int, BucketKeys] = field(default_factory=dict)
    roster: dict[tuple[bytes, bytes], DeviceCredential] = field(default_factory=dict)
    seen: SeenHellos = field(default_factory=SeenHellos)
    frontier: Frontier = field(default_factory=lambda: Frontier(size=0, hashes=()))
    bucket: int = BUCKET
    now_s: int = NOW_S

    @property
    def server_id(self) -> bytes:
        return self.identity.server_id

    def publish(self, bucket: int) -> None:
        """Make the keys of a bucket."""
        self.keyring[bucket] = make_bucket_keys(
            self.announce_sk, server_id=self.server_id, width_s=WIDTH_S, bucket=bucket
        ).keys

    def announcement(self, bucket: int | None = None) -> Announcement:
        """Return a bucket's announcement as a device takes it."""
        encoded = self.keyring[self.bucket if bucket is None else bucket].announcement.encoded
        return verify_announcement(encoded, self.identity.certificate)

    def find(self, claim: HelloClaim | AnswerClaim | Refusal) -> DeviceCredential | None:
        return None if isinstance(claim, Refusal) else self.roster.get((claim.tenant_id, claim.ref))

    def answer_hellos(self, m1s: Sequence[bytes], *, seen: SeenHellos | None = None) -> list[bytes | Refusal]:
        """H3 to H5."""
        memory = self.seen if seen is None else seen
        with open_hellos(m1s, self.keyring, server_bucket=self.bucket, seen=memory) as opened:
            devices = [self.find(claim) for claim in opened.claims]
            return answer_hellos(
                opened, devices, self.keyring, server_bucket=self.bucket, now_s=self.now_s, lifetime=12
            )

    def answer_hello(self, m1: bytes) -> bytes:
        (m2,) = self.answer_hellos([m1])
        assert not isinstance(m2, Refusal), m2
        return m2

    def confirm_hellos(self, m3s: Sequence[bytes]) -> list[Confirmation | Refusal]:
        """H8 without its transaction."""
        return confirm_hellos(m3s, self.keyring, now_s=self.now_s, server_id=self.server_id)

    def make_offers(self, devices: Sequence[DeviceIdentity]) -> list[Offer | Refusal]:
        """O1."""
        targets = [
            OfferTarget(TenantId(its.tenant_id), DeviceRef(its.ref), its.key_version, its.encapsulation_key)
            for its in devices
        ]
        return make_offers(targets, self.keyring[self.bucket], lifetime=12)

    def make_offer(self, device: DeviceIdentity) -> bytes:
        (offer,) = self.make_offers([device])
        assert isinstance(offer, Offer)
        return offer.message

    def confirm_answers(self, answers: Sequence[bytes]) -> list[Confirmation | Refusal]:
        """O3."""
        with open_answers(answers, self.keyring, now_s=self.now_s) as opened:
            rows = [self.find(claim) for claim in opened.claims]
            return confirm_answers(opened, [None if row is None else row.psk for row in rows], server_id=self.server_id)

    def write_m4s(self, confirmations: Sequence[Confirmation]) -> list[bytes]:
        """Append the leaves to the log and write the receipts (H9)."""
        hashes = [confirmation.leaf_hash for confirmation in confirmations]
        first = self.frontier.size
        paths = inclusion_paths(self.frontier.hashes, first, hashes)
        self.frontier, _ = self.frontier.append(hashes)
        checkpoint = sign_checkpoint(
            self.log_sk,
            self.identity.certificate.log_origin,
            size=self.frontier.size,
            root=self.frontier.root(),
            time_s=self.now_s,
        )
        return [
            encode_confirmation(
                confirmation.sid,
                confirmation.server_tag,
                encode_receipt(first + row, self.frontier.size, self.now_s, path, checkpoint.signature),
            )
            for row, (confirmation, path) in enumerate(zip(confirmations, paths, strict=True))
        ]


def make_server(*, origin: str = ORIGIN) -> Server:
    """Make a server with buckets b-1, b and b+1."""
    root, announce, log = SIG87.generate(), SIG44.generate(), SIG44.generate()
    certificate = issue_certificate(
        root.signing_key,
        root.verification_key,
        serial=1,
        announce_key=announce.verification_key,
        log_key=log.verification_key,
        first_bucket=BUCKET - 10,
        last_bucket=BUCKET + 1000,
        log_origin=origin,
    )
    identity = decode_identity(root.verification_key + certificate.encoded, server_id=certificate.server_id)
    server = Server(identity=identity, announce_sk=announce.signing_key, log_sk=log.signing_key)
    for bucket in (BUCKET - 1, BUCKET, BUCKET + 1):
        server.publish(bucket)
    return server


def make_device(
    server: Server, device_id: str = "device-1", *, tenant_id: TenantId = TENANT, psk: bytes | None = None
) -> DeviceIdentity:
    """Make a device and put it on the server's roster."""
    signing, pair = SIG44.generate(), kem.generate()
    device = DeviceIdentity(
        server_id=server.server_id,
        tenant_id=tenant_id,
        device_id=device_id,
        ref=device_ref(tenant_id, device_id),
        key_version=1,
        signing_key=signing.signing_key,
        decapsulation_key=pair.decapsulation_key,
        verification_key=signing.verification_key,
        encapsulation_key=pair.encapsulation_key,
        psk=None if psk is None else SecretBytes.copy_of(psk),
    )
    server.roster[(tenant_id, device.ref)] = DeviceCredential(
        key_version=1,
        is_accepted=True,
        verification_key=device.verification_key,
        encapsulation_key=device.encapsulation_key,
        psk=None if psk is None else SecretBytes.copy_of(psk),
    )
    return device


def fresh_psk() -> bytes:
    return random_bytes(64)
