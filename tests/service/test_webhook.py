"""The webhook: signed, tried again, only where the playbook says, nothing secret, and given up in bounded time."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import ssl
from datetime import UTC, datetime, timedelta
from os import urandom

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from attacks.test_attack_response import T, accuse
from manager_world import Edge, engine_of, managers
from qflare.errors import ConfigError
from qflare.model.response import ResponseState
from qflare.service.responding import webhook
from qflare.service.responding.playbook import parse_playbook

PLAYBOOK = """
version = 1
[webhook]
url = "{url}"
key_file = "{key}"
{more}
[[rule]]
name = "tell"
signal = "any"
severity = "warning"
action = "notify"
mode = "automatic"
why = "A person should know."
"""


class Receiver:
    """A real HTTP server that answers as it is told, and keeps what it was sent."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.came = asyncio.Event()

    async def __call__(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers["Content-Length"]))
        self.requests.append((head.split("\r\n")[0], headers, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()
        self.came.set()


def answer(status, *headers):
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, "Content-Length: 0", "", ""]).encode()


@contextlib.asynccontextmanager
async def listening(receiver, context=None):
    server = await asyncio.start_server(receiver, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "webhook.key"
    path.write_bytes(urandom(32))
    path.chmod(0o600)
    return path


def write_playbook(folder, url, key, more=""):
    path = folder / "playbook.toml"
    path.write_text(PLAYBOOK.format(url=url, key=key, more=more))
    return str(path)


async def ended(manager, *, within_s=60):
    """Wait until the one response is over, and return it."""
    async with asyncio.timeout(within_s):
        while True:
            found = await manager.list_responses()
            if found and found[0].state in {ResponseState.APPLIED, ResponseState.DISMISSED}:
                return found[0]
            await asyncio.sleep(0.05)


async def begin(manager):
    """An incident, and the playbook's look at it."""
    edge = await Edge.provision(manager, "pump")
    await accuse(manager, edge, {"control conflict": 5})
    await manager.start_responding()
    return edge


def is_signed(key, headers, body):
    made = hmac.new(key.read_bytes(), body, hashlib.sha3_512).hexdigest()
    return headers["Qflare-Signature"] == f"hmac-sha3-512={made}"


async def test_an_incident_is_sent_signed_until_it_is_taken(database_dsn, tmp_path, key, monkeypatch):
    """After an error it is sent again; the body is signed, says what the incident says, and it is noted once."""
    monkeypatch.setattr(webhook, "PAUSE_S", 0.01)
    receiver = Receiver(answer(503), answer(302, "Location: http://127.0.0.1:1/"), answer(204))
    async with listening(receiver) as port:
        url = f"http://127.0.0.1:{port}/hook?who=qflare"
        async with managers(database_dsn, tmp_path, playbook=write_playbook(tmp_path, url, key)) as (manager,):
            edge = await begin(manager)
            done = await ended(manager)
            assert (ResponseState.APPLIED, "tell", 1) == (done.state, done.rule, done.changed)
            (incident,) = await manager.monitor.list_incidents()
            await engine_of(manager).responder.step(T)
    assert 3 == len(receiver.requests), "a redirect is no way to go, and what was taken is not sent again"
    for line, headers, body in receiver.requests:
        assert "POST /hook?who=qflare HTTP/1.1" == line
        assert is_signed(key, headers, body)
        told = json.loads(body)
        assert (done.response_id.hex(), "tell") == (told["delivery_id"], told["rule"])
        assert (incident.incident_id.hex(), "clone", "pump") == (
            told["incident"]["incident_id"],
            told["incident"]["signal"],
            told["incident"]["device_id"],
        )
        assert {"control conflict": 5} == told["incident"]["evidence"]["seen"]
        for secret in (key.read_bytes(), edge.pair.signing_key.view().tobytes()[:32]):
            assert secret.hex() not in body.decode()
            assert secret not in body


async def test_what_is_never_taken_is_given_up(database_dsn, tmp_path, key, monkeypatch):
    """After its deadline a delivery ends, and the response says why."""
    monkeypatch.setattr(webhook, "PAUSE_S", 0.01)
    monkeypatch.setattr(webhook, "DEADLINE_S", 3.0)
    receiver = Receiver(b"nonsense\r\n\r\n", answer(500))
    async with listening(receiver) as port:
        url = f"http://localhost:{port}"
        async with managers(database_dsn, tmp_path, playbook=write_playbook(tmp_path, url, key)) as (manager,):
            await begin(manager)
            done = await ended(manager)
    assert (ResponseState.DISMISSED, "it answered 500") == (done.state, done.ended_because)
    assert len(receiver.requests) > 1


async def test_two_workers_send_it_once(database_dsn, tmp_path, key):
    """Whoever begins it sends it, and only that worker."""
    receiver = Receiver(answer(200))
    async with listening(receiver) as port:
        playbook = write_playbook(tmp_path, f"http://127.0.0.1:{port}", key)
        async with managers(database_dsn, tmp_path, 2, playbook=playbook) as (first, second):
            await begin(first)
            await second.start_responding()
            assert ResponseState.APPLIED is (await ended(first)).state
            for manager in (first, second):
                await engine_of(manager).responder.step(T)
    assert 1 == len(receiver.requests)


async def test_a_manager_closes_at_once_though_nobody_answers(database_dsn, tmp_path, key):
    """A receiver that is silent holds nobody up."""
    came, release = asyncio.Event(), asyncio.Event()

    async def silent(_reader, writer):
        came.set()
        await release.wait()
        writer.close()

    async with listening(silent) as port:
        playbook = write_playbook(tmp_path, f"http://127.0.0.1:{port}", key)
        async with managers(database_dsn, tmp_path, playbook=playbook, close_timeout_s=300.0) as (manager,):
            await begin(manager)
            async with asyncio.timeout(60):
                await came.wait()
            async with asyncio.timeout(60):
                await manager.close()
        release.set()


def certificate(folder, host):
    """A certificate for *host* that signs itself; return its files."""
    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(made.public_key()), critical=False)
        .sign(made, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    own = made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "chain.pem").write_bytes(signed.public_bytes(pem))
    (folder / "both.pem").write_bytes(own + signed.public_bytes(pem))
    return folder / "chain.pem", folder / "both.pem"


