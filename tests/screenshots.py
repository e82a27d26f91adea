"""
`make screenshots`: pictures of the live page in docs/images, of a real run of the demo with its attacks.

Chromium takes them; what is on them is whatever the run did.
"""

import asyncio
import contextlib
import io
import re
import signal
import sys
import tempfile
from pathlib import Path

from PIL import Image  # matplotlib brings it

from chromium import WHY_NOT, chromium, program

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BYTES_MAX = 300_000
"""Of all pictures together: they are in every clone for ever."""
COLOURS = 128
RUN_S = 400
SHOWN = re.compile(r"live page at (\S+) for operator (\S+) with the secret (\S+)")
OVER = "the run is over"


async def take(url, name, secret):
    """Log in and take every picture; return them by name."""
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(f"{url}/login")
        await tab.until("document.activeElement.id === 'name'")
        await tab.write(name)
        await tab.press("Tab")
        await tab.until("document.activeElement.id === 'secret'")
        await tab.write(secret)
        async with tab.loading():
            await tab.press("Enter")
        await tab.until("document.getElementById('live').textContent === 'Live'")
        await tab.look(width=1100, height=1000)
        pictures = {"live-page.png": await tab.picture()}
        await tab.evaluate("document.getElementById('verify').click()")
        await tab.until("/^✓/.test(verdict.textContent)")
        await tab.look(width=1100, height=640)
        await tab.evaluate("document.getElementById('title-log').scrollIntoView()")
        pictures["live-page-log.png"] = await tab.picture()
        await tab.look(width=390, height=844, is_dark=True)
        await tab.evaluate("scrollTo(0, 0)")
        pictures["live-page-phone.png"] = await tab.picture()
        await tab.look(width=1100, height=900)
        async with tab.loading():
            await tab.evaluate("document.querySelector('#part-incidents a').click()")
        pictures["live-page-incident.png"] = await tab.picture()
        assert [] == tab.errors
    return pictures


def with_fewer_bytes(png):
    """Return the same picture in few colours: letters on one ground need no more."""
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


async def main():
    """Run the demo, take the pictures once it is over, and end it."""
    if program() is None:
        sys.exit(WHY_NOT)
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, "-m", "qflare", "demo", "--watch", "--folder", f"{folder}/demo")
        run = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            shown = None
            async with asyncio.timeout(RUN_S):
                async for line in run.stdout:
                    text = line.decode()
                    shown = shown or SHOWN.search(text)
                    if text.startswith(OVER):
                        break
            if shown is None:
                sys.exit("the demo did not say where its live page is")
            pictures = await take(*shown.groups())
        finally:
            with contextlib.suppress(ProcessLookupError):
                run.send_signal(signal.SIGINT)
            await run.communicate()
    smaller = {name: with_fewer_bytes(picture) for name, picture in pictures.items()}
    total = sum(map(len, smaller.values()))
    if total > BYTES_MAX:
        sys.exit(f"the pictures have {total:,} bytes together, at most {BYTES_MAX:,}")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, picture in smaller.items():
        (IMAGES / name).write_bytes(picture)
        sys.stdout.write(f"docs/images/{name}: {len(picture):,} bytes\n")


if __name__ == "__main__":
    asyncio.run(main())
