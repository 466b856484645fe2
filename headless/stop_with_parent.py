"""Copied to the custom nodes of a ComfyUI that comfyui.py starts: it ends when the command that started it does.

The command holds the other end of the standard input, which closes however the command ends, SIGKILL included.
"""

import os
import sys
import threading

NODE_CLASS_MAPPINGS: dict[str, type] = {}  # ComfyUI asks for it


def wait_for_the_end() -> None:
    """Read until nobody can write, then end this process."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


if sys.stdin is not None:
    threading.Thread(target=wait_for_the_end, daemon=True).start()
