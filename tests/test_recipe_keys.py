"""The reference of recipe keys in the docs is what src/cutwork/recipe.py says: its types, defaults and comments.

`python -m tests.test_recipe_keys` writes it.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cutwork import recipe

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"
SOURCE = Path(recipe.__file__).read_text(encoding="utf-8")
HEAD = """\
# Recipe keys

What a recipe of `cutwork run` may say; those in [recipes](../recipes) are there to be copied. A key's parts are joined
by dots for `--set`, as in `--set tune.losses.kl=0.1`; `{}` is a section with all its defaults. What does not go
together is refused, with a sentence that says why. A test checks this page against `src/cutwork/recipe.py`;
`python -m tests.test_recipe_keys` writes it."""


def page() -> str:
    """The document."""
    said = comments()
    found = places(recipe.Recipe)
    parts = [HEAD]
    for model, names in found.items():
        schemas = model.model_json_schema()["properties"]
        rows = ["| key | default | may be | |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            what = section(field, found) or allowed(schemas[name])
            rows.append(f"| `{name}` | {default(field)} | {what} | {said[f'{model.__name__}.{name}']} |")
        parts += [f"## {title(names)}", " ".join((model.__doc__ or "").split()), "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def places(model: type[BaseModel], where: str = "") -> dict[type[BaseModel], list[str]]:
    """Every section's settings, and where in a recipe they are."""
    found: dict[type[BaseModel], list[str]] = {model: [where] if where else []}
    for name, field in model.model_fields.items():
        for inner in inside(field.annotation):
            for kind, names in places(inner, f"{where}.{name}" if where else name).items():
                found.setdefault(kind, []).extend(names)
    return found


def inside(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings that a type is, or may be."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield each


def title(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "The recipe"


def section(field: FieldInfo, found: dict[type[BaseModel], list[str]]) -> str:
    """Where the keys of a section are, for a field that is one."""
    null = " or `null`" if type(None) in get_args(field.annotation) else ""
    for model in inside(field.annotation):
        anchor = re.sub(r"[^\w\- ]", "", title(found[model]).lower()).replace(" ", "-")
        return f"[a section](#{anchor}){null}"
    return ""


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default()
    value = value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value
    value = [*value] if isinstance(value, tuple) else value
    written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n")
    return f"`{written.strip()}`"


def allowed(schema: dict[str, Any]) -> str:
    """What a value may be, from its JSON schema."""
    match schema:
        case {"anyOf": choices}:
            return " or ".join(map(allowed, choices))
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"pattern": pattern}:
            return f"`{pattern.strip('^$').strip('()')}`".replace("|", "\\|")
        case {"type": "number" | "integer" as kind}:
            bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
            limits = [f"{text} {schema[bound]}".removesuffix(".0") for bound, text in bounds.items() if bound in schema]
            return " ".join([kind, *limits])
        case {"type": "array", "items": items}:
            return f"list of {allowed(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"mapping of names to {allowed(values)}"
        case {"type": "boolean"}:
            return "`true`, `false`"
        case {"type": "string"}:
            return schema.get("format", "text")
        case {"type": "null"}:
            return "`null`"
    return "mapping"


def comments() -> dict[str, str]:
    """What is said above and beside the line of each "Class.field", or else of the name of its type."""
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(SOURCE).readline):
        if token.type == tokenize.COMMENT:
            kept = beside if token.line[: token.start[1]].strip() else alone
            kept[token.start[0]] = token.string.removeprefix("#").strip()

    def above(line: int) -> list[str]:
        return [*above(line - 1), alone[line - 1]] if line - 1 in alone else []

    found = {}
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.Assign):
            text = [beside[node.end_lineno]] if node.end_lineno in beside else above(node.lineno)
            found[ast.unparse(node.targets[0])] = " ".join(text)
        for field in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign):
                text = [*above(field.lineno), *filter(None, [beside.get(field.end_lineno or 0)])]
                of_type = found.get(ast.unparse(field.annotation), "")
                found[f"{node.name}.{ast.unparse(field.target)}"] = " ".join(text) or of_type
    return {name: text.replace("|", "\\|") for name, text in found.items()}


def test_the_documented_keys_are_those_that_are_read() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == page()
    assert "|  |" not in page(), "a key that nothing is said of"


def test_what_a_key_means_is_what_is_said_beside_it() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page(), re.MULTILINE))
    assert rows["pattern"].startswith(r"`unstructured` | `unstructured\|adaptive\|1x4")
    assert "KEEPS n of every m along the input" in rows["pattern"]
    assert "task.validation_samples" in rows["keep_best"] and "not with the last one" in rows["keep_best"]
    assert rows["owl_spread"] == "`0.08` | number from 0 below 0.5 | blocks' rates span twice that"
    assert rows["long"].startswith("`drop` | `drop`, `cut`, `error` | longer ones are left out")


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
