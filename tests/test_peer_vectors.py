"""docs/vectors: the second implementation arrives at every value, and src/ makes the same bytes again."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import pytest

from peer import agreement as h9
from peer import enrol, hello, mapping, notation, offer, record, rekey, reply, ticket
from peer.identity import Bucket, Device, Server, check_announcement
from peer.notation import KemKey, SigKey, expand, extract, h, u16, u32, u64
from vectors import make

FOLDER = Path(__file__).parents[1] / "docs" / "vectors"
TEXTS = {"description", "source", "function", "label", "device_id", "log_origin", "purpose", "token"}


def decoded(value: object, name: str = "") -> object:
    """JSON back to values: every string that is no text is hexadecimal."""
    if isinstance(value, str):
        return value if name in TEXTS else bytes.fromhex(value)
    if isinstance(value, list):
        return [decoded(one, name) for one in value]
    if isinstance(value, dict):
        return {key: decoded(one, key) for key, one in value.items()}
    return value


@cache
def cases(name: str) -> list[dict]:
    """The cases of a file, decoded."""
    return decoded(json.loads((FOLDER / name).read_text(encoding="utf-8")))["cases"]


@cache
def server() -> Server:
    """The vectors' server, rebuilt from its seeds."""
    [its] = cases("identity.json")
    made = Server(
        root=SigKey(its["root_signing_seed"], is_root=True),
        announce=SigKey(its["announce_signing_seed"]),
        log=SigKey(its["log_signing_seed"]),
        log_origin=its["log_origin"],
        width=its["announcements"][0]["width"],
    )
    for one in its["announcements"]:
        made.buckets[one["b"]] = Bucket(one["announcement"], KemKey(one["bucket_kem_seed"]), one["ticket_key"])
    return made


def device_of(case: dict) -> Device:
    """The device of a case, rebuilt from its seeds, with CERT accepted."""
    device = Device(
        case["tenant_id"],
        case["device_id"],
        server().server_id,
        signing=SigKey(case["device_signing_seed"]),
        kem=KemKey(case["device_kem_seed"]),
        key_version=case.get("key_version", 0),
        psk=case.get("psk", notation.NO_PSK),
    )
    device.take_cert(cases("identity.json")[0]["served"])
    return device


@pytest.mark.parametrize("name", make.FILES)
def test_source_makes_the_same_bytes_again(name: str) -> None:
    """A run of src/ on the fixed stream gives the committed file, byte for byte."""
    assert make.make_file(name) == (FOLDER / name).read_text(encoding="utf-8")


def test_every_file_is_made_by_the_script() -> None:
    """No vector file stands there that nothing makes."""
    assert {path.name for path in FOLDER.glob("*.json")} == set(make.FILES)


def test_notation_is_the_same_in_both() -> None:
    """H, Extract and Expand agree."""
    found = {"H": 0, "Extract": 0, "Expand": 0}
    for case in cases("notation.json"):
        found[case["function"]] += 1
        if case["function"] == "H":
            assert h(*case["parts"]) == case["result"]
        elif case["function"] == "Extract":
            assert extract(case["salt"], case["ikm"]) == case["result"]
        else:
            assert expand(case["key"], case["label"], case["ctx"], case["n"]) == case["result"]
    assert min(found.values()) >= 3


def test_identity_verifies_from_the_pinned_id_alone() -> None:
    """CERT verifies under server_id, the announcements under CERT, and the refs come out."""
    [case] = cases("identity.json")
    device = Device(bytes(16), "any", case["server_id"])
    cert = device.take_cert(case["served"])
    assert (cert.serial, cert.first, cert.last) == (case["serial"], case["first_b"], case["last_b"])
    assert (cert.log_origin, cert.server_id) == (case["log_origin"], server().server_id)
    assert (cert.announce_vk, cert.log_vk) == (server().announce.vk, server().log.vk)
    for one in case["announcements"]:
        announcement = check_announcement(one["announcement"], cert, mark=one["b"])
        assert (announcement.b, announcement.width) == (one["b"], one["width"])
        assert announcement.ek == KemKey(one["bucket_kem_seed"]).ek
        assert h(announcement.body) == one["body_hash"]
    for one in case["refs"]:
        assert notation.ref_of(one["tenant_id"], one["device_id"]) == one["ref"]


