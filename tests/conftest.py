"""Shared by all tests: what is run by default and in full, what must be there, and a ComfyUI, where there is one.

One thread, since the tensors are tiny (or SAMPLING_KIT_TEST_THREADS).
"""

import os
import secrets

import needs
import product
import pytest
import torch
from host_server import NEEDED, PACK, Comfy, find_python, find_root

# Ray reads these once in a process: one token, and loopback alone, for all tests of a process.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
torch.set_num_threads(int(os.environ.get("SAMPLING_KIT_TEST_THREADS", "1")))


#: Options that each run the tests of a marker of the same name, and why these are left out otherwise.
MORE = {
    "full": "every combination, and tests whose kind a shorter one covers",
    "release": "also what only a release needs",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for option, what in MORE.items():
        parser.addoption(f"--{option}", action="store_true", help=what)


def pytest_configure(config: pytest.Config) -> None:
    needs.required()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    product.parametrize(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return product.run(pyfuncitem)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for option in MORE:
        if not config.getoption(option):
            skip = pytest.mark.skip(reason=f"left out by default: pytest --{option}")
            for item in items:
                if item.get_closest_marker(option):
                    item.add_marker(skip)
    if not config.getoption("full"):
        left_out = set(product.left_out(items, config.args))
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def comfy() -> Comfy:
    root = find_root()
    if root is None:
        needs.missing(
            "host", "no ComfyUI: set COMFYUI_PATH, or install one in ~/comfy/ComfyUI (comfy-cli)"
        )
    python = find_python(root)
    if python is None:
        needs.missing(
            "host",
            f"{root}: no Python with {', '.join(NEEDED)} in .venv, venv or here; what this pack needs: "
            f"pip install -r {PACK / 'requirements.txt'} with ComfyUI's own Python",
        )
    return Comfy(root, python)