@pytest.mark.parametrize(("host", "state"), [("localhost", ResponseState.APPLIED), ("other", ResponseState.DISMISSED)])
async def test_https_is_checked(database_dsn, tmp_path, key, monkeypatch, host, state):  # noqa: PLR0917 - fixtures
    """Only a certificate of that host, under an authority that is trusted, gets to see an incident."""
    monkeypatch.setattr(webhook, "PAUSE_S", 0.01)
    monkeypatch.setattr(webhook, "DEADLINE_S", 0.1)
    chain, both = certificate(tmp_path, host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    receiver = Receiver(answer(200))
    async with listening(receiver, context) as port:
        playbook = write_playbook(tmp_path, f"https://localhost:{port}", key, f'ca_file = "{chain}"')
        async with managers(database_dsn, tmp_path, playbook=playbook) as (manager,):
            await begin(manager)
            done = await ended(manager)
    assert (state, state is ResponseState.APPLIED) == (done.state, bool(receiver.requests))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('url = "https://x"', "'key_file' is missing"),
        ('url = "ftp://x"\nkey_file = "k"', "https://"),
        ('url = "https://"\nkey_file = "k"', "https://"),
        ('url = "http://alerts.example"\nkey_file = "k"', "this machine alone"),
        ('url = "https://user:word@x"\nkey_file = "k"', "no user"),
        ('url = "https://x/ y"\nkey_file = "k"', "no spaces"),
        ('url = "https://x:99999"\nkey_file = "k"', "address"),
        ('url = "https://x"\nkey_file = "k"\nproxy = "y"', "unknown key 'proxy'"),
    ],
)
def test_a_bad_address_is_refused(table, said):
    """Before anything is sent anywhere."""
    with pytest.raises(ConfigError) as refused:
        parse_playbook(f"version = 1\n[webhook]\n{table}".encode(), name="p")
    assert said in str(refused.value)


def test_a_bad_key_is_refused(tmp_path):
    """One that is absent, short, long, or that others may read; the message never has it."""
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match="cannot read"):
        webhook.read_key(str(path))
    for content, mode, said in (
        (b"x" * 31, 0o600, "32 to 1024"),
        (b"x" * 1025, 0o600, "32 to"),
        (b"x" * 32, 0o644, "others"),
    ):
        path.write_bytes(content)
        path.chmod(mode)
        with pytest.raises(ConfigError, match=said) as refused:
            webhook.read_key(str(path))
        assert "xxx" not in str(refused.value)


async def test_a_queue_that_is_full_takes_no_more(key):
    """The bound holds; whoever would be one too many is told at once."""
    with webhook.read_key(str(key)) as secret:
        target = webhook.WebhookTarget(url="https://localhost", key_file=str(key))
        sender = webhook.Webhook(target, secret, clock=None, ended=None)
        taken = [sender.send(webhook.Delivery(T, urandom(16), "r", None)) for _ in range(webhook.WAITING_MAX + 1)]
    assert ([True] * webhook.WAITING_MAX + [False]) == taken
