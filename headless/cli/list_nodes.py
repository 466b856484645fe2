"""sampling-kit nodes"""

from __future__ import annotations

import json

import click

from ..terminal_text import say
from .errors import errors_reported
from .options import debug_option

NAMES = {"COMFY_DYNAMICCOMBO_V3": "COMBO"}  # in the list for people


@click.command("nodes")
@click.option("--json", "as_json", is_flag=True, help="Print what ComfyUI's /object_info would.")
@debug_option
def list_nodes(as_json: bool, debug: bool) -> None:
    """List the nodes that run here."""
    with errors_reported(debug):
        from ...nodes.host.alone.io import object_info
        from ..registry import registry

        infos = {name: object_info(node) for name, node in registry().items()}
        if as_json:
            say(json.dumps(infos))
            return
        for name, info in infos.items():
            groups = (info["input"].get(group, {}) for group in ("required", "optional"))
            inputs = ", ".join(
                f"{key} {NAMES.get(kind, kind)}"
                for group in groups
                for key, (kind, _) in group.items()
            )
            outputs = ", ".join(info["output"]) or "nothing"
            say(f"{name} ({info['display_name']}): {inputs or 'nothing'} -> {outputs}")
