"""The alert rules: each fires and is quiet as it should, over metrics that there are, up to a webhook."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
import yaml

from manager_world import Edge, make_manager
from qflare.service.metrics.catalogue import BY_NAME
from service.alert_cases import CASES
from service.expressions import WITHOUT_SERIES, as_grafana_asks, charts, names_in, names_shown
from service.served import serving, url_of
from service.test_aggregator import OCTETS, post
from service.test_metrics import ROOT, watched

LISTENS = "0A"
"""TCP_LISTEN, as /proc/net/tcp has it."""
RULES = files("qflare") / "service" / "alerts" / "qflare.rules.yml"
TOOLS = ("promtool", "prometheus", "prometheus-alertmanager")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS),
    reason="needs promtool, prometheus and prometheus-alertmanager: Debian's packages prometheus and prometheus-alertmanager",
)


def rules():
    """Return every alert rule."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def promtool(*arguments):
    """Run promtool; return its exit code and what it says."""
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=120)
    return run.returncode, run.stdout + run.stderr


def test_each_rule_fires_and_is_quiet(tmp_path):
    """In the story of its attack or fault each alert fires with its labels; in the honest one it does not."""
    (tmp_path / "qflare.rules.yml").write_text(RULES.read_text())
    by_name = {rule["alert"]: rule for rule in rules()}
    assert by_name.keys() == CASES.keys()
    tests = []
    for name, (fires, quiet, labels) in CASES.items():
        rule = by_name[name]
        expected = [{"exp_labels": rule["labels"] | its, "exp_annotations": rule["annotations"]} for its in labels]
        for story, alerts in ((fires, expected), (quiet, [])):
            tests.append(
                {
                    "name": f"{name} {'fires' if alerts else 'is quiet'}",
                    "interval": "15s",
                    "input_series": [{"series": series, "values": values} for series, values in story],
                    "alert_rule_test": [{"eval_time": "30m", "alertname": name, "exp_alerts": alerts}],
                }
            )
    # JSON is YAML too.
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["qflare.rules.yml"], "tests": tests}))
    code, said = promtool("test", "rules", str(tmp_path / "tests.yml"))
    assert code == 0, said


def test_rules_speak_of_metrics_that_there_are():
    """Every name in an expression is one that /metrics shows, with labels that it has; every rule says what to do."""
    assert promtool("check", "rules", str(RULES))[0] == 0
    for rule in rules():
        assert names_in(rule["expr"]) <= names_shown(), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "remedy"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        for name, matchers in re.findall(r"\b(qflare_[a-z0-9_]+)\{([^}]*)\}", rule["expr"]):
            metric = BY_NAME.get(name) or BY_NAME[re.sub("_(bucket|count|sum)$", "", name)]
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= set(metric.labels), rule["alert"]


def test_operations_lists_every_alert():
    """The table in docs/operations.md is what the rules say."""
    table = [
        line for line in (ROOT / "docs" / "operations.md").read_text().splitlines() if line.startswith("| `Qflare")
    ]
    assert table == [
        f"| `{rule['alert']}` | {rule['labels']['severity']} | {rule['annotations']['summary']} |"
        f" {rule['annotations']['remedy']} |"
        for rule in rules()
    ]


