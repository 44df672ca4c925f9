"""Every value of the chart with its default and what may stand there. `make chart-schema` writes VALUES.md."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.shared.settings import Settings

CHART = Path(__file__).parents[1] / "charts/streamo"
HEAD = """# Values

Written by `make chart-schema` from `values.yaml` and `values.schema.json`: do not edit. What they are for is in
[README.md](README.md); of `settings`, in [docs/settings.md](../../docs/settings.md).

| value | default | may be |
|---|---|---|"""


def leaves(schema: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """(path, schema) of everything that is not a closed object of further values."""
    if schema.get("additionalProperties") is False:
        for name, inner in schema["properties"].items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path, schema


def default_of(values: dict, path: str) -> str:
    inner: object = values
    for name in path.split("."):
        if not isinstance(inner, dict) or name not in inner:
            return service_default(path)
        inner = inner[name]
    return f"`{json.dumps(inner)}`"


def service_default(path: str) -> str:
    """Of a setting that the chart leaves alone."""
    if not path.startswith("settings."):
        return ""
    _, section, name = path.split(".")
    value = getattr(Settings.model_fields[section].default, name)
    return f"`{json.dumps(value)}`"


def accepted(schema: dict) -> str:
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "anyOf" in schema:
        return " or ".join(accepted(one) for one in schema["anyOf"])
    kind = schema.get("type", "anything")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if kind == "array" and "items" in schema:
        text += f" of {accepted(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        text += f" of {accepted(schema['additionalProperties'])}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "minItems": "at least"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"`{schema['pattern']}`".replace("|", "\\|"))
    if "not" in schema:
        limits.append(f"not {accepted(schema['not'])}")
    return ", ".join([text, *limits])


def document() -> str:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    rows = [f"| `{path}` | {default_of(values, path)} | {accepted(of)} |" for path, of in leaves(schema)]
    return "\n".join([HEAD, *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
