"""A real browser, headless: what a page looks like, how wide it is, and whom it asks for anything."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CSP = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')

# Reports of the page inside the frame: its width, and what sticks out of it.
_PROBE = """
addEventListener("load", () => {
  const inner = document.querySelector("iframe").contentDocument, page = inner.documentElement;
  const out = [...inner.querySelectorAll("body *")].filter(e => {
    const box = e.getBoundingClientRect();
    return !e.closest("svg.chart") && box.width && (box.right > page.clientWidth + 0.5 || box.left < -0.5);
  });
  const style = getComputedStyle(inner.body);
  const found = {scroll: page.scrollWidth, client: page.clientWidth, background: style.backgroundColor,
    ink: style.color, out: out.slice(0, 5).map(e => e.outerHTML.slice(0, 200)),
    charts: [...inner.querySelectorAll("svg.chart")].map(e => e.getBoundingClientRect().width),
    small: [...inner.querySelectorAll("p, td, li, dd, dt, text")].filter(e =>
      e.getBoundingClientRect().width && parseFloat(inner.defaultView.getComputedStyle(e).fontSize) < 11).length};
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
});
"""


@dataclass(frozen=True)
class Browser:
    """Chromium, with a profile of its own."""

    program: str
    folder: Path

    def run(self, page: Path, *options: str, dark: bool = False) -> str:
        """Load a page and return its DOM."""
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        argv = [self.program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", scheme, *options]
        argv += [f"--user-data-dir={self.folder / 'profile'}", page.as_uri()]
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", errors="replace", timeout=100, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def measure(self, text: str, width: int, *, dark: bool = False) -> dict[str, Any]:
        """Lay a page out in a frame of this width (a window is never narrower than 500), every detail unfolded."""
        assert _CSP.search(text)
        # the page forbids scripts, and the frame takes over what it forbids: only this copy allows the probe
        open_text = _CSP.sub("", text).replace("<details>", "<details open>")
        frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(open_text)}"></iframe>'
        wrapper = self.folder / "wrapper.html"
        style = "<style>:root{color-scheme: light dark}</style>"
        wrapper.write_text(f"<!DOCTYPE html>{style}<body>{frame}<script>{_PROBE}</script>", encoding="utf-8")
        dom = self.run(wrapper, "--dump-dom", "--window-size=1400,1000", dark=dark)
        found = re.search(r'<pre id="found">(.*?)</pre>', dom, flags=re.DOTALL)
        assert found is not None, dom[-2000:]
        measured: dict[str, Any] = json.loads(html.unescape(found[1]))
        return measured

    def asked(self, page: Path) -> list[str]:
        """Every address that loading the page asked for, but for the page itself."""
        log = self.folder / "net.json"
        self.run(page, "--dump-dom", f"--log-net-log={log}", "--disable-background-networking", "--no-first-run")
        text = log.read_text(encoding="utf-8", errors="replace")
        urls = re.findall(r'"url":"([^"]+)"', text)
        return sorted({url for url in urls if not url.startswith(page.as_uri()) and not _own(url)})


def _own(url: str) -> bool:
    """Whether the browser itself asks: its pages, and its maker's servers (updates, variations)."""
    return bool(
        re.match(r"(chrome|chrome-\w+|about|data|blob|devtools):|https?://[\w.-]+\.(google|googleapis|gvt1)\.", url)
    )


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """The first browser on PATH that is called one of `NAMES`."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(NAMES)}")
    return Browser(program, tmp_path_factory.mktemp("browser"))