def test_the_configuration_in_operations_is_one(tmp_path):
    """What docs/operations.md gives to Prometheus, it takes, with the rules beside it."""
    text = (ROOT / "docs" / "operations.md").read_text().partition("## Metrics and alerts\n")[2]
    (block,) = re.findall(r"^```yaml\n(scrape_configs:.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "prometheus.yml").write_text(block)
    (tmp_path / "qflare.rules.yml").write_text(RULES.read_text())
    code, said = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert code == 0, said
    assert f"{len(rules())} rules found" in said


async def port_of(process):
    """Return the port that a process listens on, which the kernel chose: nobody else can have taken it before."""
    folder = Path(f"/proc/{process.pid}")
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                own = {str(each.readlink()) for each in (folder / "fd").iterdir()}
                for line in (folder / "net" / "tcp").read_text().splitlines()[1:]:
                    _, local, _, state, *_, inode = line.split()[:10]
                    if (state, f"socket:[{inode}]" in own) == (LISTENS, True):
                        return int(local.rpartition(":")[2], 16)
            assert process.returncode is None, "it ended before it listened"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(folder, program, *arguments):
    """Run a program for the length of the block; its log is in the folder."""
    with (folder / f"{program}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(program, *arguments, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(60):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def answers(client, url, *, within_s=120):
    """Wait until an address answers with 200."""
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.1)


class Prometheus:
    """A Prometheus on loopback that scrapes one target every two seconds."""

    def __init__(self, client, url):
        self.client, self.url = client, url

    async def query(self, expression):
        """Evaluate an expression; return the series, or fail with what Prometheus says of it."""
        answer = (await self.client.get(f"{self.url}/api/v1/query", params={"query": expression})).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]

    async def until_scraped(self, *, within_s=120):
        """Wait until there are figures."""
        async with asyncio.timeout(within_s):
            while not await self.query("qflare_workers"):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def prometheus(folder, target, *, rules=None, alertmanager=None):
    """Run Prometheus; with *rules* it looks at them every second and tells *alertmanager*."""
    config = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "scrape_configs": [{"job_name": "qflare", "static_configs": [{"targets": [target]}]}],
    }
    if rules is not None:
        config["rule_files"] = [str(rules)]
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    arguments = (
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
    )
    async with (
        running(folder, "prometheus", *arguments) as process,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        address = f"127.0.0.1:{await port_of(process)}"
        await answers(client, f"http://{address}/-/ready")
        its = Prometheus(client, f"http://{address}")
        await its.until_scraped()
        yield its


class Webhook:
    """What an operator's own program would hear."""

    def __init__(self):
        self.alerts = []

    async def __call__(self, scope, receive, send):
        assert scope["method"] == "POST"
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        self.alerts += json.loads(body)["alerts"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def hastened(folder):
    """Write the rules with the same expressions, which fire at once; return the file."""
    hasty = re.sub(r"^        for: .*\n", "", RULES.read_text(), flags=re.MULTILINE)
    (folder / "hasty.rules.yml").write_text(hasty)
    assert [rule["expr"] for rule in yaml.safe_load(hasty)["groups"][0]["rules"]] == [rule["expr"] for rule in rules()]
    return folder / "hasty.rules.yml"


async def every_chart_has_series(scraping):
    """Ask Prometheus what each panel asks: no expression is wrong, and none is empty but for what never happened."""
    for chart, query in charts():
        series = await scraping.query(as_grafana_asks(query.expression))
        assert series or names_in(query.expression) & WITHOUT_SERIES, (chart.title, query.expression)


async def test_an_attack_reaches_the_webhook(database_dsn, tmp_path):
    """Forged M3s at a real server: Prometheus sees them, its rule fires, Alertmanager tells the operator's webhook."""
    webhook = Webhook()
    async with serving(webhook) as hears, watched(tmp_path, database_dsn) as its:
        (tmp_path / "alertmanager.yml").write_text(
            json.dumps(
                {
                    "route": {
                        "receiver": "hook",
                        "group_wait": "0s",
                        "group_interval": "1s",
                        "group_by": ["alertname"],
                    },
                    "receivers": [{"name": "hook", "webhook_configs": [{"url": f"{url_of(hears)}/"}]}],
                }
            )
        )
        arguments = (
            f"--config.file={tmp_path / 'alertmanager.yml'}",
            f"--storage.path={tmp_path / 'alertmanager'}",
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=",
        )
        async with (
            running(tmp_path, "prometheus-alertmanager", *arguments) as process,
            make_manager(database_dsn, tmp_path, keeper_dir=str(tmp_path / "keys")) as manager,
            httpx.AsyncClient(base_url=its.served.url, headers=OCTETS, trust_env=False, timeout=60) as device,
        ):
            target, alertmanager = its.url.split("/")[2], f"127.0.0.1:{await port_of(process)}"
            await answers(its.client, f"http://{alertmanager}/-/ready")
            async with prometheus(tmp_path, target, rules=hastened(tmp_path), alertmanager=alertmanager) as scraping:
                edge = await Edge.provision(manager)
                forged = (await edge.hello(manager)).message
                async with asyncio.timeout(60):
                    while not any(
                        alert["labels"]["alertname"] == "QflareHandshakesRefused" for alert in webhook.alerts
                    ):
                        # Another ticket each: the last byte of one that was real.
                        await asyncio.gather(
                            *(post(device, "confirm", forged[:-1] + bytes([number])) for number in range(16))
                        )
                        await asyncio.sleep(0.2)
                (alert,) = {json.dumps(alert["labels"]) for alert in webhook.alerts if "Refused" in str(alert)}
                assert json.loads(alert)["severity"] == "warning"
                refused = await scraping.query('sum by (reason) (qflare_handshakes_total{result="refused"})')
                assert {series["metric"]["reason"] for series in refused} == {"tag"}
                for rule in rules():
                    await scraping.query(rule["expr"])
                await every_chart_has_series(scraping)
                firing = {
                    series["metric"]["alertname"] for series in await scraping.query('ALERTS{alertstate="firing"}')
                }
                assert firing <= {
                    "QflareHandshakesRefused",
                    "QflareForgeries",
                    "QflareEvidenceLeftOut",
                    "QflareDetectorAlarm",
                }
