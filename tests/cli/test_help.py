"""
`--help` of every command is what it was.

After a wanted change:  python tests/cli/test_help.py > tests/cli/help.txt
"""

import json
import re
import subprocess
import sys
from pathlib import Path

COMMANDS = (
    (),
    ("serve",),
    ("signer",),
    ("enrol",),
    ("token",),
    ("token", "issue"),
    ("tokens",),
    ("tokens", "issue"),
    ("tokens", "list"),
    ("tokens", "show"),
    ("tokens", "revoke"),
    ("devices",),
    ("devices", "list"),
    ("devices", "show"),
    ("devices", "rotate"),
    ("devices", "suspend"),
    ("devices", "resume"),
    ("devices", "revoke"),
    ("devices", "compromise"),
    ("sessions",),
    ("sessions", "list"),
    ("sessions", "show"),
    ("sessions", "revoke"),
    ("keys",),
    ("keys", "list"),
    ("keys", "show"),
    ("keys", "destroy"),
    ("tenants",),
    ("tenants", "list"),
    ("tenants", "show"),
    ("tenants", "add"),
    ("operator",),
    ("operator", "add"),
    ("operator", "renew"),
    ("operator", "list"),
    ("operator", "revoke"),
    ("operator", "two-persons"),
    ("policy",),
    ("policy", "show"),
    ("policy", "set"),
    ("policy", "remove"),
    ("policy", "plan"),
    ("policy", "status"),
    ("identity",),
    ("identity", "show"),
    ("identity", "rotate"),
    ("identity", "export-root"),
    ("identity", "request"),
    ("identity", "sign"),
    ("identity", "import"),
    ("incident",),
    ("incident", "list"),
    ("incident", "show"),
    ("incident", "ack"),
    ("incident", "close"),
    ("incident", "responses"),
    ("incident", "plan"),
    ("incident", "apply"),
    ("incident", "confirm"),
    ("incident", "undo"),
    ("incident", "dismiss"),
    ("incident", "rules"),
    ("device",),
    ("device", "show"),
    ("device", "connect"),
    ("device", "send"),
    ("device", "evidence"),
    ("demo",),
    ("migrate",),
    ("backup",),
    ("restore",),
    ("doctor",),
    ("audit",),
    ("audit", "verify"),
    ("audit", "export"),
    ("audit", "prove"),
    ("audit", "watch"),
    ("audit", "witness-key"),
    ("audit", "countersign"),
    ("audit", "disclose"),
    ("audit", "verify-disclosure"),
    ("audit", "erase"),
    ("audit", "archive"),
    ("audit", "drop"),
    ("audit", "show"),
    ("audit", "tail"),
    ("bench",),
    ("bench", "load"),
    ("bench", "compare"),
    ("bench", "flame"),
    ("dashboards",),
    ("completion",),
)
GROUPS = {
    (name,)
    for name in (
        "token",
        "tokens",
        "devices",
        "sessions",
        "keys",
        "tenants",
        "operator",
        "policy",
        "identity",
        "incident",
        "device",
        "audit",
    )
}
GOLDEN = Path(__file__).with_name("help.txt")


FORKING = """
import json, os, sys, tempfile
from qflare.cli import commands  # what every command loads, once for all
from qflare.cli.main import run

ended = []
for words in json.load(sys.stdin):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = run(words)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        ended.append((code, out.read(), err.read()))
print(json.dumps(ended))
"""


def helps(folder):
    """Return every command's help, one after the other; each is a process of its own, forked from one that is loaded."""
    from service.processes import environment

    wanted = [[*command, "--help"] for command in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        cwd=folder,
        env=environment(folder),
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    texts = []
    for words, (code, out, err) in zip(wanted, json.loads(done.stdout), strict=True):
        assert (0, "") == (code, err), words
        texts.append(f"$ qflare {' '.join(words)}\n{out.rstrip()}\n")
    return "\n".join(texts)


def test_help_is_what_it_was(tmp_path):
    """The text that people and scripts read changes only on purpose."""
    assert GOLDEN.read_text() == helps(tmp_path)


def test_no_command_is_missing():
    """The list above is every command there is."""
    import typer

    from qflare.cli.commands import app

    def walk(command, path):
        yield path
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))

    assert sorted(walk(typer.main.get_command(app), ())) == sorted(COMMANDS)


def test_what_the_wheel_for_devices_leaves_out_keeps_its_name():
    """A group is called as the table of commands says, by which its stand-in goes where the group is left out."""
    import typer

    from qflare.cli.commands import _COMMANDS, app

    assert sorted(typer.main.get_command(app).commands) == sorted(name for name, _, _ in _COMMANDS)


def test_the_document_names_every_command():
    """docs/cli.md has a row for each command that does something."""
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    named = {
        tuple(found.split()[1:]) for found in re.findall(r"^\| `(qflare [a-z -]+[a-z])[ A-Z]*` ", text, re.MULTILINE)
    }
    assert named == {command for command in COMMANDS if command and command not in GROUPS}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        sys.stdout.write(helps(Path(name)))
