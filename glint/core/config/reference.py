"""The reference configuration file, written from the typed fields: every key, its unit, its reason.

`python -m glint.core.config.reference > config/config.yaml` after a field has changed; a test compares the two.
"""

import json
import sys
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from glint.core.config.schema import Config

HEADER = """\
# Every key of GLINT with its default, its unit and its reason. `cohort` names the file beside this one that is laid over it:
# change values there, not here. Written by `python -m glint.core.config.reference`; do not edit by hand.
"""


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> bool:
    return not isinstance(value, BaseModel)


def _lines(model: type[BaseModel], values: BaseModel | None, depth: int) -> list[str]:
    indent = "  " * depth
    lines: list[str] = []
    for name, field in model.model_fields.items():
        if field.exclude:  # read from files of its own
            continue
        annotation = field.annotation
        value = getattr(values, name) if values is not None else field.get_default(call_default_factory=True)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            lines.append(f"{indent}{name}:")
            inner = value if isinstance(value, BaseModel) else None
            lines.extend(_lines(annotation, inner, depth + 1))
            continue
        width = 118 - len(indent)
        lines.extend(f"{indent}# {part}" for part in textwrap.wrap(field.description or "", width))
        lines.append(f"{indent}{name}: {'demo' if value is PydanticUndefined else _value(value)}")
    return lines


def reference_yaml() -> str:
    """The text of `config/config.yaml`."""
    lines: list[str] = []
    for line in _lines(Config, None, 0):
        if not line.startswith((" ", "#")) and line.endswith(":"):
            lines.append("")
        lines.append(line)
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference_yaml())
