"""Recordings that were cut off sound as far as they go."""

import numpy as np
import pytest

pytest.importorskip("av")

from cutwork.audio import RATE, read_audio
from cutwork.errors import CutworkError
from tests.test_audio import CONTAINERS, container


def test_a_recording_that_was_cut_within_a_frame_ends_before_it():
    data = container(*CONTAINERS["aac"])
    whole = read_audio(data)
    for cut in (len(data) - 37, len(data) // 2 + 7):
        sound = read_audio(data[:cut])
        assert abs(len(sound) / len(whole) - cut / len(data)) < 0.1
        end = len(sound) - RATE // 10
        assert np.array_equal(sound[:end], whole[:end])


def test_what_holds_something_that_cannot_be_heard_is_not_called_empty():
    with pytest.raises(CutworkError, match="the recording is damaged"):
        read_audio(container(*CONTAINERS["mov"])[:-37])