@pytest.mark.parametrize("number", range(4))
def test_hello_comes_out_the_same_on_both_sides(number: int) -> None:
    """M1 to M4: the peer opens, answers to and derives every value of the run."""
    case, live = cases("hello.json")[number], tuple(server().buckets)
    device, ephemeral = device_of(case), KemKey(case["ephemeral_kem_seed"])
    bucket = server().buckets[case["hdr_b"]]
    assert case["ref"] == device.ref
    # M1
    m1 = case["M1"]
    assert m1[:12] == bytes((1, 1)) + u16(1) + u64(case["hdr_b"])
    assert m1[12:1580] == ephemeral.ek
    assert bucket.kem.decaps(m1[1580:3148]) == case["ss_b"]
    opened = hello.open_m1(server(), m1, live=live)
    hello.verify_m1(opened, device.signing.vk)
    assert (opened.th1, opened.ck1) == (case["th1"], case["ck1"])
    assert (opened.tenant_id, opened.ref, opened.key_version) == (device.tenant_id, device.ref, device.key_version)
    assert expand(case["ck1"], "m1", case["th1"], 32) == case["k1"]
    assert notation.unseal(case["k1"], m1[3148:], case["th1"]) == case["c1_plaintext"]
    # M2
    m2 = case["M2"]
    pending = hello.Pending(m1, ephemeral, case["hdr_b"], case["th1"], case["ck1"])
    m3, mine = hello.take_m2(device, pending, m2)
    assert ephemeral.decaps(m2[18:1586]) == case["ss_e"]
    assert h(case["th1"], m1[3148:], m2[18:1586], m2[2:18]) == case["th2"]
    assert expand(case["ck2"], "m2", case["th2"], 32) == case["k2"]
    assert notation.unseal(case["k2"], m2[1586:1616], case["th2"]) == case["c2_plaintext"]
    assert case["c2_plaintext"] == u64(case["start"]) + u16(case["lifetime"]) + u32(0)
    assert (mine.sid, mine.start, mine.lifetime) == (case["sid"], case["start"], case["lifetime"])
    # M3 and the ticket
    assert m3 == case["M3"]
    theirs = hello.take_m3(server(), m3, now=case["now"] + 1)
    assert mine == theirs
    check_ticket(case, m2[1616:], form=ticket.HELLO, expiry=case["now"] + 60, secret=case["ck2"], th=case["th3"])
    check_end(case, device, mine)


@pytest.mark.parametrize("number", range(2))
def test_offer_comes_out_the_same_on_both_sides(number: int) -> None:
    """OFFER to M4: the peer opens, answers to and derives every value of the run."""
    case = cases("offer.json")[number]
    device, b = device_of(case), case["server_bucket"]
    bucket, message, answer = server().buckets[b], case["OFFER"], case["ANSWER"]
    announcement = device.take_announcement(bucket.announcement)
    # OFFER
    th1 = offer.offer_transcript(
        body_b=announcement.body,
        ek_d=device.kem.ek,
        tenant_id=device.tenant_id,
        ref=device.ref,
        key_version=device.key_version,
        offer=message,
    )
    assert th1 == case["th1"]
    assert device.kem.decaps(message[42:1610]) == case["ss_D"]
    assert extract(th1, case["ss_D"]) == case["ck1"]
    check_ticket(case, message[1610:], form=ticket.OFFER, expiry=(b + 2) * server().width, secret=case["ss_D"], th=th1)
    # The peer's own answer to this OFFER is taken by the peer's server: OFFER has every field in its place.
    own, agreed = offer.take_offer(device, announcement, message)
    assert offer.take_answer(server(), own, now=case["now"], psk=case["psk"]) == agreed
    assert (agreed.sid, agreed.start, agreed.lifetime) == (case["sid"], case["start"], case["lifetime"])
    # ANSWER
    theirs = offer.take_answer(server(), answer, now=case["now"] + 1, psk=case["psk"])
    assert bucket.kem.decaps(answer[233:1801]) == case["ss_b"]
    assert answer[2:233] == message[1610:]
    assert answer[1801:1817] == expand(case["ck1"], "pre", case["th3"], 16)
    check_end(case, device, theirs)


def check_ticket(case: dict, sealed: bytes, *, form: int, expiry: int, secret: bytes, th: bytes) -> None:
    """A ticket opens under TK of the server's bucket, and says what H5 says."""
    b = case["server_bucket"]
    keys = {b: server().buckets[b].ticket_key}
    found = ticket.open_ticket(sealed, keys, form=form, now=case["now"])
    assert found == ticket.Ticket(
        form=form,
        b=b,
        sid=case["sid"],
        tenant_id=case["tenant_id"],
        ref=case["ref"],
        key_version=case["key_version"],
        hdr_b=case.get("hdr_b", b),
        start=case["start"],
        expiry=expiry,
        lifetime=case["lifetime"],
        policy=0,
        secret=secret,
        th=th,
    )
    assert found.seal(keys[b], sealed[9:21]) == sealed
    assert notation.unseal(keys[b], sealed[21:], sealed[:9], sealed[9:21]) == case["ticket_plaintext"]


