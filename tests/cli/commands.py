"""Running `qflare` as a process of its own."""

import json
import subprocess
import sys

from service.processes import environment


class Ended:
    """What a command left: exit code, stdout and stderr; never a traceback."""

    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr
        assert "Traceback" not in self.err, self.err

    def __repr__(self):
        """What a failing assertion shows."""
        return f"Ended({self.code}, {self.out!r}, {self.err!r})"

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def line(self):
        """The one line of an error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def qflare(folder, *arguments, stdin="", timeout_s=60, **variables):
    """Run one command in *folder*."""
    done = subprocess.run(
        [sys.executable, "-m", "qflare", *map(str, arguments)],
        cwd=folder,
        env=environment(folder, **variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ended(done)
