"""The thread of a model that hears speech: one recording after the other, segments handed out as they come."""

import logging
import time

from cutwork.audio import RATE, read_audio
from cutwork.engine.decoding.sampling import NotFinite
from cutwork.engine.model import Model
from cutwork.engine.speech.adapter import Stopped, open_transcription
from cutwork.engine.speech.options import TranscribeOptions
from cutwork.engine.speech.segments import Segment, Transcript
from cutwork.errors import CutworkError
from cutwork.serve.http.errors import ApiError, shutting_down
from cutwork.serve.jobs.fair_lock import FairLock
from cutwork.serve.jobs.job import Job, ModelThread
from cutwork.serve.metrics import ModelMetrics

log = logging.getLogger("cutwork.serve")


class Recording(Job[Segment]):
    """One recording to transcribe. Its events are the segments; then there is the `transcript`."""

    def __init__(self, audio: bytes, options: TranscribeOptions, deadline: float, client: str = "") -> None:
        super().__init__(1, deadline, client)
        self.audio, self.options = audio, options
        self.transcript: Transcript | None = None

    async def wait(self) -> Transcript:
        """The transcript, once it is finished."""
        async for _ in self:
            pass
        assert self.transcript
        return self.transcript


class Transcriber(ModelThread[Recording]):
    """Offers `turn` before every step, so that other models come to theirs.

    queue: recordings that may wait, with `queue_bytes` in all. longest: seconds a recording may last.
    """

    def __init__(
        self,
        model: Model,
        metrics: ModelMetrics,
        *,
        queue: int,
        queue_bytes: int,
        turn: FairLock,
        longest: float,
    ) -> None:
        super().__init__(model, metrics, limit=queue + 1, turn=turn)
        self._longest, self._queue_bytes = longest, queue_bytes

    def admit(self, job: Recording) -> None:
        """Raise ApiError (429) if the recordings that wait hold too many bytes."""
        if sum(len(other.audio) for other in self.open) + len(job.audio) > self._queue_bytes:
            self.metrics.refused()
            raise ApiError(429, "too many recordings are waiting; try again later", code="queue_full", retry=5)

    def work(self) -> None:
        """Transcribe the next recording."""
        recording = self.take()
        if recording is None:
            return
        self.note_load()
        try:
            self._transcribe(recording)
            self.learn(sound=True)
            self.metrics.transcript(time.perf_counter() - recording.arrived)
            self.finish(recording)
        except Stopped:
            self.fail(recording, self.ending(recording) or shutting_down())
        except MemoryError:
            self.fail(recording, ApiError(400, "the recording needs more memory than there is", param="file"))
        except NotFinite as error:
            log.error("a transcription ended: %s", error)
            self.learn(sound=False)
            self.fail(recording, ApiError(500, str(error)))
        except CutworkError as error:
            about = "prompt" if str(error).startswith("initial_prompt") else "file"
            self.fail(recording, ApiError(400, str(error), param=about))
        except Exception:
            log.exception("a transcription failed")
            if not recording.audio:  # it was read, which clients can make fail and the engine has no part in
                self.learn(sound=False)
            self.fail(recording)

    def release(self, job: Recording) -> None:
        """A recording that has stopped holds nothing of the engine's."""

    def close(self, job: Recording, error: ApiError | None = None) -> None:
        """A recording has ended, heard or not: what it was made of is let go at once."""
        job.audio = b""
        super().close(job, error)

    def _transcribe(self, recording: Recording) -> None:
        sound = read_audio(recording.audio, longest=self._longest, check=lambda: self._check(recording))
        recording.audio = b""
        self.metrics.audio(len(sound) / RATE)
        with self.turn:
            self._check(recording)
            transcription = open_transcription(
                self.model, sound, recording.options, stopped=lambda: self._stopped(recording)
            )
            for segment in transcription:
                recording.send(segment)
            recording.transcript = transcription.result()

    def _check(self, recording: Recording) -> None:
        """Raise Stopped if a recording has to end; end those that wait and have to."""
        self.expire()
        if self.ending(recording) is not None:
            raise Stopped("the transcription was stopped")

    def _stopped(self, recording: Recording) -> bool:
        """Whether to give up before a step; lets other models take one."""
        self.turn.offer()
        self.expire()
        return self.ending(recording) is not None
