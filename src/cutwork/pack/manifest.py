"""`cutwork.json`: what a packed model says about itself. See docs/format.md."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cutwork.errors import CutworkError
from cutwork.pack.record import Encoding
from cutwork.store.directory import PACKED
from cutwork.store.json_file import read_json

VERSION = 2  # the newest that this release reads; 1 had no slots


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WeightEntry(_Strict):
    """How one weight is stored."""

    encoding: Encoding
    dtype: Literal["f32", "bf16", "i8", "i4"]
    shape: list[Annotated[int, Field(ge=0, lt=2**48)]]
    nonzeros: Annotated[int, Field(ge=0)]
    group: Annotated[int, Field(ge=32, le=65536, multiple_of=32)] | None = None  # int4: columns per scale
    keep: Annotated[int, Field(ge=4, le=12, multiple_of=4)] | None = None  # slots: of 16 columns; else P.steps
    scale: Literal["F32", "F16", "BF16"] | None = None  # int4: the scales' type

    @model_validator(mode="after")
    def _int4_is_complete(self) -> Self:
        if (self.dtype == "i4") != (self.group is not None) or (self.group is None) != (self.scale is None):
            raise ValueError("group and scale belong to i4, and i4 needs both")
        if (self.encoding == "slots" and self.dtype not in ("i8", "i4")) or (self.keep and self.encoding != "slots"):
            raise ValueError("slots are of int8 or int4, and keep belongs to slots")
        return self


class Source(_Strict):
    """What restores the checkpoint; the engine needs none of it.

    `dtypes`: safetensors dtypes of tensors that are stored in another. `tied`: tensors left out because they equal
    another. `extras`: tensors kept as they were that are no weights of the engine's. `scale_shapes`: shapes of int8
    weights' scales that are not [rows, 1].
    """

    kind: Literal["checkpoint", "quantized"]
    dtypes: dict[str, str] = {}
    tied: dict[str, str] = {}
    extras: list[str] = []
    scale_shapes: dict[str, list[int]] = {}


class Manifest(_Strict):
    """The whole file."""

    format: Literal["cutwork"] = "cutwork"
    version: Literal[1, 2] = 1
    config: dict[str, Any]
    source: Source
    weights: dict[str, WeightEntry]


def read_manifest(directory: Path) -> Manifest:
    """Read and check `cutwork.json`; raises CutworkError, also for a version that this release does not know."""
    path = directory / PACKED
    data = read_json(path)
    version = data.get("version")
    if data.get("format") != "cutwork" or not isinstance(version, int):
        raise CutworkError(f"{path} is not the description of a packed model; pack the model again")
    if version > VERSION:
        raise CutworkError(
            f"{path} has format version {version} and this cutwork reads {VERSION}; upgrade cutwork or pack again"
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise CutworkError(f"{path} is damaged: {where}: {problem['msg'].lower()}; pack the model again") from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `cutwork.json`."""
    text = json.dumps(manifest.model_dump(exclude_none=True), indent=1, ensure_ascii=False)
    (directory / PACKED).write_text(text + "\n", encoding="utf-8")
