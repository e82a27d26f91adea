"""
A real Chromium without a screen, driven over its DevTools protocol through two pipes: no port, no driver, no download.

Debian's package is `chromium-headless-shell` (or `chromium`).
"""

import asyncio
import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WHY_NOT = "no Chromium here: install Debian's chromium-headless-shell"
KEYS = {"Enter": ("\r", 13), "Tab": ("", 9), " ": (" ", 32)}
_FIRST_FD = 20  # above what is put in place for the child


def program():
    """Return where Chromium is, None if nowhere."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Tab:
    """One page of the browser."""

    def __init__(self, browser, session):
        self._browser = browser
        self._session = session
        self.errors = []
        """What the console and the page complained about."""
        self.loaded = asyncio.Event()

    async def call(self, method, **parameters):
        return await self._browser.call(method, session=self._session, **parameters)

    def hear(self, method, told):
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def open(self, url):
        """Go to an address and wait until it is loaded."""
        async with self.loading():
            await self.call("Page.navigate", url=url)

    @asynccontextmanager
    async def loading(self, *, within_s=60):
        """Wait at the block's end until another document is loaded."""
        self.loaded.clear()
        yield
        async with asyncio.timeout(within_s):
            await self.loaded.wait()

    async def evaluate(self, expression):
        """Return the value of an expression of JavaScript, awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression, *, within_s=60):
        """Wait until an expression is true and return its value."""
        async with asyncio.timeout(within_s):
            while not (value := await self.evaluate(expression)):
                await asyncio.sleep(0.05)
            return value

    async def press(self, key, *, shift=False):
        """Press and release a key."""
        text, code = KEYS[key]
        common = {"key": key, "windowsVirtualKeyCode": code, "code": "Space" if key == " " else key}
        common["modifiers"] = 8 if shift else 0
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def write(self, text):
        """Type text into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def look(self, *, width, height=900, is_dark=False):
        """Take the size of a screen, and the colours that its owner prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    async def names(self):
        """Return (role, name) of everything that assistive programs are told of."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]

    async def picture(self):
        """Return the screen as PNG."""
        return base64.b64decode(
            (await self.call("Page.captureScreenshot", format="png", optimizeForSpeed=False))["data"]
        )


class Browser:
    """The process and both pipes."""

    def __init__(self, commands):
        self._commands = commands
        self._numbers = itertools.count(1)
        self._waiting = {}
        self._tabs = {}

    async def call(self, method, *, session=None, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        await asyncio.to_thread(_write, self._commands, json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(90):
            return await answer

    async def tab(self):
        """Open a page of its own, with cookies and storage of its own."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        self._tabs[session] = tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            await tab.call(f"{domain}.enable")
        await tab.look(width=1280)
        return tab

    async def listen(self, reader):
        """Hand on what the browser says, until it ends."""
        while True:
            try:
                line = await reader.readuntil(b"\0")
            except asyncio.IncompleteReadError:
                break
            message = json.loads(line[:-1])
            answer = self._waiting.pop(message.get("id"), None)
            if answer is None:
                tab = self._tabs.get(message.get("sessionId"))
                if tab is not None:
                    tab.hear(message["method"], message["params"])
            elif not answer.done():
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]))
                else:
                    answer.set_result(message["result"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(AssertionError("Chromium has ended"))


@asynccontextmanager
async def chromium():
    """Yield a browser of its own folder; ends it afterwards."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="qflare-chromium-", ignore_cleanup_errors=True) as folder:
        theirs_in, ours_out, ours_in, theirs_out = (
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD) for fd in _pipes()
        )
        process = os.posix_spawn(  # noqa: ASYNC221 - it returns at once; the standard way cannot place descriptors
            program(),
            [
                "chromium", "--headless", "--remote-debugging-pipe", f"--user-data-dir={folder}",
                "--no-sandbox",  # the tests may run as root; what is opened is our own page
                "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb",
                "about:blank",
            ],
            {"HOME": folder, "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "UTC"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, f"{folder}/stderr", os.O_WRONLY | os.O_CREAT, 0o600),
            ],
            setpgroup=0,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        reader = asyncio.StreamReader(limit=64 * 2**20)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb", buffering=0)
        )
        browser = Browser(ours_out)
        listening = loop.create_task(browser.listen(reader))
        try:
            yield browser
        finally:
            with contextlib.suppress(AssertionError, TimeoutError, OSError):
                async with asyncio.timeout(60):
                    await browser.call("Browser.close")
            # Its helpers are of the same group: whatever is left of them ends too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            await asyncio.to_thread(os.waitpid, process, 0)
            os.close(ours_out)
            await listening
            transport.close()


def _pipes():
    made = [*os.pipe(), *os.pipe()]
    try:
        yield from made
    finally:
        for fd in made:
            os.close(fd)


def _write(fd, data):
    while data:
        data = data[os.write(fd, data) :]
