"""The queue client against a server that misbehaves: nothing is lost, nothing runs twice, reasons are told."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

from fake_comfy import (
    LOGIN,
    Answer,
    Fake,
    body,
    bomb,
    endless,
    garbled,
    graph,
    hang_up,
    moved,
    once,
    png,
    status,
    trickle,
)

from sampling_kit.headless.queue import Job, Queue, Watcher, limits
from sampling_kit.headless.queue.access import redirected
from sampling_kit.headless.queue.content import BEGINNINGS, mismatch
from sampling_kit.headless.queue.faults import Refuses, Unreachable
from sampling_kit.headless.queue.ledger import LEDGER
from sampling_kit.headless.workflow import WorkflowError

JOBS = [Job(f"seed{s}", graph(s)) for s in range(3)]
DEEP = "[" * 5000 + "]" * 5000
ROUTES = ["/queue", "/history", "/prompt", "/view"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dict(
        LOOK=0.2, FIRST_PAUSE=0.02, LONGEST_PAUSE=0.05, ANSWER_SECONDS=0.5, SOCKET_PAUSE=0.1, GRACE_SECONDS=0.2,
        ANSWER_BYTES=2**20, FILE_BYTES=2**20, HANDOVER=0.1,
    ).items():  # fmt: skip
        monkeypatch.setattr(limits, name, value)


def play(scene: Callable[[Fake], Any], seconds: float = 30) -> Any:
    async def go() -> Any:
        fake = Fake()
        await fake.start()
        try:
            return await scene(fake)
        finally:
            await fake.crash()

    return asyncio.run(asyncio.wait_for(go(), seconds))


def queue(fake: Fake, folder: Path, **more: Any) -> Queue:
    return Queue(f"127.0.0.1:{fake.port}", folder, **more)


def run(folder: Path, fault: Any, jobs: list[Job] = JOBS, **more: Any) -> tuple[list[Any], Fake]:
    """(results, the server) of ``jobs`` under a fault."""

    async def scene(fake: Fake) -> Any:
        fake.fault = fault
        return await queue(fake, folder, **more).run(jobs), fake

    return play(scene)


def require_all(folder: Path, done: list[Any], fake: Fake, jobs: list[Job] = JOBS) -> None:
    """Every job's own picture is there, written down, and ran once."""
    assert [(d.label, d.error) for d in done] == [(j.label, None) for j in jobs]
    for job, d in zip(jobs, done, strict=True):
        assert [(folder / name).read_bytes() for name in d.files] == [
            png(job.prompt["1"]["inputs"]["seed"])
        ]
    assert sorted(fake.ran) == sorted(j.prompt["1"]["inputs"]["seed"] for j in jobs)
    assert len((folder / LEDGER).read_text().splitlines()) == 1 + len(jobs)
    assert not list(folder.rglob("*.part"))


#: What passes: it is asked again, and nothing is lost.
PASSING: dict[str, Answer] = {
    "502": status(502), "503": status(503), "504": status(504), "429": status(429), "hang up": hang_up,
    "web page": body(LOGIN, "text/html"), "web page called JSON": body(LOGIN), "trickle": trickle,
}  # fmt: skip
#: Answers that no ComfyUI gives, to JSON routes.
STRANGE: dict[str, Answer] = {
    "nothing": body(b""), "half": body('{"queue_running": [[0,'), "not UTF-8": body(b'{"\xff": 1}'), "deep": body(DEEP),
    "list": body("[]"), "null": body("null"), "number": body("7"), "huge number": body('{"a": 1' + "0" * 5000 + "}"),
    "empty": body("{}"), "endless": endless, "bomb": bomb(2**24), "bad gzip": body(b"x", **{"Content-Encoding": "gzip"}),
    "brotli": body(b"x", **{"Content-Encoding": "br"}), "418": status(418),
    "wrong types": body('{"queue_running": {}, "queue_pending": 1, "prompt_id": []}'),
}  # fmt: skip


@pytest.mark.some(8)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_costs_nothing(tmp_path, route, name):
    done, fake = run(tmp_path, once(route, PASSING[name]))
    require_all(tmp_path, done, fake)


@pytest.mark.some(15)
@pytest.mark.parametrize("route", ["/queue", "/history", "/prompt"])
@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_answer_is_asked_for_again(tmp_path, route, name):
    done, fake = run(tmp_path, once(route, STRANGE[name], 2))
    require_all(tmp_path, done, fake)