def check_end(case: dict, device: Device, agreement: h9.Agreement) -> None:
    """Tags, leaf, M4 and chain key, which both forms share."""
    assert (agreement.ck2, agreement.th3) == (case["ck2"], case["th3"])
    assert (agreement.device_tag, agreement.server_tag) == (case["fin_d"], case["fin_s"])
    assert (agreement.who_key, h(agreement.th3)) == (case["who_key"], case["H_th3"])
    assert agreement.leaf_entry == case["leaf_entry"]
    assert h9.leaf_hash(agreement.leaf_entry) == case["leaf_hash"]
    h9.take_m4(device, agreement, case["M4"])
    assert device.mark == case.get("hdr_b", case["server_bucket"]) - 1
    assert h9.make_m4(agreement, case["M4"][50:]) == case["M4"]
    assert agreement.chain_key == case["CK_start"]


@pytest.mark.parametrize("number", range(2))
def test_enrolment_comes_out_the_same_on_both_sides(number: int) -> None:
    """Token to ENROLLED: the peer reads, opens and derives every value of the run."""
    case = cases("enrol.json")[number]
    device, live = device_of(case), tuple(server().buckets)
    token = enrol.read_token(case["token"])
    assert token.text() == case["token"]
    wanted = (case["tenant_id"], case["token_id"], case["secret"], server().server_id)
    assert (token.tenant_id, token.token_id, token.secret, token.server_id) == wanted
    assert h(token.secret) == case["H_secret"]
    opened = enrol.open_enrol(server(), case["ENROL"], live=live)
    assert case["ENROL"][:12] == bytes((9, 1)) + u16(1) + u64(case["hdr_b"])
    enrol.verify_enrol(opened, secret_hash=case["H_secret"], device_id=case["device_id"])
    assert (opened.th1, opened.ck1) == (case["th1"], case["ck1"])
    assert (opened.vk, opened.ek) == (device.signing.vk, device.kem.ek)
    assert expand(case["ck1"], "enr", case["th1"], 32) == case["enr_key"]
    assert notation.unseal(case["enr_key"], case["ENROL"][1580:], case["th1"]) == case["c1_plaintext"]
    begin = case["tenant_id"] + case["token_id"] + case["secret"] + device.signing.vk + device.kem.ek
    assert case["c1_plaintext"][:-2420] == begin
    assert device.kem.decaps(case["ENROLLED"][2:1570]) == case["ss_D"]
    assert expand(extract(case["ck1"], case["ss_D"]), "enr d", case["th1"], 32) == case["enr_d_key"]
    enrol.take_enrolled(device, enrol.PendingEnrolment(case["ENROL"], case["th1"], case["ck1"]), case["ENROLLED"])
    assert (device.key_version, device.mark) == (case["key_version"], case["mark"])
    # ROTATE
    new_vk, new_ek = SigKey(case["new_signing_seed"]).vk, KemKey(case["new_kem_seed"]).ek
    terms = {"server_id": device.server_id, "ref": device.ref, "key_version": device.key_version}
    rotated = enrol.take_rotate(case["ROTATE"], vk=device.signing.vk, **terms)
    assert rotated == (device.key_version + 1, new_vk, new_ek)
    assert case["ROTATED"] == bytes([4]) + u32(device.key_version + 1)


def test_chain_and_message_keys_come_out_the_same() -> None:
    """Chain keys over 288 buckets and message keys agree."""
    [case] = cases("records.json")
    first = case["chain_keys"][0]
    session = record.Session(case["sid"], case["start"], case["lifetime"], 1, {first["b"]: first["chain_key"]})
    for one in case["chain_keys"]:
        assert session.chain_key(one["b"]) == one["chain_key"]
    for one in case["message_keys"]:
        key = session.chain_key(one["b"])
        assert record.message_key(key, one["b"], one["direction"], one["purpose"]) == one["message_key"]


