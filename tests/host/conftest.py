"""A real ComfyUI for the host tests, with nothing but this pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host_server import Comfy, Server, free_port, linked, start


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked(tmp_path_factory.mktemp("comfy"))


@pytest.fixture(scope="session")
def launch(comfy: Comfy, base: Path) -> Callable[..., Server]:
    """Starts one more ComfyUI, on the given port or a free one; whoever calls it stops it."""
    return lambda port=None: start(comfy, base, port or free_port())


@pytest.fixture(scope="session")
def server(comfy: Comfy, base: Path) -> Iterator[Server]:
    running = start(comfy, base, free_port())
    yield running
    running.stop()
