"""Recordings over HTTP: OpenAI's transcription routes over a tiny random Whisper."""

import gc
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import soundfile

from cutwork.engine.decoding.sampling import NotFinite
from cutwork.errors import CutworkError
from cutwork.serve.http.app import make_app
from cutwork.serve.http.errors import shutting_down
from cutwork.serve.jobs.job import ModelThread
from cutwork.serve.jobs.transcriber import Recording, Transcriber
from cutwork.serve.limits import Limits
from tests.engine.speech.tiny import save, sound

from .conftest import Model, metric, serving, until

LIMITS = Limits(audio_seconds=20, audio_bytes=400_000, deadline=60, queue=1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save(tmp_path_factory.mktemp("whisper"), 4)


@pytest.fixture(scope="module")
def model(directory):
    with Model.load(directory, threads=1, cache_bytes=1 << 24) as model:
        yield model


@pytest.fixture
def client(directory):
    with serving(Model.load(directory, threads=1, cache_bytes=1 << 24), limits=LIMITS) as client:
        yield client


def wav(seconds):
    file = io.BytesIO()
    soundfile.write(file, sound(seconds), 16_000, format="WAV")
    return file.getvalue()


def post(client, audio, route="transcriptions", **fields):
    return client.post(f"/v1/audio/{route}", files={"file": ("a.wav", audio)}, data={"beam_size": 1, **fields})


def test_every_format_tells_the_same(client, model):
    # A tiny random model doubts everything: one temperature, and what is likely silence is heard.
    expected = model.transcribe(wav(2.5), language="de", beam_size=1)
    answer = post(client, wav(2.5), language="de")
    assert answer.status_code == 200 and set(answer.json()) == {"text", "usage"}
    assert answer.json()["usage"] == {"type": "duration", "seconds": 2}
    verbose = post(client, wav(2.5), language="german", response_format="verbose_json").json()
    assert (verbose["task"], verbose["language"], verbose["duration"]) == ("transcribe", "german", 2.5)
    assert len(verbose["segments"]) == 0 or {"id", "seek", "start", "avg_logprob"} <= set(verbose["segments"][0])
    assert post(client, wav(2.5), response_format="vtt").text.startswith("WEBVTT")
    assert post(client, wav(2.5), response_format="srt").headers["content-type"].startswith("text/plain")
    assert post(client, wav(2.5), route="translations").status_code == 200
    english = post(client, wav(2.5), route="translations", response_format="verbose_json").json()
    assert (english["task"], english["language"]) == ("translate", "english")
    assert expected.duration == 2.5
    assert metric(client, "audio_seconds_total") == 15


def test_the_usual_beams_are_as_many_as_fit_and_recordings_are_counted(directory):
    with serving(Model.load(directory, threads=1, cache_bytes=1 << 24, max_batch=2), limits=LIMITS) as small:
        plain = small.post("/v1/audio/transcriptions", files={"file": ("a.wav", wav(1.5))}, data={"language": "de"})
        assert plain.status_code == 200
        assert post(small, wav(1.5), beam_size=3).json()["error"]["param"] == "beam_size"
        until(lambda: metric(small, "num_requests_running") == metric(small, "num_requests_waiting") == 0)


def test_what_is_streamed_is_text(client):
    refused = client.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", wav(1))},
        data={"stream": "true", "response_format": "srt"},
    )
    assert refused.status_code == 400 and "streamed as text, not as srt" in refused.json()["error"]["message"]


def test_words_and_streams(client):
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word", "temperature": 0.5}
    assert "words" in post(client, wav(1.5), **fields).json()
    with client.stream(
        "POST", "/v1/audio/transcriptions", files={"file": ("a.wav", wav(2.5))}, data={"stream": "true", "beam_size": 1}
    ) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert events[-1]["type"] == "transcript.text.done"
    assert "".join(event["delta"] for event in events[:-1]).strip() == events[-1]["text"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "other"}, 404, "no model of that name"),
        ({"language": "xx"}, 400, "does not know the language 'xx'"),
        ({"temperature": 3}, 400, "temperature"),
        ({"response_format": "pdf"}, 400, "response_format"),
        ({"timestamp_granularities[]": "word"}, 400, "verbose_json"),
        ({"beam_size": 17}, 400, "beam_size"),
        ({"diarize": "yes"}, 400, "the field 'diarize' is not known here; there are beam_size, file, language"),
    ],
)
def test_bad_fields_are_told(client, fields, status, message):
    answer = post(client, wav(0.5), **fields)
    assert answer.status_code == status and message in answer.json()["error"]["message"]


