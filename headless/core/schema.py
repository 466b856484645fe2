"""What the schemas of the stand-ins share."""

from __future__ import annotations

from typing import Any

from ...nodes.host.alone import io

Latent = dict[str, Any]


def schema(
    node_id: str, inputs: list[Any], outputs: list[Any], title: str = "", **more: Any
) -> Any:
    name = title or node_id
    return io.Schema(
        node_id=node_id, display_name=name, category="core", inputs=inputs, outputs=outputs, **more
    )
