"""The page in a real browser; skipped where there is none (Debian: chromium, chromium-driver)."""

import json
import shutil

import pytest
import soundfile

from cutwork.store.examples import write_examples
from tests.engine.speech.tiny import save as save_whisper
from tests.engine.speech.tiny import sound

from .. import text_to_text
from ..architectures.test_t5 import make as make_t5
from ..engine import bart_tiny
from ..engine.test_languages import tokenizer as language_tokenizer
from .conftest import Model, force, metric, serving, slow, until

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

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
        answer = browser.execute_script("return document.querySelector('.message.assistant .said').textContent")
        assert answer == expected
        assert len(set(browser.execute_script("return window.seen"))) > 5, "it came in pieces"
        assert "tokens/s · first token" in find(browser, "speed").text
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


THINKS = "{{ tools }}<tool_call>{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}<think>"
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
SECOND = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'


def test_thoughts_are_folded_and_calls_are_answered(browser, recorded):
    with recorded(THINKS, f"\nIs it?\n</think>\n\nI look.\n{CALL}{SECOND}") as client:
        browser.get_log("browser")  # what other pages said
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        browser.execute_script("document.getElementById('settings').open = true")
        find(browser, "tools").send_keys(TOOLS)
        find(browser, "prompt").send_keys("Is it raining?", Keys.ENTER)
        until(lambda: "from the cache" in find(browser, "messages").text)
        [thought] = browser.find_elements(By.CSS_SELECTOR, ".thought")
        assert "Thought for" in thought.text and "Is it?" not in thought.text, "folded"
        thought.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        assert "Is it?" in thought.text
        calls = browser.find_elements(By.CSS_SELECTOR, ".call")
        assert [call.text for call in calls] == ["Calls weather", "Calls time"]
        for name, result in (("weather", "rain"), ("time", "more rain")):
            assert find(browser, "prompt").get_attribute("placeholder") == f"What does {name} return?"
            force(client.model, "It rains.</think>It rains.")
            find(browser, "prompt").send_keys(result, Keys.ENTER)
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, ".message.assistant")) == 2)
        until(lambda: find(browser, "messages").text.count("from the cache") == 2)
        assert "time returns more rain" in find(browser, "messages").text
        assert "Ask something" in find(browser, "prompt").get_attribute("placeholder")
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_examples_are_asked_by_a_click(browser, recorded, tmp_path):
    write_examples(tmp_path, ["How many apples?", "How many pears?"])
    with recorded(THINKS, "None.") as client:
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        offered = browser.find_elements(By.CSS_SELECTOR, "#examples button")
        assert [button.text for button in offered] == ["How many apples?", "How many pears?"]
        offered[1].send_keys(Keys.ENTER)
        until(lambda: "from the cache" in find(browser, "messages").text)
        assert browser.find_element(By.CSS_SELECTOR, ".message.user").text == "How many pears?"
        assert not find(browser, "examples").is_displayed()
        find(browser, "clear").click()
        assert find(browser, "examples").is_displayed()


@pytest.mark.parametrize("in_turn", [False, True])
def test_two_models_answer_side_by_side(browser, load, in_turn):
    first, second = load(), load()
    force(first, "Seven apples.")
    force(second, "Eight apples, or so.")
    with serving({"dense": first, "sparse": second}) as client:
        browser.get_log("browser")  # what other pages said
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        find(browser, "tab-chat").send_keys(Keys.ARROW_RIGHT)
        assert browser.switch_to.active_element.get_attribute("id") == "tab-compare"
        until(lambda: find(browser, "compare").is_displayed())
        assert find(browser, "model-left").get_attribute("value") == "dense"
        assert find(browser, "model-right").get_attribute("value") == "sparse"
        if in_turn:
            find(browser, "in-turn").click()
        find(browser, "compare-prompt").send_keys("How many?", Keys.ENTER)
        for side, answer in (("left", "Seven apples."), ("right", "Eight apples, or so.")):
            until(lambda side=side: "from the cache" in find(browser, f"answer-{side}").text)
            assert answer in find(browser, f"answer-{side}").text
            assert "tokens/s · first token" in find(browser, f"speed-{side}").text
        assert find(browser, "question").text == "How many?"
        assert browser.switch_to.active_element.get_attribute("id") == "compare-prompt"
        find(browser, "tab-compare").send_keys(Keys.ARROW_LEFT)
        assert find(browser, "prompt").is_displayed()
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_model_is_drawn_from_as_it_says_until_somebody_chooses(browser, load):
    def drawn():
        return [find(browser, name).get_attribute("value") for name in ("temperature", "top_p")]

    quiet, silent = load(), load()
    quiet.usual_sampling = {"temperature": 0.3, "top_k": 20}
    silent.usual_sampling = {}
    with serving({"quiet": quiet, "silent": silent}) as client:
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        assert drawn() == ["0.3", "1"]
        Select(find(browser, "model")).select_by_value("silent")
        until(lambda: drawn() == ["0.7", "0.9"])
        browser.execute_script(
            "const box = document.getElementById('temperature'); box.value = 0; box.dispatchEvent(new Event('input'));"
        )
        Select(find(browser, "model")).select_by_value("quiet")
        until(lambda: drawn() == ["0", "1"])


