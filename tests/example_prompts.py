"""Prompts of examples, made smaller for a test, and as their graphs give them."""

from typing import Any

Prompt = dict[str, Any]


def bounded(inputs: dict[str, Any], most: dict[str, Any]) -> dict[str, Any]:
    """Of the inputs that ``most`` names and that are numbers: each at most that; 0, which stands for "all", is that."""
    return {
        name: min(value or most[name], most[name])
        for name, value in inputs.items()
        if name in most and isinstance(value, int | float)
    }


def unframed(prompt: Prompt) -> Prompt:
    """Without the frames of subgraphs in ids: "25:17" is the API twin's "17"."""
    inner = {key: key.rpartition(":")[2] for key in prompt}
    assert len({*inner.values()}) == len(prompt)

    def at(value: Any) -> Any:
        return [inner[value[0]], value[1]] if isinstance(value, list) else value

    return {
        inner[key]: node | {"inputs": {name: at(v) for name, v in node["inputs"].items()}}
        for key, node in prompt.items()
    }
