"""What may be wrong with a model directory, at random: lost and swapped files, flipped bits, nonsense as JSON."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Json = Any

INTEGERS = (-1, 0, 1, 2, 3, 16, 31, 65, 300, 4097, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 32, 1 << 48, 1 << 63, 10**40)
NUMBERS = (0.0, -0.0, 1e-300, 0.5, -1.5, 1e39, 1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    "\0",
    "../../x",
    "\ud800",
    "y" * 5000,
    "silu",
    "llama",
    "whisper",
    "yarn",
    "i4",
    "block4x1",
    "BF16",
    "{{ 1/0 }}",
)
VALUES: tuple[Json, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    [-1],
    ["full_attention"],
    {"rope_type": "yarn"},
    [7] * 500,
)

# What an entry of cutwork.json may say of a weight; of its shape and nonzeros, how much is added to them.
OF_A_WEIGHT: dict[str, tuple[Json, ...]] = {
    "encoding": ("dense", "bitmask", "block1x4", "block4x1", "slots"),
    "dtype": ("f32", "bf16", "i8", "i4"),
    "shape": (-17, -1, 1, 15, 16, 1 << 20),
    "nonzeros": (-1, 1, 64, 1 << 40),
    "group": (None, 32, 64, 65536, 33),
    "scale": (None, "F32", "F16", "BF16"),
    "keep": (None, 4, 8, 12, 16, 0),
}


def damage(directory: Path, rng: random.Random, files: str = "") -> str:
    """Change one file of a directory in one way, of those whose names end with `files`; returns what was done."""
    endings = tuple(files.split(","))
    whole = sorted(path for path in directory.iterdir() if path.is_file() and path.name.endswith(endings))
    file = rng.choice(whole)
    if rng.random() < 0.5:  # mostly what the engine itself reads
        read = [path for path in whole if path.suffix in (".safetensors", ".gguf") or _is_config(path)]
        file = rng.choice(read or whole)
    kinds: list[Callable[[Path, random.Random], str]] = [_lose, _cut, _flip]
    if file.suffix == ".safetensors":
        kinds = [
            _lose,
            _cut,
            _flip,
            _change_header,
            _change_header,
            _change_header,
            _flip_tensor,
            _flip_tensor,
            _flip_tensor,
        ]
    elif file.name == "cutwork.json":
        kinds = [_lose, _cut, _flip, *[_change_json] * 5, *[_change_weight] * 4]
    elif file.suffix == ".gguf":
        kinds = [_lose, _cut, _flip, *[_flip_start] * 7]
    elif file.suffix == ".json":
        kinds = [_lose, _cut, _flip, *[_change_json] * 9]
    return f"{file.name}: {rng.choice(kinds)(file, rng)}"


def _is_config(path: Path) -> bool:
    return path.name in ("config.json", "cutwork.json", "generation_config.json")


def _lose(file: Path, rng: random.Random) -> str:
    file.unlink()
    how = rng.choice(("missing", "empty", "a directory", "a link to itself"))
    if how == "empty":
        file.touch()
    elif how == "a directory":
        file.mkdir()
    elif how == "a link to itself":
        file.symlink_to(file.name)
    return how


def _cut(file: Path, rng: random.Random) -> str:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content) + 1)] + bytes(rng.choice((0, 0, 1, 100))))
    return "cut"


def _flip(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    _spoil(content, 0, len(content), rng)
    file.write_bytes(content)
    return "bytes"


def _flip_start(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    _spoil(content, 0, min(len(content), 1 << rng.randrange(5, 15)), rng)
    file.write_bytes(content)
    return "bytes at the start"


def _flip_tensor(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    start, header = _header(content)
    names = [
        name
        for name, entry in header.items()
        if name != "__metadata__" and entry["data_offsets"][1] > entry["data_offsets"][0]
    ]
    parts = [
        name for name in names if not name.endswith(("weight", "bias", ".values")) and not name.startswith("padding.")
    ]
    name = rng.choice(parts if parts and rng.random() < 0.7 else names)
    begin, end = header[name]["data_offsets"]
    if rng.random() < 0.25:
        _swap(content, start + begin, start + end, rng)
    else:
        _spoil(content, start + begin, start + end, rng)
    file.write_bytes(content)
    return f"contents of {name}"


def _change_header(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    start, header = _header(content)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, how = header[name], rng.randrange(6)
    if how == 0:
        entry["dtype"] = rng.choice(("F64", "F32", "F16", "BF16", "I64", "U64", "U16", "I8", "U8", "BOOL", "Q3", None))
    elif how == 1:
        shape = entry["shape"]
        entry["shape"] = rng.choice(
            (shape[::-1], [*shape, 1], shape[1:], [0, 1 << 46], [1 << 46, 0], [-1], [1 << 40, 1 << 40], "x")
        )
        if isinstance(entry["shape"], list) and 0 in entry["shape"]:
            entry["data_offsets"][1] = entry["data_offsets"][0]
    elif how == 2:
        entry["data_offsets"] = [offset + rng.choice((0, 1, -1, 64, 1 << 40)) for offset in entry["data_offsets"]]
    elif how == 3:
        header[rng.choice(("x", "padding.0", "\ud800", "lm_head.weight", f"{name}.mask"))] = header.pop(name)
    elif how == 4:
        del header[name]
    else:
        header = _changed(header, rng)
    text = _as_json(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    return f"header of {name}"


def _change_json(file: Path, rng: random.Random) -> str:
    tree = json.loads(file.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        inner = (
            tree["config"]
            if isinstance(tree, dict) and isinstance(tree.get("config"), dict) and rng.random() < 0.5
            else tree
        )
        _changed(inner, rng)
    file.write_text(_as_json(tree))
    return "fields"


def _change_weight(file: Path, rng: random.Random) -> str:
    """Say that a packed weight is stored otherwise than it is."""
    tree = json.loads(file.read_bytes())
    name = rng.choice(sorted(tree["weights"]))
    entry = tree["weights"][name]
    for _ in range(rng.choice((1, 1, 2, 3))):
        field = rng.choice(sorted(OF_A_WEIGHT))
        value = rng.choice(OF_A_WEIGHT[field])
        if field in ("shape", "nonzeros"):
            value = [n + value for n in entry["shape"]] if field == "shape" else entry["nonzeros"] + value
        entry[field] = value
        if value is None:
            del entry[field]
    file.write_text(_as_json(tree))
    return f"how {name} is stored"


def _as_json(tree: Json) -> str:
    try:
        return json.dumps(tree)
    except RecursionError:  # one deep value within another
        return "[" * 2000


def _changed(tree: Json, rng: random.Random) -> Json:
    """Change one place in a tree, and return it."""
    places = list(_places(tree))
    if not places:
        return tree
    shallow = [place for place in places if place[0] is tree]
    holder, key = rng.choice(shallow if shallow and rng.random() < 0.6 else places)
    old = holder[key]
    if rng.random() < 0.1:
        del holder[key]
    elif isinstance(old, int) and rng.random() < 0.6:
        holder[key] = rng.choice((old + 1, old - 1, 2 * old, old // 2, -old, 1000 * old))
    else:
        holder[key] = _value(rng)
    return tree


def _value(rng: random.Random) -> Json:
    if rng.random() < 0.02:
        deep: Json = 1
        for _ in range(rng.choice((100, 900))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    return json.loads(json.dumps(rng.choice(rng.choice((INTEGERS, NUMBERS, TEXTS, VALUES)))))


def _places(tree: Json) -> Iterator[tuple[Json, Any]]:
    """(container, key) of everything in a tree."""
    left = [tree]
    while left:
        node = left.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            yield node, key
            left.append(node[key])


def _header(content: bytearray) -> tuple[int, dict[str, Any]]:
    """Where a safetensors file's data begins, and its header."""
    start = 8 + int.from_bytes(content[:8], "little")
    return start, json.loads(content[8:start])


def _swap(content: bytearray, begin: int, end: int, rng: random.Random) -> None:
    """What counts and sums do not tell: two runs of bytes that have changed places."""
    length = max(min(rng.choice((1, 1, 4, 8, 64)), (end - begin) // 2), 1)
    one = begin + rng.randrange((end - begin) // length) * length
    other = begin + rng.randrange((end - begin) // length) * length
    first, second = content[one : one + length], content[other : other + length]
    content[one : one + length], content[other : other + length] = second, first


def _spoil(content: bytearray, begin: int, end: int, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 20)) if end > begin else 0):
        at = rng.randrange(begin, end)
        if rng.random() < 0.5:
            content[at] ^= 1 << rng.randrange(8)
        else:
            length = min(rng.choice((1, 2, 4, 8)), end - at)
            content[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
