"""Models of the Hugging Face Hub: only weights in safetensors, JSON and tokenizer files are ever downloaded."""

from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store.atomic import disk_full


def download(name: str, *, folders: bool = False) -> Path:
    """The local snapshot of the Hub's model `name`, from the cache if it is there; with `folders` what is in them too.

    Raises CutworkError if there is no such model, its owner has to be asked, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.spm", "LICENSE*"],
                ignore_patterns=["consolidated*"] if folders else ["*/*", "consolidated*"],
            )
        )
    except GatedRepoError:
        raise CutworkError(
            f"'{name}' needs its owner's permission; ask for it on the Hub, then: hf auth login"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise CutworkError(f"'{name}' is neither a local directory nor a model on the Hugging Face Hub") from None
    except Exception as error:  # the client's transports raise errors of several libraries
        if disk_full(error):
            raise CutworkError(f"the disk is full, so '{name}' was not downloaded; free some space") from None
        raise CutworkError(
            f"there is no directory '{name}', and the Hugging Face Hub could not be reached to look for it "
            f"({type(error).__name__}); check the path or the network"
        ) from None
