"""The rating page in a real browser: thirty ratings by keyboard, closed in the middle, killed and resumed.

Slow (a browser and two processes), and skipped where Chromium, its driver or the extras are not installed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.chat import ChatFormat
from data.formats import read_rows, write_rows
from data.preferences import read_preferences
from model.load import model_files
from model.storage import checkpoint_folder, write_folder
from tests.small import small_model

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
EVIL = "<script>document.title = 'taken'</script><b id=evil>bold</b>"
PATIENCE = 300  # seconds for what takes one or two on a quiet machine
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and chromedriver are not installed"),
]


@pytest.fixture
def keys():
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason=f"{name} is not installed (the extra serve)")
    return pytest.importorskip("selenium.webdriver.common.keys", reason="selenium is not installed").Keys


@contextmanager
def browser(profile: Path):
    """A browser of its own profile, at the width of a small laptop."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    quiet = ("first-run", "background-networking", "component-update", "sync")
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    for flag in quiet[1:]:
        options.add_argument(f"--disable-{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--window-size=1200,800")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def served(command: list[str]):
    """The address of a running page; the process is killed at the end, without a chance to tidy up."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", env=environment)
    watchdog = threading.Timer(2 * PATIENCE, process.kill)
    watchdog.start()
    try:
        yield re.search(r"http://\S+", process.stdout.readline()).group()
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def until(holds) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.03)


def count_of(driver) -> str:
    return driver.execute_script("return document.querySelector('article, .quiet-page') ? at('count').textContent : ''")


def press(driver, key: str) -> None:
    """One key to the page as it is, without looking for anything to click on; waits for what comes of it."""
    from selenium.webdriver.common.action_chains import ActionChains

    before = count_of(driver), driver.title
    ActionChains(driver).send_keys(key).perform()
    until(lambda: count_of(driver) and (count_of(driver), driver.title) != before)
    until(lambda: driver.execute_script("return !busy"))


@pytest.fixture
def command(tmp_path, small_tokenizer) -> list[str]:
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=128)
    write_folder(checkpoint_folder(tmp_path / "run", 1), model_files(model, small_tokenizer, ChatFormat()))
    rows = [{"instruction": f"{EVIL} kato 指令 {i}", "input": "", "output": ""} for i in range(30)]
    write_rows(tmp_path / "prompts.jsonl", rows)
    files = [str(tmp_path / "run"), str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    more = ["--web", "--port", "0", "--tokens", "8", "--temperature", "2"]
    return [sys.executable, "-m", "train.rate", *files, *more]


def test_thirty_ratings_by_keyboard_closed_in_the_middle_and_resumed(command, tmp_path, keys):
    pressed = [(keys.ARROW_LEFT, keys.ARROW_RIGHT, "1", "2", "t", "s")[i % 6] for i in range(30)]
    with served(command) as address:
        with browser(tmp_path / "one") as driver:
            driver.get(address)
            until(lambda: count_of(driver) == "1 of 30")
            assert driver.title == "1 of 30 · Rating"
            assert driver.execute_script("return document.getElementById('evil')") is None
            assert EVIL in driver.find_element("css selector", ".prompt").text
            for number, key in enumerate(pressed[:9], 1):
                press(driver, key)
                assert count_of(driver) == f"{number + 1} of 30"
        with browser(tmp_path / "two") as driver:  # the page was closed, the program ran on
            driver.get(address)
            until(lambda: count_of(driver) == "10 of 30")
            for key in pressed[9:15]:
                press(driver, key)
    assert len(read_preferences(tmp_path / "out.jsonl")) == 11
    with served(command) as address, browser(tmp_path / "three") as driver:  # the program was killed as well
        driver.get(address)
        until(lambda: count_of(driver) == "16 of 30")
        for _ in range(2):
            press(driver, "u")
        assert count_of(driver) == "14 of 30"
        for key in pressed[13:]:
            press(driver, key)
        assert driver.title == "All rated" and "Everything is rated." in driver.find_element("id", "main").text
        assert str(tmp_path / "out.jsonl") in driver.find_element("id", "main").text
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    pairs = read_preferences(tmp_path / "out.jsonl")
    assert len(pairs) == 20 and all(EVIL in pair.prompt[0].content for pair in pairs)
    log = [event for _, event in read_rows(tmp_path / "out.session.jsonl")]
    assert [event["event"] for event in log if event["event"] in ("rate", "undo")].count("rate") == 32


def test_everything_can_be_reached_by_tab_and_is_named(command, tmp_path, keys):
    """Focus goes through the choices in their order, is visible, and Enter presses what has it."""
    from selenium.webdriver.common.action_chains import ActionChains

    with served(command) as address, browser(tmp_path / "one") as driver:
        driver.get(address)
        until(lambda: count_of(driver) == "1 of 30")
        names = []
        for _ in range(4):
            ActionChains(driver).send_keys(keys.TAB).perform()
            focus = driver.switch_to.active_element
            names.append(focus.accessible_name)
            assert focus.value_of_css_property("outline-style") == "solid"
        assert names == ["First is better", "Second is better", "Tie", "Skip"], "undo has nothing to do yet"
        press(driver, keys.ENTER)
        assert count_of(driver) == "2 of 30"
        ActionChains(driver).send_keys("?").perform()
        until(lambda: driver.find_element("id", "keys").is_displayed())
        ActionChains(driver).send_keys("t").perform()
        ActionChains(driver).send_keys(keys.ESCAPE).perform()
        until(lambda: not driver.find_element("id", "keys").is_displayed())
        driver.find_element("id", "help").click()
        driver.find_element("id", "close").click()
        assert not driver.find_element("id", "keys").is_displayed()
        assert count_of(driver) == "2 of 30", "no rating while the keys are shown"
