"""A transcript as plain text, subtitles (SRT, WebVTT) or JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cutwork.engine.speech.segments import Transcript


def text(transcript: Transcript) -> str:
    """One segment a line."""
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    return "".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{_line(segment.text)}\n\n"
        for number, segment in enumerate(transcript.segments, 1)
    )


def vtt(transcript: Transcript) -> str:
    """WebVTT subtitles."""
    cues = (
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{_line(segment.text)}\n\n"
        for segment in transcript.segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def as_dict(transcript: Transcript) -> dict[str, Any]:
    """Everything, as JSON has it."""
    return asdict(transcript)


def as_json(transcript: Transcript) -> str:
    """Everything, in one JSON object."""
    return json.dumps(as_dict(transcript), ensure_ascii=False, indent=1) + "\n"


FORMATS: dict[str, Callable[[Transcript], str]] = {"txt": text, "srt": srt, "vtt": vtt, "json": as_json}


def _line(spoken: str) -> str:
    return spoken.strip().replace("-->", "->")  # an arrow would end the cue


def _clock(seconds: float, point: str) -> str:
    thousandths = round(max(0.0, seconds) * 1000)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