def test_fields_that_change_nothing_are_taken(client):
    assert post(client, wav(0.5), user="me", chunking_strategy="auto").status_code == 200


def test_silence_may_be_left_out(client):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(32_000, np.float32), 16_000, format="WAV")
    assert post(client, file.getvalue(), vad_filter="true").json()["text"] == ""


def test_bad_recordings_are_told(client):
    answer = post(client, b"no sound")
    assert answer.status_code == 400 and "cannot read the recording" in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error" and "/" not in answer.json()["error"]["message"]
    streamed = post(client, b"no sound", stream="true")
    assert streamed.status_code == 400 and streamed.json() == answer.json()
    file = io.BytesIO()
    soundfile.write(file, 0 * sound(30), 16_000, format="FLAC")
    assert "longer than the 20 s allowed" in post(client, file.getvalue()).json()["error"]["message"]
    assert post(client, bytes(500_000)).status_code == 413
    assert client.post("/v1/audio/transcriptions", data={"model": "tiny"}).json()["error"]["param"] == "file"


def test_text_routes_and_text_models_say_where_to_go(client, load):
    answer = client.post("/v1/completions", json={"prompt": "Hello"})
    assert answer.status_code == 400 and "/v1/audio/transcriptions" in answer.json()["error"]["message"]
    assert client.get("/v1/models").json()["data"][0]["cutwork"]["transcribe"] is True
    with serving(load()) as text:
        answer = post(text, wav(0.5))
        assert answer.status_code == 400 and "writes text" in answer.json()["error"]["message"]


def test_a_client_that_leaves_ends_its_transcription(client, monkeypatch):
    stopped = Transcriber._stopped
    monkeypatch.setattr(Transcriber, "_stopped", lambda self, recording: time.sleep(0.05) or stopped(self, recording))
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/audio/transcriptions", files={"file": ("a.wav", wav(6))}, timeout=1)
    until(lambda: metric(client, "request_cancelled_total") == 1)
    model = client.model
    until(lambda: model.session.scheduler.cache.free == model.session.scheduler.cache.blocks)
    assert post(client, wav(0.3), temperature=0.1).status_code == 200


def test_a_recording_that_waits_ends_at_once_when_its_client_leaves(client, monkeypatch):
    ended = []
    monkeypatch.setattr(Transcriber, "_stopped", lambda self, recording: time.sleep(0.02) or bool(ended))
    transcriber = client.app.state.models.all["tiny"].transcriber
    with ThreadPoolExecutor(1) as others:
        heard = others.submit(post, client, wav(2.5))
        until(lambda: len(transcriber.open) == 1 and transcriber.waiting == 0)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/audio/transcriptions", files={"file": ("a.wav", wav(1))}, timeout=0.5)
        until(lambda: metric(client, "request_cancelled_total") == 1)
        assert len(transcriber.open) == 1 and not heard.done()
        left = [thing for thing in gc.get_objects() if type(thing) is Recording]
        assert not any(recording.audio for recording in left if recording not in transcriber.open)
        ended.append(True)


@pytest.mark.parametrize(("rate", "channels"), [(655_350, 1), (16_000, 9), (192_000, 8)])
def test_recordings_that_would_become_huge_are_refused(client, rate, channels):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((rate, channels), np.int16), rate, format="WAV")
    began = time.monotonic()
    answer = post(client, flac_silence(rate, channels) if rate > 16_000 else file.getvalue())
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "file"
    assert time.monotonic() - began < 5


