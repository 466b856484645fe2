"""Ray, behind closed doors: a cluster of our own on loopback with a token, or another's that has one."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ..extras import EXTRAS, install
from ..workflow import WorkflowError

TOKEN, TOKEN_FILE, MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"
LOOPBACK = "127.0.0.1", "::1"
#: Read when Ray is imported: 0 makes the node's address the one of loopback, and all its servers listen there alone.
ON_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@cache
def new_token() -> str:
    """One per process, since Ray keeps the first that it reads."""
    return secrets.token_hex(32)


def has_token() -> bool:
    """Whether Ray will send a token: from the environment, or from its file."""
    if os.environ.get(TOKEN):
        return True
    file = Path(os.environ.get(TOKEN_FILE) or Path.home() / ".ray" / "auth_token")
    try:
        return bool(file.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return False


def prepare(address: str | None) -> dict[str, str]:
    """The variables under which Ray starts or connects. Raises WorkflowError for a cluster without a token."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if address is None:
        return quiet | {MODE: "token", TOKEN: os.environ.get(TOKEN) or new_token(), ON_NETWORK: "0"}
    if os.environ.get(MODE, "token").lower() != "token" or not has_token():
        raise WorkflowError(
            f"--ray {address}: the cluster must require a token, since whoever reaches it can run programs there. "
            f"Make one with `ray get-auth-token --generate`, start Ray on every machine with {MODE}=token and this "
            f"token, and give both to this command ({MODE}, and {TOKEN} or {TOKEN_FILE})"
        )
    return quiet | {MODE: "token"}


@contextmanager
def cluster(address: str | None, cores: int) -> Iterator[Any]:
    """Ray, connected to ``address``, or for None to a cluster of this process alone with ``cores`` cores."""
    variables = prepare(address)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        try:
            import ray
        except ImportError:
            raise WorkflowError(f"a sweep needs Ray: {install(EXTRAS['ray'])}") from None
        handler = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = dict(log_to_driver=False, logging_level="error")
        if address is None:
            quiet |= dict(num_cpus=cores, include_dashboard=False)
        ray.init("local" if address is None else address, **quiet)  # None would read RAY_ADDRESS
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(
                    signal.SIGTERM, handler
                )  # Ray's own prints a trace and ends the process
            if address is None and (here := ray.util.get_node_ip_address()) not in LOOPBACK:
                raise WorkflowError(
                    f"Ray listens on {here}, since it was imported before the sweep: set {ON_NETWORK}=0 before that"
                )
            yield ray
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
