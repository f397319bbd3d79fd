"""The page in a real browser; skipped where there is none (Debian: chromium, chromium-driver)."""

import shutil

import pytest

from .conftest import metric, serving, slow, until

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not (DRIVER and BROWSER), reason="no chromedriver or no Chromium")


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def find(browser, name):
    return browser.find_element(By.ID, name)


def test_a_prompt_is_answered_token_by_token(browser, load):
    with serving(load()) as client:
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        assert "context 512" in find(browser, "card").text and find(browser, "model").get_attribute("value") == "tiny"
        assert browser.switch_to.active_element.get_attribute("id") == "prompt"
        browser.execute_script("document.getElementById('temperature').value = 0;")
        browser.execute_script(
            "window.seen = []; new MutationObserver(() => window.seen.push("
            "document.querySelector('.message.assistant').textContent.length))"
            ".observe(document.getElementById('messages'), {childList: true, subtree: true, characterData: true});"
        )
        browser.execute_script("document.getElementById('max_tokens').value = 40;")
        find(browser, "prompt").send_keys("the cat", Keys.ENTER)
        until(lambda: "from the cache" in find(browser, "messages").text)
        expected = client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 40, "temperature": 0},
        ).json()["choices"][0]["message"]["content"]
        answer = browser.execute_script("return document.querySelector('.message.assistant').firstChild.textContent")
        assert answer == expected
        assert len(set(browser.execute_script("return window.seen"))) > 5, "it came in pieces"
        assert "tokens/s · first token" in find(browser, "speed").text
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_stop_ends_the_request(browser, load):
    with serving(load()) as client:
        slow(client, 0.05)
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        find(browser, "prompt").send_keys("the cat", Keys.ENTER)
        until(lambda: metric(client, "num_requests_running") == 1)
        find(browser, "stop").click()
        until(lambda: metric(client, "request_cancelled_total") == 1)
        until(lambda: "stopped" in find(browser, "messages").text)


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(browser, load, width):
    with serving(load()) as client:
        browser.set_window_size(width, 740)
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_a_key_is_asked_for(browser, load):
    with serving(load(), keys=["secret"]) as client:
        browser.get(str(client.base_url))
        until(lambda: "API key" in find(browser, "card").text)
        find(browser, "key").send_keys("secret", Keys.TAB)
        until(lambda: "zeros" in find(browser, "card").text)
