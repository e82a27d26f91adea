"""`qflare serve` responds by its playbook: two worker processes, a quarantine that ends a device's session by itself."""

import asyncio
from os import urandom

from attacks.test_attack_response import EAGER, T, accuse
from manager_world import make_manager
from qflare.device import Device
from qflare.model.response import ResponseState
from service.processes import serve


async def test_served_workers_quarantine_by_rule_and_an_operator_undoes_it(database_dsn, tmp_path):
    """A proven incident has its device shut out within seconds, once; undone, the device connects again."""
    path = tmp_path / "eager.toml"
    path.write_text(EAGER.format(hour_max=10))
    arguments = ("--workers", "2", "--data-dir", str(tmp_path / "data"))
    async with (
        serve(tmp_path, *arguments, QFLARE_DSN=database_dsn, QFLARE_PLAYBOOK=str(path)) as served,
        make_manager(database_dsn, tmp_path, keeper_dir=str(tmp_path / "keys")) as manager,
    ):
        await manager.add_operator("ann")
        token = await manager.issue_enrolment_token("pump")
        state = tmp_path / "state"
        device = await asyncio.to_thread(Device.enrol, served.url, token, device_id="pump", state=state)
        with device:
            await asyncio.to_thread(device.connect)
            edge = await manager.find_device("pump")
            await accuse(manager, _Named(edge), {"control conflict": urandom(1)[0] + 1})
            async with asyncio.timeout(60):
                while not (found := await manager.list_responses(states=[ResponseState.APPLIED])):
                    await asyncio.sleep(0.1)
            assert "suspended" == (await manager.find_device("pump")).state.value
            assert () == await manager.list_sessions(device_id="pump")
            await manager.undo_response(found[0].response_id, by="ann", reason="our test")
            await asyncio.to_thread(device.connect)
        assert 1 == len(await manager.list_responses())
        assert T == manager.tenant


class _Named:
    """A row of the roster as `accuse` wants it."""

    def __init__(self, row):
        self.device, self.name = row, row.device_id