def flac_silence(rate, channels):
    """A FLAC of no samples that says of itself to last 19 seconds."""
    info = bytes(10) + ((rate << 44) | ((channels - 1) << 41) | (15 << 36) | 19 * rate).to_bytes(8, "big") + bytes(16)
    return b"fLaC" + bytes([0x80, 0, 0, 34]) + b"\x10\0\x10\0" + info[4:]


def test_too_little_memory_is_no_failure_of_the_server(client, monkeypatch):
    def short(*_, **__):
        raise MemoryError

    monkeypatch.setattr("cutwork.serve.jobs.transcriber.open_transcription", short)
    answer = post(client, wav(0.3))
    assert answer.status_code == 400 and "memory" in answer.json()["error"]["message"]


def test_what_waits_is_counted_in_bytes_and_ends_in_time(directory, monkeypatch):
    ended = []
    monkeypatch.setattr(
        Transcriber, "ending", lambda self, job: ended[0] if ended and job.audio == b"" else late(self, job)
    )
    late = ModelThread.ending
    monkeypatch.setattr(
        Transcriber, "_stopped", lambda self, recording: (time.sleep(0.02), self.expire(), bool(ended))[2]
    )
    limits = Limits(audio_queue_bytes=60_000, deadline=60)
    with serving(Model.load(directory, threads=1, cache_bytes=1 << 24), limits=limits) as client:
        transcriber = client.app.state.models.all["tiny"].transcriber
        with ThreadPoolExecutor(2) as others:
            others.submit(post, client, wav(1.5))
            until(lambda: len(transcriber.open) == 1 and transcriber.waiting == 0)
            waits = others.submit(post, client, wav(1.5))
            until(lambda: transcriber.waiting == 1)
            assert post(client, wav(1.5)).status_code == 429
            for job in transcriber.open:
                job.deadline = 0 if job.audio else job.deadline
            assert waits.result().status_code == 504  # while the other one is still heard
            assert len(transcriber.open) == 1
            ended.append(shutting_down())


def test_a_queue_has_an_end(client, monkeypatch):
    ended = []
    monkeypatch.setattr(Transcriber, "_stopped", lambda self, recording: time.sleep(0.02) or bool(ended))
    transcriber = client.app.state.models.all["tiny"].transcriber
    with ThreadPoolExecutor(2) as others:
        waiting = [others.submit(post, client, wav(2.5)) for _ in range(2)]
        until(lambda: len(transcriber.open) == 2)
        answer = post(client, wav(0.5))
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        ended.append(True)
        assert {each.result().status_code for each in waiting} <= {200, 503}


def test_speech_without_its_tokens_is_refused_before_its_thread_runs(tmp_path):
    file = save(tmp_path) / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"no_timestamps_token_id": 10**6}))
    with Model.load(tmp_path, threads=1, cache_bytes=1 << 24) as model:
        running = threading.active_count()
        with pytest.raises(CutworkError, match="not in the vocabulary"):
            make_app({"tiny": model})
        assert threading.active_count() == running


def test_a_model_that_is_damaged_is_no_fault_of_the_client(client, monkeypatch):
    def damaged(*_, **__):
        raise NotFinite("the model's logits are not finite")

    monkeypatch.setattr("cutwork.serve.jobs.transcriber.open_transcription", damaged)
    for _ in range(3):
        assert client.get("/health/ready").status_code == 200
        answer = post(client, wav(0.5))
        assert answer.status_code == 500 and "not finite" in answer.json()["error"]["message"]
    assert client.get("/health/ready").status_code == 503
    monkeypatch.undo()
    assert post(client, wav(0.5)).status_code == 200 and client.get("/health/ready").status_code == 200


def test_recordings_that_cannot_be_read_say_nothing_of_the_engine(client, monkeypatch):
    monkeypatch.setattr("cutwork.serve.jobs.transcriber.read_audio", lambda *_, **__: 1 / 0)
    assert {post(client, wav(0.5)).status_code for _ in range(3)} == {500}
    assert client.get("/health/ready").status_code == 200
