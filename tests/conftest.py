"""Shared by all tests: one thread, since the tensors are tiny (or SAMPLING_KIT_TEST_THREADS); and a ComfyUI, where there is one."""

import os
import secrets

import pytest
import torch
from host_server import NEEDED, PACK, Comfy, find_python, find_root

# Ray reads these once in a process: one token, and loopback alone, for all tests of a process.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
torch.set_num_threads(int(os.environ.get("SAMPLING_KIT_TEST_THREADS", "1")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--release", action="store_true", help="also what only a release needs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--release"):
        skip = pytest.mark.skip(reason="only a release needs it: pytest --release")
        for item in items:
            if item.get_closest_marker("release"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def comfy() -> Comfy:
    root = find_root()
    if root is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH, or install one in ~/comfy/ComfyUI (comfy-cli)")
    python = find_python(root)
    if python is None:
        pytest.skip(
            f"{root}: no Python with {', '.join(NEEDED)} in .venv, venv or here; what this pack needs: "
            f"pip install -r {PACK / 'requirements.txt'} with ComfyUI's own Python"
        )
    return Comfy(root, python)
