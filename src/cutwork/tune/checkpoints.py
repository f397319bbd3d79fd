"""What a run has left in its work directory: checkpoints, which may have been cut off while they were written."""

import json
from pathlib import Path

from transformers import TrainerState

from cutwork.errors import CutworkError
from cutwork.store.safetensors import SafetensorsFile

_STATE = "trainer_state.json"  # transformers writes it last


def last_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint in a work directory that was written to the end."""
    steps = {int(path.name.split("-")[1]): path for path in work.glob("checkpoint-*") if is_complete(path)}
    return steps[max(steps)] if steps else None


def is_complete(directory: Path) -> bool:
    """Whether a checkpoint was written to the end: the trainer's state is a whole JSON object, and weights are as long
    as their headers say, which they may not be after the machine has gone down."""
    try:
        for file in directory.glob("*.safetensors"):
            SafetensorsFile(file)
        return isinstance(json.loads((directory / _STATE).read_bytes()), dict)
    except (OSError, ValueError, CutworkError):
        return False


def has_ended(directory: Path) -> bool:
    """Whether a checkpoint was written after its run's last step."""
    control = TrainerState.load_from_json(str(directory / _STATE)).stateful_callbacks["TrainerControl"]
    return bool(control["args"]["should_training_stop"])
