"""Ray's doors: a cluster of our own is on loopback, with a token; another's must have one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sampling_kit.headless.sweep import Crew, cluster
from sampling_kit.headless.workflow import WorkflowError

OURS = """
import json, os, subprocess, sys
from pathlib import Path
os.environ["RAY_ADDRESS"] = "192.0.2.1:6379"  # of somebody else: not where a sweep without --ray goes
from sampling_kit.headless.sweep import Crew

def below(process):
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    mine = {process}
    while more := {child for child, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return mine

def listening(processes):
    sockets = set()
    for process in processes:
        for entry in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(entry))
            except OSError:
                pass
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                yield fields[1].split(":")[0]

with Crew(1, device="cpu").ray() as ray:
    @ray.remote
    def one():
        return 1
    assert ray.get(one.remote()) == 1
    address = ray.get_runtime_context().gcs_address
    other = "import sys, ray; ray.init(sys.argv[1], logging_level='error'); print(ray.nodes())"

    def connects(**token):
        line = [sys.executable, "-c", other, address]
        return subprocess.run(line, env=os.environ | token, capture_output=True).returncode == 0
    print(json.dumps(dict(
        addresses=sorted(set(listening(below(os.getpid())))), dashboard=ray.worker.global_worker.node.webui_url or "",
        same_token=connects(), other_token=connects(RAY_AUTH_TOKEN="f" * 64), no_token=connects(RAY_AUTH_MODE="disabled"),
    )))
assert "RAY_AUTH_TOKEN" not in os.environ and os.environ["RAY_ADDRESS"] == "192.0.2.1:6379"
"""
LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # the same, as IPv6 says it
    "00000000000000000000000001000000",  # ::1
}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's list of sockets")
@pytest.mark.full
def test_our_own_cluster_is_behind_doors():
    """It listens on loopback alone, has no dashboard, and refuses who has no token. RAY_ADDRESS does not move it."""
    pytest.importorskip("ray", reason="needs ray (extra 'scale')")
    free = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    run = subprocess.run(
        [sys.executable, "-c", OURS], env=free, capture_output=True, text=True, timeout=400
    )
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout.splitlines()[-1])
    assert facts["addresses"] and set(facts["addresses"]) <= LOOPBACK, facts
    assert facts["dashboard"] == ""
    assert facts["same_token"] and not facts["other_token"] and not facts["no_token"], facts


@pytest.mark.parametrize(
    "variables",
    [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "t"}, {"RAY_AUTH_TOKEN_PATH": "/nowhere"},
     {"RAY_AUTH_TOKEN": ""}],
)  # fmt: skip
def test_a_cluster_without_a_token_is_refused(monkeypatch, tmp_path, variables):
    """Before anything of Ray is started."""
    for name in (cluster.MODE, cluster.TOKEN, cluster.TOKEN_FILE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused = pytest.raises(WorkflowError, match="the cluster must require a token")
    with refused, Crew(1, "10.0.0.1:6379").ray():
        pass


@pytest.mark.parametrize("place", ["variable", "file", "home"])
def test_where_a_token_may_be(monkeypatch, tmp_path, place):
    for name in (cluster.MODE, cluster.TOKEN, cluster.TOKEN_FILE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    if place == "variable":
        monkeypatch.setenv(cluster.TOKEN, "t")
    elif place == "file":
        (tmp_path / "t").write_text("t\n")
        monkeypatch.setenv(cluster.TOKEN_FILE, str(tmp_path / "t"))
    else:
        (tmp_path / ".ray" / "auth_token").write_text("t")
    assert cluster.prepare("10.0.0.1:6379")[cluster.MODE] == "token"
    assert cluster.TOKEN not in cluster.prepare("10.0.0.1:6379"), "it stays where it is"


def test_a_token_of_our_own_is_new_and_stays_in_the_process(monkeypatch):
    monkeypatch.delenv(cluster.TOKEN, raising=False)
    ours = cluster.prepare(None)
    assert len(ours[cluster.TOKEN]) == 64 and ours[cluster.MODE] == "token"
    assert ours[cluster.ON_NETWORK] == "0"
    assert cluster.prepare(None) == ours


def test_the_lowest_ray_is_the_first_with_tokens():
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    assert text.count('"ray>=2.52"') == 2 and text.count('"ray>') == 2