def test_records_come_out_the_same() -> None:
    """Every record is sealed to the same bytes, which open again."""
    [case] = cases("records.json")
    keys = {case["start"]: case["chain_keys"][0]["chain_key"]}
    for one in case["records"]:
        plaintext = (bytes(range(251)) * (one["plaintext_size"] // 251 + 1))[: one["plaintext_size"]]
        writer = record.Session(case["sid"], case["start"], case["lifetime"], one["direction"], dict(keys))
        reader = record.Session(case["sid"], case["start"], case["lifetime"], 3 - one["direction"], dict(keys))
        sealed = writer.seal(plaintext, one["aad"], b=one["b"], kind=one["kind"], stream_id=one["stream_id"])
        assert len(sealed) == one["record_size"]
        if "record" in one:
            assert sealed == one["record"]
        else:
            assert sealed[:112] == one["record_begins"]
            assert hashlib.sha256(sealed).digest() == one["record_sha256"]
        assert reader.open(sealed, one["aad"]) == plaintext


def test_rekeys_and_late_replies_come_out_the_same() -> None:
    """REKEY opens to the same next epoch, and requests, RK and replies are the same bytes (R6, R7)."""
    [case] = cases("rekeys.json")
    terms = (case["sid"], case["start"], case["lifetime"])
    sessions = {0: record.Session(*terms, record.TO_DEVICE, {case["start"]: case["CK_start"]})}
    for one in case["rekeys"]:
        b, epoch, old = one["b"], one["epoch"], sessions[one["epoch"] - 1]
        assert old.chain_key(b) == one["CK_b"]
        assert (
            record.Session(*terms, record.TO_DEVICE, dict(old.keys), old.epoch).open(one["REKEY_record"])
            == one["REKEY"]
        )
        kem = server().buckets[b].kem
        answer, new = rekey.take_rekey(old, one["body_b"], kem, one["REKEY"])
        assert (answer, new.epoch, new.keys) == (one["REKEYED"], epoch, {b: one["CK_b_new"]})
        device = record.Session(*terms, record.TO_SERVER, dict(new.keys), epoch)
        assert device.open(one["REKEYED_record"]) == one["REKEYED"]
        sessions[epoch] = new
    assert {one["epoch"] for one in case["requests"]} == {0, 1, 2}
    for one in case["requests"]:
        session = sessions[one["epoch"]]
        writer = record.Session(*terms, one["direction"], dict(session.keys), one["epoch"])
        request = writer.seal(
            one["request_plaintext"], b"asked", b=one["b"], kind=record.REQUEST, stream_id=one["request_id"]
        )
        assert request == one["request"]
        awaited = reply.Awaited.of(session, request)
        assert awaited.rk == one["RK"]
        assert awaited.seal(one["reply_plaintext"], b"answered", stream_id=one["reply_stream_id"]) == one["reply"]
        assert awaited.open(one["reply"], b"answered") == one["reply_plaintext"]


@pytest.mark.parametrize("number", range(2))
def test_mapping_comes_out_the_same_on_both_sides(number: int) -> None:
    """Descriptor, chain key and communication keys agree."""
    case = cases("mapping.json")[number]
    kem, server_vk = KemKey(case["device_kem_seed"]), SigKey(case["server_signing_seed"]).vk
    ref = notation.ref_of(case["tenant_id"], case["device_id"])
    found = mapping.take_mapping(case["descriptor"], kem=kem, ref=ref, server_vk=server_vk)
    assert kem.decaps(case["descriptor"][138:1706]) == case["ss"]
    assert h(case["descriptor"][:1706]) == case["H_desc"]
    assert found == mapping.Mapping(case["mapping_id"], case["generation"], case["b"], case["width"], case["CK_b"])
    for one in case["keys"]:
        assert found.key(one["b"], one["purpose"]) == one["key"]


def test_a_rotated_mapping_keeps_its_id_and_counts() -> None:
    """The second mapping is the next generation of the first, with other keys."""
    first, second = cases("mapping.json")
    assert first["mapping_id"] == second["mapping_id"]
    assert second["generation"] == first["generation"] + 1 == 2
    assert first["CK_b"] != second["CK_b"]


def test_receipts_verify() -> None:
    """Path, cosigned message and signature of every receipt hold."""
    for case in cases("receipts.json"):
        size, root = h9.check_receipt(case["receipt"], case["entry"], log_vk=case["log_vk"], origin=case["log_origin"])
        assert (size, root) == (case["size"], case["root"])
        assert h9.leaf_hash(case["entry"]) == case["leaf_hash"]
        signed = h9.cosigned_message(case["log_origin"], time=case["time"], size=size, root=root)
        assert signed == case["cosigned_message"]
        begin = u64(case["index"]) + u64(size) + u64(case["time"]) + bytes([len(case["path"])])
        assert case["receipt"][:-2420] == begin + b"".join(case["path"])
