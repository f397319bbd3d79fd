"""Transcription: from a recording to timed text with Whisper, window by window.

Nothing here computes a layer: a `Decoder` encodes spectrograms and continues prompts.
"""
