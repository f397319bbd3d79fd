"""The README's pictures: two models compared on the page, and what `explain` says of one.

    python -m benchmarks.serving.pictures out/demo/packed/dense-int8 out/demo/packed/sparse-int8

Needs selenium, Chromium and its driver. What they show is what was answered, at the speed of this machine.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parents[2] / "docs" / "images"
CUTWORK = str(Path(sys.executable).with_name("cutwork"))
QUESTION = (
    "A juggler can juggle 48 balls. 75% of the balls are golf balls, and 25% of the golf balls are blue. "
    "How many blue golf balls are there?"
)
WIDTH = 140  # characters of the picture of explain


def compared(models: dict[str, Path], question: str, size: tuple[int, int], picture: Path) -> None:
    """A picture of the tab where both have answered, one after the other."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    named = [f"{name}={path}" for name, path in models.items()]
    port = address.rpartition(":")[2]
    server = subprocess.Popen([CUTWORK, "serve", *named, "--port", port])
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(argument)
    try:
        _wait(lambda: httpx.get(f"{address}/health/ready").is_success)
        browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.get(address)
            _wait(lambda: browser.find_element(By.ID, "tab-compare").is_displayed())
            browser.find_element(By.ID, "tab-compare").click()
            browser.execute_script("document.getElementById('temperature').value = 0;")
            browser.find_element(By.ID, "in-turn").click()
            browser.find_element(By.ID, "compare-prompt").send_keys(question, Keys.ENTER)
            _wait(lambda: all(browser.find_element(By.ID, f"speed-{side}").text for side in ("left", "right")))
            _wait(lambda: browser.find_element(By.ID, "compare-send").is_enabled())
            picture.parent.mkdir(exist_ok=True)
            browser.save_screenshot(str(picture))
        finally:
            browser.quit()
    finally:
        server.terminate()
        server.wait()


def explained(model: Path, picture: Path) -> None:
    """A picture of `cutwork explain` in a terminal."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [CUTWORK, "explain", str(model)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    terminal = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    terminal.print(Text.from_ansi(said))
    picture.write_text(terminal.export_svg(title="cutwork explain"), encoding="utf-8")


def _wait(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (httpx.HTTPError, OSError):
            pass
        time.sleep(0.1)
    sys.exit("it did not happen; is the model one that chats?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path)
    parser.add_argument("sparse", type=Path)
    parser.add_argument("--question", default=QUESTION)
    options = parser.parse_args()
    models = {"dense": options.dense, "sparse": options.sparse}
    compared(models, options.question, (1200, 760), PICTURES / "compare.png")
    explained(options.sparse, PICTURES / "explain.svg")


if __name__ == "__main__":
    main()
