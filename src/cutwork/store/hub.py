"""Models of the Hugging Face Hub: only weights in safetensors, JSON and tokenizer files are ever downloaded."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from cutwork.errors import CutworkError
from cutwork.store.atomic import disk_full
from cutwork.store.cache import Cached
from cutwork.store.foreign import foreign_among

_NAME = re.compile(r"(?P<owner>[a-z0-9][\w.-]*/)?[a-z0-9][\w.-]*", re.ASCII | re.IGNORECASE)
# Folders but those such as 1_Pooling, and additional_chat_templates.
_OTHERS = ("[!0-9a]*/*", "a/*", "a[!d]*/*", "ad/*", "ad[!d]*/*", "*/*/*")


def downloaded() -> list[Cached]:
    """The models in the Hub's cache, one for each revision, by name."""
    cache = _cache()
    found = [
        Cached(
            repository.repo_id,
            revision.commit_hash,
            revision.snapshot_path,
            revision.size_on_disk,
            datetime.fromtimestamp(repository.last_accessed),
        )
        for repository in (cache.repos if cache else ())
        if repository.repo_type == "model"
        for revision in repository.revisions
    ]
    return sorted(found, key=lambda model: (model.name, model.revision))


def remove(name: str, revision: str = "") -> int:
    """Remove a model from the cache, all its revisions, a branch's or the one whose commit begins so; bytes freed.

    Raises CutworkError if it is not there, or several commits begin so.
    """
    cache = _cache()
    repositories = cache.repos if cache else ()
    refs = {
        each.commit_hash: each.refs
        for repository in repositories
        if repository.repo_type == "model" and repository.repo_id == name
        for each in repository.revisions
    }
    found = [commit for commit in refs if revision in refs[commit]]
    found = found or sorted(commit for commit in refs if commit.startswith(revision))
    shown = f"{name}@{revision}" if revision else name
    if cache is None or not found:
        raise CutworkError(f"'{shown}' is not in the cache; `cutwork list` shows what is")
    if revision and len(found) > 1:
        raise CutworkError(f"'{shown}' may be any of {', '.join(found)}; give more of the one")
    strategy = cache.delete_revisions(*found)
    strategy.execute()
    return int(strategy.expected_freed_size)


def _cache() -> Any:
    """The Hub's cache; None if there is none."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return None


def is_name(text: str, *, owned: bool = False) -> bool:
    """Whether the Hub could call a model so: OWNER/NAME or, unless it must be `owned`, an old one's NAME alone."""
    found = _NAME.fullmatch(text)
    return found is not None and (found["owner"] is not None or not owned)


def download(name: str, revision: str | None = None, *, folders: bool = False) -> Path:
    """The local snapshot of the Hub's model `name`, from the cache if it is there. revision: a branch, tag or commit.

    With `folders` what is in all of them, which a run has; a model has no need of any but sentence-transformers'
    and that of further chat templates.

    Raises CutworkError if there is no such model or revision, its owner has to be asked, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.spm", "LICENSE*"],
                ignore_patterns=["consolidated*", *([] if folders else _OTHERS)],
            )
        )
    except GatedRepoError:
        raise CutworkError(
            f"'{name}' needs its owner's permission; ask for it on the Hub, then: hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise CutworkError(f"'{name}' has no revision '{revision}' on the Hugging Face Hub") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise CutworkError(f"'{name}' is neither a local directory nor a model on the Hugging Face Hub") from None
    except Exception as error:  # the client's transports raise errors of several libraries
        if disk_full(error):
            raise CutworkError(f"the disk is full, so '{name}' was not downloaded; free some space") from None
        raise CutworkError(
            f"the Hugging Face Hub could not be reached to look for '{name}' ({type(error).__name__}); "
            "check the network, or the path if a directory is meant"
        ) from None
    if not folders and not any(found.glob("*.safetensors")):
        _refuse_without_safetensors(name, revision, found)
    return found


def _refuse_without_safetensors(name: str, revision: str | None, snapshot: Path) -> None:
    """Raise CutworkError, with what can be done, if the Hub has the model in a format that is not read."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except Exception:  # of several libraries; then whoever opens the directory says what it lacks
        return
    found = foreign_among(map(PurePosixPath, files), snapshot)
    if found is None:
        return
    file, advice = found
    if file.suffix == ".gguf":
        raise CutworkError(
            f"'{name}' has no safetensors on the Hub but GGUF; fetch one with `hf download {name} {file}` and give the "
            "path of the file"
        )
    raise CutworkError(
        f"'{name}' has no safetensors{f' at {revision}' if revision else ''}: its {file} is {advice}; or look whether "
        f"one of its pull requests on the Hub has them, and give {name}@refs/pr/N with that one's number"
    )


def upload(name: str, files: Mapping[str, Path | bytes], *, private: bool, overwrite: bool, message: str) -> str:
    """Put files, by their paths in the repository, into the Hub's model `name` in one commit; returns its address.

    The repository is made if there is none; one that is there is only changed with `overwrite`, and then holds nothing
    else afterwards. Raises CutworkError if the name cannot be one, the Hub does not let us, or it cannot be reached;
    then nothing was changed, but an empty repository may be left.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    try:
        if not api.repo_exists(name):
            api.create_repo(name, private=private)
        elif not overwrite and set(api.list_repo_files(name)) - {".gitattributes"}:
            raise CutworkError(f"the Hub has a model '{name}' already; choose another name or use --overwrite")
        elif private and not api.model_info(name).private:
            raise CutworkError(f"the Hub's model '{name}' is public; make it private there, or leave --private out")
        former = set(api.list_repo_files(name)) - {".gitattributes", *files} if overwrite else set()
        operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
        operations += [CommitOperationDelete(path) for path in sorted(former)]
        return str(api.create_commit(name, operations, commit_message=message).commit_url)
    except CutworkError:
        raise
    except HFValidationError:
        raise CutworkError(
            f"'{name}' cannot be a name on the Hub; it is OWNER/NAME, of letters, digits, - _ ."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise CutworkError(
                f"the Hub does not let you write to '{name}' ({status}); log in with a token that may: hf auth login"
            ) from None
        raise CutworkError(f"the Hub refused '{name}': {' '.join(str(error).split())[:300]}") from None
    except Exception as error:  # the client's transports raise errors of several libraries
        raise CutworkError(
            f"the Hugging Face Hub could not be reached, or the connection broke ({type(error).__name__}); check the "
            "network and push again"
        ) from None