def test_stop_ends_the_request(browser, load):
    with serving(load()) as client:
        slow(client, 0.05)
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        browser.execute_script("document.getElementById('temperature').value = 0;")  # a draw may end at once
        find(browser, "prompt").send_keys("the cat", Keys.ENTER)
        until(lambda: metric(client, "num_requests_running") == 1)
        find(browser, "stop").click()
        until(lambda: metric(client, "request_cancelled_total") == 1)
        until(lambda: "stopped" in find(browser, "messages").text)


def test_a_new_conversation_has_nothing_of_the_answer_that_was_being_written(browser, load):
    with serving(load()) as client:
        slow(client, 0.05)
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        browser.execute_script(
            "window.asked = []; const fetch = window.fetch;"
            "window.fetch = (path, given) => { window.asked.push(JSON.parse(given.body)); return fetch(path, given); };"
        )
        browser.execute_script("document.getElementById('temperature').value = 0;")  # a draw may end at once
        find(browser, "prompt").send_keys("the cat", Keys.ENTER)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, ".message.assistant .said:not(:empty)"))
        find(browser, "clear").click()
        until(lambda: metric(client, "request_cancelled_total") == 1)
        find(browser, "prompt").send_keys("the dog", Keys.ENTER)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, ".message.assistant .said:not(:empty)"))
        find(browser, "stop").click()
        until(lambda: "stopped" in find(browser, "messages").text)
        _, asked = browser.execute_script("return window.asked")
        assert asked["messages"] == [{"role": "user", "content": "the dog"}]
        assert len(browser.find_elements(By.CSS_SELECTOR, ".message")) == 2 and find(browser, "send").is_enabled()


@pytest.mark.parametrize("width", [360, 1200])
def test_everything_has_its_place_in_the_window(browser, load, width):
    with serving({"a-model-whose-name-is-as-long-as-the-hub-has-them-4B": load()}) as client:
        browser.set_window_size(width, 740)
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        browser.execute_script("document.getElementById('settings').open = true")
        form, settings = (
            browser.execute_script("return document.getElementById(arguments[0]).getBoundingClientRect()", name)
            for name in ("form", "settings")
        )
        assert form["bottom"] <= settings["top"], "nothing lies upon another"


def test_prompts_to_try_leave_the_prompt_in_sight_of_a_telephone(browser, recorded, tmp_path):
    write_examples(tmp_path, ["A juggler can juggle many balls, of which some are red. How many are red? " * 2] * 4)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 664, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        with recorded(THINKS) as client:
            browser.get(str(client.base_url))
            until(lambda: "zeros" in find(browser, "card").text)
            form = browser.execute_script("return document.getElementById('form').getBoundingClientRect()")
            assert form["bottom"] <= browser.execute_script("return window.innerHeight")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_lost_server_is_said_in_words_and_the_prompt_is_there_to_send_again(browser, load):
    with serving(load()) as client:
        browser.get(str(client.base_url))
        until(lambda: "zeros" in find(browser, "card").text)
    find(browser, "prompt").send_keys("the cat", Keys.ENTER)
    until(lambda: "The connection to the server is lost" in find(browser, "messages").text)
    assert find(browser, "prompt").get_attribute("value") == "the cat"
    browser.get_log("browser")  # of the refused connection