def test_a_submission_whose_answer_is_lost_is_not_repeated(tmp_path):
    done, fake = run(tmp_path, once("/prompt", garbled("{"), 3))
    require_all(tmp_path, done, fake)
    assert len(fake.bodies) == len(JOBS)


@pytest.mark.parametrize("name", STRANGE)
def test_a_server_that_stays_strange_is_given_up(tmp_path, name):
    with pytest.raises(Refuses, match=r"its (packed )?answer|418"):
        run(tmp_path, lambda r: STRANGE[name] if r.path == "/queue" else None)


def test_a_server_that_is_given_up_keeps_no_prompt_of_ours(tmp_path):
    """The command ends; what it had submitted does not run on."""

    async def scene(fake):
        fake.fault = lambda r: body("[]") if r.path == "/queue" and fake.bodies else None
        with pytest.raises(Refuses, match="not an object"):
            await queue(fake, tmp_path).run(JOBS)
        assert {b["prompt_id"] for b in fake.bodies} == set(fake.cancelled) and len(
            fake.bodies
        ) == 3

    play(scene)


#: Entries of the history that make no sense, for one job: (entry, what its error says).
ENTRIES = {
    "a number": (7, "no outputs"), "a list": ([], "no outputs"), "no outputs": ({"status": {}}, "no outputs"),
    "another status": ({"outputs": {}, "status": {"status_str": "maybe"}}, "unknown status"),
    "an error without words": ({"outputs": {}, "status": {"status_str": "error", "messages": 3}}, "failed on the server"),
    "an odd message": ({"outputs": {}, "status": {"status_str": "error", "messages": [1, ["execution_error"], ["execution_error", 2]]}}, "node"),
    "too many files": ({"outputs": {"1": {"images": [{"filename": "x.png"}] * 5000}}}, "5000 files"),
    "a file outside": ({"outputs": {"1": {"images": [{"filename": "x.png", "subfolder": "../.."}]}}}, "refused"),
    "a file of the system": ({"outputs": {"1": {"images": [{"filename": "x.png", "subfolder": "/etc"}]}}}, "refused"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_a_job_with_a_senseless_entry_fails_alone(tmp_path, name):
    entry, reason = ENTRIES[name]

    async def scene(fake):
        def outcome(prompt, seed, real=fake.outcome):
            return entry if seed == 1 else real(prompt, seed)

        fake.outcome = outcome
        return await queue(fake, tmp_path).run(JOBS)

    done = play(scene)
    assert [d.error is None for d in done] == [True, False, True]
    assert reason in done[1].error


#: What a file's answer may be, and what its job then says.
BAD_FILES: dict[str, tuple[Answer, str]] = {
    "login page": (body(LOGIN, "text/html"), "web page"),
    "login page as PNG": (body(LOGIN, "image/png"), "web page"),
    "text as PNG": (body("no picture", "image/png"), "no png file"),
    "nothing": (body(b"", "image/png"), "no png file"),
    "endless": (endless, "no png file"),
    "endless PNG": (body(png(1) + bytes(2**21), "image/png"), "more than"),
    "bomb": (bomb(2**24), "larger than 1 MB"),
    "500": (status(500), "500"),
    "403": (status(403), "403"),
    "elsewhere": (moved("http://elsewhere.invalid/a.png"), "redirects to http://elsewhere.invalid"),
    "trickle": (trickle, "trickles"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_job_whose_file_is_not_one_fails_alone(tmp_path, name):
    answer, reason = BAD_FILES[name]

    def fault(request: Any) -> Answer | None:
        return (
            answer if request.path == "/view" and "_00001_" in request.query["filename"] else None
        )

    done, _ = run(tmp_path, fault)
    bad = [d for d in done if d.error]
    assert len(bad) == 1 and reason in bad[0].error
    assert len((tmp_path / LEDGER).read_text().splitlines()) == len(JOBS), "it is not written down"
    assert len(list(tmp_path.rglob("*.p*"))) == len(JOBS) - 1


def test_limits_hold_in_memory(tmp_path):
    """Neither an endless answer nor a bomb of 512 MB is held."""
    endless.sent = 0
    big = bomb(2**29)
    for answer in (endless, big):
        tracemalloc.start()
        with pytest.raises(Refuses, match=r"larger than 1 MB"):
            run(tmp_path, lambda r, answer=answer: answer if r.path == "/queue" else None)
        assert tracemalloc.get_traced_memory()[1] < 2**25
        tracemalloc.stop()
    assert endless.sent < 2**26


# ---------------------------------------------------------------------------------- redirects and refusals

ENDS: dict[str, tuple[Answer, str]] = {
    "401": (status(401), r"answers 401 \(the reason\): give a token"),
    "403": (status(403), "403"),
    "404": (status(404), "is this a ComfyUI"),
    "elsewhere": (moved("http://elsewhere.invalid/queue"), "redirects to http://elsewhere.invalid"),
    "another port": (moved("http://127.0.0.1:9/queue", 302), "redirects to http://127.0.0.1:9"),
    "another scheme": (moved("ftp://127.0.0.1/queue"), "redirects to ftp"),
    "nowhere": (status(307), "redirects to nowhere"),
}


@pytest.mark.parametrize("route", ["/queue", "/prompt"])
@pytest.mark.parametrize("name", ENDS)
def test_a_server_that_does_not_want_us_is_left_at_once(tmp_path, name, route):
    answer, reason = ENDS[name]
    with pytest.raises(Refuses, match=reason):
        run(tmp_path, lambda r: answer if r.path == route else None)


def test_no_other_host_hears_of_the_graph(tmp_path):
    async def scene(fake):
        thief = Fake()
        await thief.start()
        try:
            url = f"http://127.0.0.1:{thief.port}"
            fake.fault = lambda r: moved(f"{url}{r.path}") if r.path in ("/prompt", "/ws") else None
            with pytest.raises(Refuses):
                await queue(fake, tmp_path).run(JOBS)
            return thief.seen
        finally:
            await thief.crash()

    assert play(scene) == []


def test_a_redirect_on_the_same_host_is_followed_once(tmp_path):
    def fault(request: Any) -> Answer | None:
        return (
            None
            if "again" in request.query
            else moved(f"{request.path_qs}{'&' if request.query_string else '?'}again=1", 307)
        )

    done, fake = run(tmp_path, fault)
    require_all(tmp_path, done, fake)


def test_a_redirect_in_circles_is_not_followed(tmp_path):
    with pytest.raises(Refuses, match="redirects twice"):
        run(tmp_path, lambda r: moved("/queue") if r.path == "/queue" else None)


def test_where_a_redirect_may_lead():
    assert redirected("http://a:80/queue", "https://a/queue") == "https://a/queue"
    assert redirected("http://a/queue", "/x") == "http://a/x"
    for url, location in [
        ("https://a/queue", "http://a/queue"), ("http://a/x", "http://b/x"), ("http://a/x", "//b/x"), ("http://a/x", ""),
        ("http://a/x", "http://u:p@a/x"), ("http://a/x", "http://a:81/x"), ("http://a/x", "http://[bad/x"), ("http://a/x", None),
    ]:  # fmt: skip
        with pytest.raises(Refuses, match="not followed"):
            redirected(url, location)


def test_413_and_500_say_why_and_fail_the_job_alone(tmp_path):
    done, _ = run(tmp_path, once("/prompt", status(413, "too large")))
    assert [d.error for d in done] == ["it answers 413 (too large)", None, None]
    done, _ = run(tmp_path / "b", once("/prompt", status(500, "Server got itself in trouble")))
    assert [d.error for d in done] == ["it answers 500 (Server got itself in trouble)", None, None]


@pytest.mark.parametrize(
    ("server", "reason"),
    [("http://no-such-host.invalid", "no connection"), ("https://127.0.0.1:{port}", "SSL|TLS|ssl")],
)
def test_a_name_or_a_certificate_that_is_wrong_ends_it_at_once(tmp_path, server, reason):
    async def scene(fake):
        with pytest.raises(Refuses, match=reason):
            await Queue(server.format(port=fake.port), tmp_path).run(JOBS)

    play(scene, 10)


# -------------------------------------------------------------------------------------------- websocket

JUNK: list[str | bytes] = [
    "", "{", "[]", "null", "7", '"x"', DEEP, "{}", '{"type": 7, "data": 7}', '{"type": "progress"}',
    '{"type": "progress", "data": {}}', '{"type": "progress", "data": {"prompt_id": []}}', '{"type": [], "data": {"prompt_id": "x"}}',
    '{"type": "progress", "data": {"prompt_id": "ID"}}',
    '{"type": "progress", "data": {"prompt_id": "ID", "node": "1", "value": "x", "max": null}}',
    '{"type": "progress", "data": {"prompt_id": "ID", "node": {}, "value": 1e400, "max": NaN}}',
    '{"type": "executing", "data": {"prompt_id": "ID", "node": 7}}', '{"type": "executing", "data": {"prompt_id": {"a": 1}}}',
    '{"type": "crystools.monitor", "data": {"cpu": 3}}', '{"type": "execution_error", "data": 3}',
    b"", b"\0", b"\0\0\0\1", bytes(8), b"\xff" * 100, b"\0\0\0\4" + b"\xff" * 20, b"\0\0\0\4\0\0\0\2{}x", b"\0\0\0\4\0\0\0\4null....",
    b"\0\0\0\4\0\0\0\2[]rest", b"\0\0\0\3text", b"\0\0\0\4\0\0\1\0" + b"[" * 256 + b"x",
]  # fmt: skip


def test_strange_messages_are_ignored(tmp_path):
    async def scene(fake):
        client = queue(fake, tmp_path, previews=True, watcher=Watcher())
        id = JOBS[0].id(client_name(tmp_path))
        fake.noise = [m.replace("ID", id) if isinstance(m, str) else m for m in JUNK]
        return await client.run(JOBS), fake

    require_all(tmp_path, *play(scene))


def client_name(folder: Path) -> str:
    from sampling_kit.headless.queue.ledger import Ledger

    return Ledger(folder).name


def test_a_chatty_extension_does_not_postpone_the_look(tmp_path):
    """The server's own messages never come; another's come all the time."""

    async def scene(fake):
        fake.mute = True

        async def chat() -> None:
            while True:
                await asyncio.sleep(0.01)
                await fake.send_all('{"type": "crystools.monitor", "data": {}}')

        talk = asyncio.ensure_future(chat())
        try:
            return await queue(fake, tmp_path).run(JOBS), fake
        finally:
            talk.cancel()

    require_all(tmp_path, *play(scene, 10))


@pytest.mark.parametrize(
    "answer",
    [status(403), status(404), status(500), hang_up, body(LOGIN), moved("http://127.0.0.1:9/ws")],
)
def test_without_a_websocket_it_works_by_asking(tmp_path, answer):
    done, fake = run(tmp_path, lambda r: answer if r.path == "/ws" else None)
    require_all(tmp_path, done, fake)


# ----------------------------------------------------------------------------------------- the rest


def test_every_known_kind_of_file_is_told_from_a_web_page():
    for kind in BEGINNINGS:
        assert mismatch(f"a.{kind}", LOGIN.encode(), f"image/{kind}")
        assert mismatch(f"a.{kind}", b"")
    assert mismatch("a.png", png(1), "image/png") is None
    assert (
        mismatch("a.bin", LOGIN.encode())
        and mismatch("a.html", LOGIN.encode(), "text/html") is None
    )
    assert mismatch("a.bin", b"anything") is None and mismatch("a.txt", b"") is None


def test_patience_ends(tmp_path):
    with pytest.raises(Unreachable, match=r"has not answered for \d+ s \(it answers 503"):
        run(tmp_path, lambda r: status(503), patience=0.2)


def test_a_graph_refused_among_others_fails_alone(tmp_path):
    jobs = [JOBS[0], Job("bad", graph(-1)), JOBS[1]]
    done, _ = run(tmp_path, lambda r: None, jobs)
    assert [d.error is None for d in done] == [True, False, True]
    assert 'node 1 "the paint": Value too small: seed' in done[1].error
    for odd in (
        "[]",
        "null",
        "nonsense",
        json.dumps({"error": 7, "node_errors": {"1": 3, "2": {"errors": [4, {}]}}}),
    ):
        with pytest.raises(WorkflowError, match=r"refused|7"):
            run(
                tmp_path / "b",
                lambda r, odd=odd: _bad_request(odd) if r.path == "/prompt" else None,
            )


def _bad_request(text: str) -> Answer:
    return status(400, text)
