"""POST /v1/audio/transcriptions and /v1/audio/translations: what they take and answer."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from cutwork.engine.speech.formats import srt, vtt
from cutwork.engine.speech.options import TEMPERATURES, TranscribeOptions
from cutwork.engine.speech.segments import Transcript
from cutwork.engine.speech.vocabulary import vocabulary_of
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.middleware import client_of
from cutwork.serve.http.stream import EventStream, seconds_left, while_connected, whole_answer
from cutwork.serve.jobs.transcriber import Recording
from cutwork.serve.limits import Limits
from cutwork.serve.routes.schema import changes_nothing
from cutwork.serve.served_model import ServedModel
from cutwork.serve.served_models import ServedModels

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["segment", "word"]

Sound = Annotated[UploadFile, File(description="WAV, FLAC, OGG, MP3, …; with PyAV M4A, MP4, WebM")]
ModelName = Annotated[str | None, Form(max_length=512)]
Prompt = Annotated[str | None, Form(max_length=4096)]
ResponseFormat = Annotated[TranscriptFormat, Form()]
Temperature = Annotated[float, Form(ge=0, le=1, description="0: greedy, and higher ones where the text is doubtful.")]
BeamSize = Annotated[int | None, Form(ge=1, le=16)]
VadFilter = Annotated[bool, Form(description="Leave silence out before anything is heard.")]


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The routes over these models."""
    routes = APIRouter(dependencies=[Depends(_refuse_unknown)])

    @routes.post("/v1/audio/transcriptions", summary="Speech to text", response_model=None)
    async def transcriptions(
        request: Request,
        file: Sound,
        model: ModelName = None,
        language: Annotated[str | None, Form(max_length=64)] = None,
        prompt: Prompt = None,
        response_format: ResponseFormat = "json",
        temperature: Temperature = 0.0,
        beam_size: BeamSize = None,
        vad_filter: VadFilter = False,
        granularities: Annotated[list[Granularity] | None, Form(alias="timestamp_granularities[]")] = None,
        stream: Annotated[bool, Form()] = False,
    ) -> Response:
        words = "word" in (granularities or ())
        if granularities and response_format != "verbose_json":
            raise ApiError(
                400,
                "timestamp_granularities need the response_format verbose_json",
                param="timestamp_granularities[]",
            )
        served = await models.find_speech(request, model)
        options = _options(served, "transcribe", language, prompt, temperature, beam_size, words, vad_filter)
        return await _answer(request, served, file, options, response_format, stream)

    @routes.post("/v1/audio/translations", summary="Speech to English text", response_model=None)
    async def translations(
        request: Request,
        file: Sound,
        model: ModelName = None,
        prompt: Prompt = None,
        response_format: ResponseFormat = "json",
        temperature: Temperature = 0.0,
        beam_size: BeamSize = None,
        vad_filter: VadFilter = False,
    ) -> Response:
        served = await models.find_speech(request, model)
        options = _options(served, "translate", None, prompt, temperature, beam_size, False, vad_filter)
        return await _answer(request, served, file, options, response_format, False)

    async def _answer(
        request: Request,
        served: ServedModel,
        file: UploadFile,
        options: TranscribeOptions,
        form: TranscriptFormat,
        stream: bool,
    ) -> Response:
        _check(served, options)
        if stream and form not in ("json", "text"):
            message = f"a transcript is streamed as text, not as {form}; leave out stream or response_format"
            raise ApiError(400, message, param="stream")
        seconds = seconds_left(request, limits.deadline)
        recording = Recording(await file.read(), options, seconds, client_of(request))
        served.transcriber.submit(recording)
        if stream:
            events = _events(recording)
            try:  # what is wrong with the recording is told as a status, which comes before the first event
                first = await while_connected(request, _next(events))
            except BaseException:
                recording.cancel()
                raise
            return EventStream(recording, _from(first, events), limits.deadline)
        return _shown(await whole_answer(request, recording, recording.wait()), form, options)

    return routes


async def _refuse_unknown(request: Request) -> None:
    """As of JSON bodies: a field that is not known is 400, unless it is empty or changes no answer."""
    known = {field.alias for field in request.scope["route"].dependant.body_params}
    for name, value in (await request.form()).multi_items():
        if name not in known and not changes_nothing(name, value):
            message = f"the field {name[:64]!r} is not known here; there are {', '.join(sorted(known))}"
            raise ApiError(400, message, param=name[:64])


def _options(
    served: ServedModel,
    task: Literal["transcribe", "translate"],
    language: str | None,
    prompt: str | None,
    temperature: float,
    beam_size: int | None,
    words: bool,
    vad_filter: bool,
) -> TranscribeOptions:
    return TranscribeOptions(
        task=task,
        language=language or None,
        initial_prompt=prompt or None,
        temperature=temperature or TEMPERATURES,
        beam_size=beam_size or min(TranscribeOptions.beam_size, served.model.max_batch),
        word_timestamps=words,
        vad_filter=vad_filter,
    )


def _check(served: ServedModel, options: TranscribeOptions) -> None:
    """Raise CutworkError (400) for what the model cannot do, before anything is queued."""
    vocabulary = vocabulary_of(served.model.path, served.model.config, served.model.tokenizer)
    vocabulary.prompt(vocabulary.language(options.language), options.task, times=True)
    if options.word_timestamps and not vocabulary.alignment_heads:
        raise ApiError(400, "this model does not tell words' times", param="timestamp_granularities[]")
    if options.beam_size > served.model.max_batch:
        raise ApiError(400, f"beam_size: this server allows at most {served.model.max_batch}", param="beam_size")


async def _next(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    return await anext(events)


async def _from(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    yield first
    async for event in rest:
        yield event


async def _events(recording: Recording) -> AsyncIterator[dict[str, Any]]:
    async for segment in recording:
        yield {"type": "transcript.text.delta", "delta": segment.text}
    assert recording.transcript
    yield {"type": "transcript.text.done", "text": recording.transcript.text, "usage": _usage(recording.transcript)}


def _shown(transcript: Transcript, form: TranscriptFormat, options: TranscribeOptions) -> Response:
    match form:
        case "text":
            return PlainTextResponse(transcript.text + "\n")
        case "srt":
            return PlainTextResponse(srt(transcript))
        case "vtt":
            return PlainTextResponse(vtt(transcript), media_type="text/vtt")
        case "verbose_json":
            return JSONResponse(_verbose(transcript, options))
    return JSONResponse({"text": transcript.text, "usage": _usage(transcript)})


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcript.duration)}


def _verbose(transcript: Transcript, options: TranscribeOptions) -> dict[str, Any]:
    segments = [
        {key: value for key, value in vars(segment).items() if key != "words"} for segment in transcript.segments
    ]
    answer: dict[str, Any] = {
        "task": options.task,
        "language": "english" if options.task == "translate" else _name(transcript.language),
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": segments,
        "usage": _usage(transcript),
    }
    if options.word_timestamps:
        words = [word for segment in transcript.segments for word in segment.words or ()]
        answer["words"] = [{"word": word.word.strip(), "start": word.start, "end": word.end} for word in words]
    return answer


def _name(code: str) -> str:
    """A language's English name, as OpenAI gives it."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return str(LANGUAGES.get(code, code))