def test_a_key_is_asked_for(browser, load):
    with serving(load(), keys=["secret"]) as client:
        browser.get(str(client.base_url))
        until(lambda: "API key" in find(browser, "card").text)
        find(browser, "key").send_keys("secret", Keys.TAB)
        until(lambda: "zeros" in find(browser, "card").text)


def test_the_translate_tab_translates_line_by_line(browser, tmp_path):
    with serving(text_to_text.load(text_to_text.save(make_t5("v1.1"), tmp_path), max_input=64)) as client:
        browser.get_log("browser")  # what other pages said
        browser.get(str(client.base_url))
        until(lambda: find(browser, "source").is_displayed())
        assert not find(browser, "prompt").is_displayed()
        find(browser, "source").send_keys("a short one", Keys.ENTER, "one that is longer", Keys.CONTROL, Keys.ENTER)
        until(lambda: "tokens/s" in find(browser, "translating").text)
        texts = {"text": ["a short one", "one that is longer"], "num_beams": 5}
        expected = [each["text"] for each in client.post("/translate", json=texts).json()["translations"]]
        shown = browser.execute_script("return document.getElementById('translated').textContent")
        assert shown == "".join(f"{text}\n" for text in expected)
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_translate_tab_says_the_languages(browser, tmp_path):
    made = bart_tiny.make("m2m-100")
    made.generation_config.update(eos_token_id=2)
    made.save_pretrained(tmp_path)
    language_tokenizer().save_pretrained(tmp_path)
    with serving(text_to_text.load(tmp_path, max_input=64)) as client:
        browser.get(str(client.base_url))
        until(lambda: find(browser, "source").is_displayed())
        find(browser, "from").send_keys("eng_Latn")
        find(browser, "to").send_keys("deu_Latn")
        find(browser, "source").send_keys("a short one", Keys.CONTROL, Keys.ENTER)
        until(lambda: "tokens/s" in find(browser, "translating").text)
        asked = {"text": "a short one", "num_beams": 5, "source": "eng_Latn", "target": "deu_Latn"}
        [expected] = client.post("/translate", json=asked).json()["translations"]
        shown = browser.execute_script("return document.getElementById('translated').textContent")
        assert shown == f"{expected['text']}\n"
        find(browser, "to").clear()
        find(browser, "to").send_keys("xxx_Latn")
        find(browser, "source").send_keys(Keys.CONTROL, Keys.ENTER)
        until(lambda: "no language 'xxx_Latn'" in find(browser, "translating").text)


def test_the_transcribe_tab_shows_what_the_route_says(browser, tmp_path):
    recording = tmp_path / "a.wav"
    soundfile.write(recording, sound(2), 16_000)
    with serving(Model.load(save_whisper(tmp_path / "whisper", 4), threads=1, cache_bytes=1 << 24)) as client:
        browser.get_log("browser")  # what other pages said
        browser.get(str(client.base_url))
        until(lambda: find(browser, "audio").is_displayed())
        assert find(browser, "language").is_displayed() and find(browser, "into-english").is_displayed()
        browser.execute_script(
            "window.answers = []; const fetch = window.fetch; window.fetch = async (...given) => {"
            "const answer = await fetch(...given); answer.clone().text().then((text) => window.answers.push(text));"
            "return answer; };"
        )
        find(browser, "audio").send_keys(str(recording))
        find(browser, "listen").click()
        until(lambda: "real time" in find(browser, "listening").text)
        until(lambda: browser.execute_script("return window.answers.some((text) => text.includes('text.done'))"))
        said = browser.execute_script("return window.answers.find((text) => text.includes('text.done'))")
        events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
        assert len(events) > 1 and events[-1]["type"] == "transcript.text.done"
        assert browser.execute_script("return document.getElementById('heard').textContent") == events[-1]["text"]
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_model_of_english_alone_is_offered_no_other_language(browser, tmp_path):
    whisper = save_whisper(tmp_path / "whisper", multilingual=False)
    with serving(Model.load(whisper, threads=1, cache_bytes=1 << 24)) as client:
        browser.get(str(client.base_url))
        until(lambda: find(browser, "audio").is_displayed())
        assert find(browser, "subtitles").is_displayed()
        assert not find(browser, "language").is_displayed() and not find(browser, "into-english").is_displayed()
