"""Commands while the signer of the log is gone: nothing is said to be done, and what stands and what to do is."""

import asyncio
import json
import re
import signal

from cli.commands import qflare
from manager_world import managers
from qflare.model.device import KeyState
from service.signers import short_folder, signer


async def test_commands_say_what_stands_without_a_signer(database_dsn, tmp_path):
    """Exit code 4, an empty stdout and one line with the call id; run again with it, and with a signer, it is done."""
    with short_folder() as place:
        socket = str(place / "s")

        async def run(*arguments):
            return await asyncio.to_thread(
                qflare,
                tmp_path,
                *arguments,
                "--data-dir",
                tmp_path / "data",
                QFLARE_DSN=database_dsn,
                QFLARE_SIGNER_SOCKET=socket,
                QFLARE_SIGNER_TIMEOUT_S="30",
                QFLARE_KEEPER_DIR=str(tmp_path / "volatile"),
            )

        async with signer(place / "keys", place / "s") as process:
            async with managers(database_dsn, tmp_path, signer_socket=socket, signer_timeout_s=30.0) as (manager,):
                await manager.generate_device_keypair("a")
            process.send_signal(signal.SIGKILL)
            await process.wait()
        left = ("devices", "revoke", "a", "--reason", "lost")
        ended = await run(*left)
        assert (4, "", 1) == (ended.code, ended.out, len(ended.err.splitlines())), ended.err
        for said in ("done and durable", "no signed head", "start qflare signer", "repeat it with call id"):
            assert said in ended.err
        (call_id,) = re.findall(r"call id ([0-9a-f]{32})", ended.err)
        kept = tmp_path / "token"
        ended = await run("token", "issue", "x", "--call-id", "ab" * 16, "--output", kept, "--json")
        assert (4, "", "SignerUnavailableError") == (ended.code, ended.out, json.loads(ended.err)["error"])
        assert "nothing was done, since no head of the log can be signed" in json.loads(ended.err)["message"]
        assert not kept.exists()
        async with signer(place / "keys", place / "s"):
            assert 0 == (await run(*left, "--call-id", call_id)).code
            # What was refused without a signer is made now, once, under the same id.
            ended = await run("token", "issue", "x", "--call-id", "ab" * 16, "--json")
            assert (0, "x") == (ended.code, json.loads(ended.out)["device_id"])
            async with managers(database_dsn, tmp_path, signer_socket=socket, signer_timeout_s=30.0) as (manager,):
                assert KeyState.DEACTIVATED is (await manager.find_device("a")).state
                (token,) = await manager.list_enrolment_tokens()
                assert "x" == token.device_id
                entries = await manager.monitor.list_events(limit=1000)
                assert 1 == sum(b'"reason":"lost"' in entry.data for entry in entries)
