"""Responding by the playbook: by served workers, by an edited playbook, and in a tenant beside one that fails."""

import asyncio
from os import urandom

from attacks.test_attack_response import EAGER, T, accuse
from manager_world import engine_of, make_manager, managers
from qflare.device import Device
from qflare.model.ids import TenantId
from qflare.model.response import ResponseState
from service.processes import serve
from service.test_webhook import write_playbook

OTHER = TenantId(bytes(range(16)))
PROPOSING = EAGER.format(hour_max=10).replace('mode = "automatic"', 'mode = "propose"')
REFUSE_RESPONSES = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$;
    CREATE TRIGGER refused BEFORE INSERT ON qflare.response FOR EACH ROW
    WHEN (NEW.tenant_id = '00000000-0000-0000-0000-000000000000') EXECUTE FUNCTION public.refuse();
"""


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


async def suspect(manager, name, *, tenant_id=T):
    """Make a device, and an incident of it that a rule answers."""
    view = manager.for_tenant(tenant_id)
    await view.generate_device_keypair(name)
    await accuse(manager, _Named(await view.find_device(name)), {"control conflict": 5}, tenant_id=tenant_id)


async def test_a_rule_whose_words_were_changed_has_responded_and_the_others_do(database_dsn, tmp_path):
    """What stands of the rule as it was, or without its words since an erasure, stays; what is new is responded to."""
    paths = [tmp_path / name for name in ("was.toml", "is.toml")]
    for path, why in zip(paths, ("An operator who trusts", "Somebody who trusts"), strict=True):
        path.write_text(PROPOSING.replace("An operator who trusts", why))
    async with managers(database_dsn, tmp_path, playbook=str(paths[0])) as (manager,):
        for name in ("pump-1", "pump-2"):
            await suspect(manager, name)
        assert 2 == await engine_of(manager).responder.step(T)
        await manager.monitor.erase_device_entries("pump-2")
    async with managers(database_dsn, tmp_path, playbook=str(paths[1])) as (manager,):
        await suspect(manager, "pump-3")
        assert [1, 0] == [await engine_of(manager).responder.step(T) for _ in range(2)]
        found = await manager.list_responses()
        reasons = {each.target.device_id: each.reason.split()[0] for each in found}
        assert ("An", "Somebody", 3) == (reasons["pump-1"], reasons["pump-3"], len(reasons))


async def test_a_webhook_whose_rule_was_changed_is_told_once(database_dsn, tmp_path):
    """The words of the rule are no part of which incident was sent."""
    key = tmp_path / "webhook.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    path = write_playbook(tmp_path, "http://127.0.0.1:1", key)
    async with managers(database_dsn, tmp_path, playbook=path) as (manager,):
        await suspect(manager, "pump-1")
        await manager.start_responding()
        async with asyncio.timeout(60):
            while not await manager.list_responses():
                await asyncio.sleep(0.05)
    rules = tmp_path / "playbook.toml"
    rules.write_text(rules.read_text().replace("should know", "must know"))
    async with managers(database_dsn, tmp_path, playbook=str(rules)) as (manager,):
        await manager.start_responding()
        assert 0 == await engine_of(manager).responder.step(T)
        assert ["A person should know."] == [each.reason for each in await manager.list_responses()]


async def test_a_tenant_that_fails_keeps_no_other_from_its_responses(database_dsn, tmp_path, admin):
    """Where nothing can be asked for in the first tenant, the rules still respond in the second."""
    path = tmp_path / "proposing.toml"
    path.write_text(PROPOSING)
    async with managers(database_dsn, tmp_path, playbook=str(path)) as (manager,):
        await manager.create_tenant("theirs", tenant_id=OTHER)
        for tenant_id in (T, OTHER):
            await suspect(manager, "pump", tenant_id=tenant_id)
        await admin.execute(REFUSE_RESPONSES)
        await manager.start_responding()
        async with asyncio.timeout(60):
            while not await manager.for_tenant(OTHER).list_responses():
                await asyncio.sleep(0.05)
        assert () == await manager.list_responses()


class _Named:
    """A row of the roster as `accuse` wants it."""

    def __init__(self, row):
        self.device, self.name = row, row.device_id
