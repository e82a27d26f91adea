"""
What a rekey heals and a reply key gives, computed (docs/protocol.md, R6, R7, S6).

A session lives through ten buckets, both directions, requests and late replies among them; all of it is recorded.
In bucket T somebody takes the memory of a worker: chain keys, bucket keys, keys of outstanding replies.
"""

from dataclasses import dataclass, field

import pytest

from adversary import Loot, Traffic, attack
from peer.record import REQUEST, TO_DEVICE, TO_SERVER, Session
from peer.reply import Awaited
from qflare.primitives.random import random_bytes, random_secret
from qflare.primitives.sig import SIG44
from qflare.protocol.bucket import decapsulate_by_bucket, make_bucket_keys
from qflare.protocol.chain import SessionChain
from qflare.protocol.record import KIND_CONTROL, new_header, seal_record
from qflare.protocol.rekey import derive_rekeyed_many, make_rekey, read_rekey

B = 5_000_000
T = B + 3
BUCKETS = range(B, B + 10)


@dataclass
class Story:
    """What was sent, what it said, and what lies in the server's memory in bucket T."""

    traffic: Traffic = field(default_factory=Traffic)
    said: dict = field(default_factory=dict)
    """Bucket -> plaintexts of that bucket's records."""
    loot: Loot = field(default_factory=Loot)
    late: dict = field(default_factory=dict)
    """Bucket of the request -> plaintext of its reply, which comes at the end."""


def bytes_of(secret):
    with secret:
        return bytes(secret.view())


def live(*, rekey_at=None):
    """Ten buckets of one session, with a rekey under the announcement of bucket *rekey_at*."""
    story, sid = Story(), random_bytes(16)
    announce = SIG44.generate().signing_key
    buckets = {b: make_bucket_keys(announce, server_id=bytes(32), width_s=300, bucket=b).keys for b in BUCKETS}
    story.traffic.bodies = {b: keys.announcement.encoded[:1622] for b, keys in buckets.items()}
    chain = SessionChain.begin(random_secret(64), sid=sid, start=B, lifetime=288)
    waiting = []
    for b in BUCKETS:
        if b == T:
            story.loot.chain_keys = {(sid, at): bytes_of(chain.chain_key(at)) for at in (b - 1, b)}
            story.loot.dks = {at: bytes(buckets[at].decapsulation_key.view()) for at in (b - 1, b, b + 1)}
            story.loot.reply_keys = {(sid, its.request_header[32:48]): its.rk for _, its in waiting}
        if b == rekey_at:
            chain = rekey(story, chain, buckets, b)
        held = {b: bytes_of(chain.chain_key(b))}
        for direction in (TO_SERVER, TO_DEVICE):
            side = Session(sid, B, 288, direction, dict(held), chain.epoch)
            data, request = b"data %d %d" % (b, direction), b"request %d %d" % (b, direction)
            record = side.seal(request, b=b, kind=REQUEST)
            story.traffic.records += [side.seal(data, b=b), record]
            story.said[b] = story.said.get(b, set()) | {data, request}
            waiting.append(((b, direction), Awaited.of(side, record)))
        chain.advance_to(b)
    for (b, direction), awaited in waiting:
        reply = b"reply %d %d" % (b, direction)
        story.late[b] = story.late.get(b, set()) | {reply}
        story.traffic.records.append(awaited.seal(reply))
    return story


def rekey(story, chain, buckets, b):
    """REKEY as a control record of the old epoch; the chain of the next one, which both sides agree on."""
    pending = make_rekey(chain, buckets[b].announcement)
    header = new_header(sid=chain.sid, bucket=b, direction=TO_SERVER, kind=KIND_CONTROL, epoch=chain.epoch)
    with chain.message_key(b, direction=TO_SERVER, purpose=header.purpose) as key:
        story.traffic.records.append(seal_record(key, header, pending.body))
    story.said[b] = {pending.body}
    taken = read_rekey(pending.body, epoch=chain.epoch)
    keyring = {b: buckets[b]}
    with (
        chain.chain_key(b) as old,
        decapsulate_by_bucket(keyring, [b], [taken.ciphertext]) as fresh,
        derive_rekeyed_many(
            old,
            fresh,
            sids=[chain.sid],
            announcement_hashes=[buckets[b].announcement.body_hash],
            rekeys=[taken],
        ) as server,
        pending.chain.chain_key(b) as device,
    ):
        assert server.equals(device)
    return pending.chain


def union(texts, buckets):
    return set().union(*(texts.get(b, set()) for b in buckets))


@pytest.mark.parametrize("rekey_at", [T + 2, T + 4])
def test_who_was_away_for_a_bucket_opens_nothing_after_a_rekey(rekey_at):
    """R7: chain keys, bucket keys and reply keys of bucket T open the old epoch from T-1 on, and nothing of the new one."""
    story = live(rekey_at=rekey_at)
    opened = attack(story.traffic, story.loot).records
    old = range(T - 1, rekey_at)
    body = {text for text in story.said[rekey_at] if text[:1] == b"\x01"}
    # Replies to requests of the old epoch: outstanding at T, or made under keys that were stolen.
    assert opened == union(story.said, old) | body | union(story.late, range(B, rekey_at))
    assert not opened & (union(story.said, range(rekey_at, B + 10)) - body)


def test_without_a_rekey_the_thief_reads_on():
    """R7, the control: the same theft opens every later record of a session that was not rekeyed."""
    story = live()
    opened = attack(story.traffic, story.loot).records
    assert opened == union(story.said, range(T - 1, B + 10)) | union(story.late, BUCKETS)


@pytest.mark.parametrize("rekey_at", [T, T + 1])
def test_a_rekey_under_a_stolen_bucket_key_heals_nothing(rekey_at):
    """R7, the bound: dk of T and of the published T+1 are in the loot, so a rekey under them is opened with the rest."""
    story = live(rekey_at=rekey_at)
    opened = attack(story.traffic, story.loot).records
    assert union(story.said, range(rekey_at, B + 10)) <= opened


def test_a_reply_key_opens_that_reply_and_nothing_else():
    """R6: whoever holds RKs alone opens exactly their replies, each by its own, and no request and no other record."""
    story = live()
    keys = story.loot.reply_keys
    assert len(keys) == 2 * (T - B)
    assert attack(story.traffic, Loot(reply_keys=keys)).records == union(story.late, range(B, T))
    found = [attack(story.traffic, Loot(reply_keys={its: rk})).records for its, rk in keys.items()]
    assert [1] * len(keys) == [len(one) for one in found]
    assert union(story.late, range(B, T)) == set().union(*found)


def test_bucket_keys_alone_open_no_rekeyed_session():
    """R7: ss_r alone gives nothing: the old chain is in the derivation too."""
    story = live(rekey_at=T)
    assert attack(story.traffic, Loot(dks=story.loot.dks)).records == set()
