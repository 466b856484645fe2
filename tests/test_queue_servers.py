"""The queue client and servers as they are: tokens, proxies, old results, several of them at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

from fake_comfy import Fake, graph, once, png, status

from sampling_kit.headless.queue import Access, Job, Queue, Watcher, access, limits
from sampling_kit.headless.queue.access import address
from sampling_kit.headless.queue.faults import Refuses
from sampling_kit.headless.queue.ledger import LEDGER, Ledger
from sampling_kit.headless.workflow import WorkflowError

JOBS = [Job(f"seed{s}", graph(s)) for s in range(3)]
SENDER = {"1": {"class_type": "SaveImageWebsocket", "inputs": {"seed": 5}}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "HANDOVER", "SOCKET_PAUSE"):
        monkeypatch.setattr(limits, name, 0.2)
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.02)


class Look(Watcher):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def play(scene: Callable[..., Any], servers: int = 1, pace: float = 0.01) -> Any:
    """What ``scene`` returns, which gets as many servers."""

    async def go() -> Any:
        fakes = [Fake(pace) for _ in range(servers)]
        for fake in fakes:
            await fake.start()
        try:
            return await scene(*fakes)
        finally:
            for fake in fakes:
                await fake.crash()

    return asyncio.run(asyncio.wait_for(go(), 30))


def queue(fake: Fake, folder: Path, **more: Any) -> Queue:
    return Queue(f"127.0.0.1:{fake.port}", folder, **more)


def require_pictures(folder: Path, done: list[Any], jobs: list[Job] = JOBS) -> None:
    assert [(d.label, d.error) for d in done] == [(j.label, None) for j in jobs]
    for job, d in zip(jobs, done, strict=True):
        (name,) = d.files
        assert (folder / name).read_bytes() == png(job.prompt["1"]["inputs"]["seed"])
    assert len((folder / LEDGER).read_text().splitlines()) == 1 + len(jobs)


# --------------------------------------------------------------------------- results of earlier runs


def fail_always(prompt: dict[str, Any], seed: int) -> dict[str, Any]:
    return {
        "outputs": {},
        "status": {"status_str": "error", "messages": [["execution_interrupted", {}]]},
    }


def test_a_failure_from_before_this_command_is_no_result(tmp_path):
    """The node is repaired, or the interrupt is over: the same command runs the job again, as often as it takes."""

    async def scene(fake):
        real, fake.outcome = fake.outcome, fail_always
        for _ in range(2):
            (done,) = await queue(fake, tmp_path).run(JOBS[:1])
            assert done.error == "it was interrupted on the server"
        assert len(fake.history) == 2, "it ran each time"
        fake.outcome = real
        return await queue(fake, tmp_path).run(JOBS[:1])

    require_pictures(tmp_path, play(scene), JOBS[:1])


def test_a_prompt_that_waits_from_before_is_waited_for(tmp_path):
    async def scene(fake):
        await queue(fake, tmp_path, watch=False).run(JOBS)
        done = await queue(fake, tmp_path).run(JOBS)
        return done, fake

    done, fake = play(scene, pace=0.05)
    require_pictures(tmp_path, done)
    assert sorted(fake.ran) == [0, 1, 2] and len(fake.bodies) == 3


def test_a_graph_taken_in_part_is_no_result_now_or_later(tmp_path):
    """HTTP 200 with node_errors: one output was refused, the others run."""

    async def scene(fake):
        fake.node_errors = {
            "7": {
                "class_type": "SaveVideo",
                "errors": [{"message": "Value not in list", "details": "codec"}],
            }
        }
        with pytest.raises(WorkflowError, match='node 7 "SaveVideo": Value not in list: codec'):
            await queue(fake, tmp_path).run(JOBS[:1])
        assert fake.cancelled and len((tmp_path / LEDGER).read_text().splitlines()) == 1
        fake.node_errors = {}
        return await queue(fake, tmp_path).run(JOBS[:1])

    require_pictures(tmp_path, play(scene), JOBS[:1])


def test_an_old_entry_of_a_part_of_the_graph_is_no_result(tmp_path):
    async def scene(fake):
        id = JOBS[0].id(Ledger(tmp_path).name)
        fake.history[id] = {"outputs": {}, "status": None, "prompt": [0, id, {}, {}, []]}
        done = await queue(fake, tmp_path).run(JOBS[:1])
        return done

    require_pictures(tmp_path, play(scene), JOBS[:1])


def test_a_file_that_is_not_there_fails_its_job_at_once_and_the_next_command_runs_it_again(
    tmp_path,
):
    async def scene(fake):
        fake.missing = {"paint_00002_.png"}
        done = await queue(fake, tmp_path).run(JOBS)
        bad = [d for d in done if d.error]
        assert (
            len(bad) == 1 and "does not have 'paint_00002_.png', which node 1 wrote" in bad[0].error
        )
        assert len(fake.ran) == 3
        return await queue(fake, tmp_path).run(JOBS), fake

    done, fake = play(scene)
    require_pictures(tmp_path, done)
    assert len(fake.ran) == 4


def test_a_cached_answer_whose_file_is_gone_is_made_again(tmp_path):
    """The graph is changed by an input that no node has, so that the server does not take it from its cache."""

    async def scene(fake):
        await queue(fake, tmp_path / "a").run(JOBS[:1])
        fake.missing = {"paint_00001_.png"}
        return await queue(fake, tmp_path / "b").run(JOBS[:1]), fake

    done, fake = play(scene)
    require_pictures(tmp_path / "b", done, JOBS[:1])
    ids = [body["prompt_id"] for body in fake.bodies]
    assert len(set(ids)) == 3 and fake.bodies[2]["prompt"]["1"]["inputs"]["run_again"] == 1


def test_a_cached_answer_whose_file_is_there_is_taken(tmp_path):
    async def scene(fake):
        await queue(fake, tmp_path / "a").run(JOBS)
        return await queue(fake, tmp_path / "b").run(JOBS), fake

    done, fake = play(scene)
    require_pictures(tmp_path / "b", done)
    assert len(fake.ran) == 3


def test_a_job_that_makes_no_file_says_so(tmp_path):
    look = Look()

    async def scene(fake):
        fake.outcome = lambda prompt, seed: {"outputs": {}, "status": {"status_str": "success"}}
        return await queue(fake, tmp_path, watcher=look).run(JOBS[:1])

    assert [d.error for d in play(scene)] == [None]
    assert look.notes == ["seed0: its nodes made no file and showed no text"]


# ------------------------------------------------------------------------------- the websocket's pictures


def test_pictures_that_come_over_the_websocket_are_kept(tmp_path):
    async def scene(fake):
        fake.noise = [b"\0\0\0\4\0\0\0\2{}xxx"]
        return await queue(fake, tmp_path).run([Job("x", SENDER)])

    (done,) = play(scene, pace=0.1)
    assert done.error is None and len(done.files) == 1 and done.files[0].startswith("websocket_x_")
    assert (tmp_path / done.files[0]).read_bytes() == png(5)
    assert json.loads((tmp_path / LEDGER).read_text().splitlines()[1])["files"] == list(done.files)


def test_pictures_that_cannot_come_are_missed(tmp_path):
    async def scene(fake):
        fake.fault = lambda r: status(403) if r.path == "/ws" else None
        done = await queue(fake, tmp_path).run([Job("x", SENDER)])
        assert len(fake.bodies) == 2, "it was run a second time"
        fake.fault = lambda r: None
        return done + await queue(fake, tmp_path).run([Job("x", SENDER)])

    bad, good = play(scene, pace=0.1)
    assert "over the websocket alone, and none came" in bad.error
    assert good.error is None and len(good.files) == 1


# --------------------------------------------------------------------------------- tokens, keys, proxies

SECRETS = ["Header-5ecret", "B3arer-secret", "T0ken-secret", "Ap1-secret", "P4ss-secret"]


def way_in(**more: Any) -> Access:
    environment = {"SAMPLING_KIT_BEARER_TOKEN": SECRETS[1], "COMFY_API_KEY": SECRETS[3]}
    return access([f"X-Key={SECRETS[0]}"], environment=environment, **more)


def test_tokens_reach_the_server_on_every_way(tmp_path):
    async def scene(fake):
        url = f"http://127.0.0.1:{fake.port}/?token={SECRETS[2]}"
        await Queue(url, tmp_path, access=way_in()).run(JOBS)
        return fake

    fake = play(scene)
    assert {path.split("?")[0].split("/")[1] for path, _ in fake.seen} == {
        "ws",
        "queue",
        "history",
        "prompt",
        "view",
    }
    for path, headers in fake.seen:
        assert f"token={SECRETS[2]}" in path
        assert headers["X-Key"] == SECRETS[0] and headers["Authorization"] == f"Bearer {SECRETS[1]}"
    assert all(body["extra_data"]["api_key_comfy_org"] == SECRETS[3] for body in fake.bodies)


def test_a_password_in_the_address_reaches_the_server(tmp_path):
    async def scene(fake):
        await Queue(f"http://me:{SECRETS[4]}@127.0.0.1:{fake.port}", tmp_path).run(JOBS[:1])
        return fake

    assert {headers["Authorization"][:6] for _, headers in play(scene).seen} == {"Basic "}


def test_no_secret_is_printed_or_stored(tmp_path):
    """Not even where the server repeats it: in a refusal, an error, a text, a name of a page."""
    look, said = Look(), list[str]()
    echo = " ".join(SECRETS)

    def outcome(prompt: dict[str, Any], seed: int) -> dict[str, Any]:
        if seed == 1:
            error = {"node_id": "1", "node_type": "Paint", "exception_message": echo}
            return {
                "outputs": {},
                "status": {"status_str": "error", "messages": [["execution_error", error]]},
            }
        return {"outputs": {"1": {"text": [echo]}}, "status": None}

    async def scene(fake):
        fake.outcome = outcome
        url = f"http://me:{SECRETS[4]}@127.0.0.1:{fake.port}/?token={SECRETS[2]}"
        for number in (400, 401, 418, 500, 503):
            fake.fault = once("/prompt", status(number, echo), 3)
            client = Queue(url, tmp_path, access=way_in(), watcher=look)
            said.append(repr(client))
            try:
                said.extend(repr(await client.run(JOBS)))
            except (Refuses, WorkflowError) as error:
                said.append(str(error))
        fake.fault = lambda r: None
        said.append(repr(await Queue(url, tmp_path, access=way_in(), watcher=look).run(JOBS)))

    play(scene)
    stored = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    everything = "\n".join([*look.notes, *said, *stored])
    assert "(hidden)" in everything
    assert [secret for secret in SECRETS if secret in everything] == []


@pytest.mark.parametrize("text", ["", "=x", "a b=c", "X", "X-Key=a\nb", "X\r\nY=1"])
def test_what_is_no_header_is_refused_without_its_value(text):
    with pytest.raises(WorkflowError, match="--header") as caught:
        access([text])
    assert "a\nb" not in str(caught.value)


def test_an_address_is_shown_without_its_secrets():
    whole = address("https://me:pw@host:8/sub/?token=abc&x=1")
    assert whole.base == "https://host:8/sub" and whole.query == (("token", "abc"), ("x", "1"))
    assert "pw" not in repr(whole) and "abc" not in repr(whole)
    assert address("[::1]:8188").base == "http://[::1]:8188"
    with pytest.raises(WorkflowError) as caught:
        address("ftp://me:pw@host/?token=abc")
    assert "pw" not in str(caught.value) and "abc" not in str(caught.value)


@pytest.mark.parametrize("asked", [True, False])
def test_proxies_of_the_environment_serve_on_request(tmp_path, monkeypatch, asked):
    async def scene(fake):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{fake.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{fake.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        return await Queue(
            "http://comfy.invalid", tmp_path, access=Access(environment_proxies=asked)
        ).run(JOBS)

    if asked:
        require_pictures(tmp_path, play(scene))
    else:
        with pytest.raises(Refuses, match="no connection"):
            play(scene)


def test_a_windows_server_s_separator_is_one(tmp_path):
    async def scene(fake):
        fake.subfolder = "sub\\dir"
        return await queue(fake, tmp_path).run(JOBS)

    done = play(scene)
    require_pictures(tmp_path, done)
    assert all(d.files[0].startswith("sub/dir/paint_") for d in done)
