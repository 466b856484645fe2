"""What goes to a server besides the graph, which part of it runs, and what is checked before: uploads, --only, --server."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

import test_headless_cli
import test_queue_faults
from fake_comfy import OBJECT_INFO, graph, png
from test_headless_cli import call, graph_of
from test_queue_faults import play

from sampling_kit.headless.object_info import registry_of
from sampling_kit.headless.queue import Job, Queue, with_uploads
from sampling_kit.headless.queue.uploads import local_file
from sampling_kit.headless.settings_flags import with_settings
from sampling_kit.headless.workflow import Workflow, WorkflowError

work, quick = test_headless_cli.work, test_queue_faults.quick  # fixtures
INT = ["INT", {"min": 0, "max": 100}]
NODES: dict[str, Any] = OBJECT_INFO | {
    "LoadImage": {
        "input": {"required": {"image": [["there.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
        "output_node": False,
    },
    "Loader": {
        "input": {
            "required": {
                "ckpt_name": [["sdxl.safetensors"]],
                "mode": ["COMBO", {"options": ["a", "b"]}],
                "kind": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {"options": [{"key": "x", "inputs": {"required": {"depth": INT}}}]},
                ],
            },
            "optional": {
                "models": [
                    "COMFY_AUTOGROW_V3",
                    {
                        "template": {
                            "input": {"required": {"model": ["MODEL", {}]}},
                            "names": ["first", "second"],
                            "min": 0,
                        }
                    },
                ],
                "any": ["COMFY_MATCHTYPE_V3", {"template": {}}],
                "tags": ["COMBO", {"options": ["p", "q"], "multiselect": True}],
                "odd": ["COMFY_DYNAMICSLOT_V3", {}],
            },
        },
        "output": ["MODEL"],
        "output_node": False,
    },
    "Show": {
        "input": {"required": {"value": ["*", {}]}},
        "output": [],
        "output_node": True,
    },
}  # fmt: skip


def with_picture(seed: int = 0, name: str = "cat.png") -> dict[str, Any]:
    return graph(seed) | {"2": {"class_type": "LoadImage", "inputs": {"image": name}}}


def command(fake: Any, *arguments: Any) -> Any:
    """The command against the fake server, while that serves."""
    server = f"http://127.0.0.1:{fake.port}"
    return asyncio.to_thread(call, *arguments, "--server", server)


def on_server(*arguments: Any, setup: Any = None) -> tuple[Result, Any]:
    async def scene(fake):
        fake.nodes = NODES
        if setup:
            setup(fake)
        return await command(fake, *arguments), fake

    return play(scene)


# ------------------------------------------------------------------------------ pictures


def test_a_local_picture_is_sent_once_by_its_hash(work):
    Path("input").mkdir()
    Path("input/cat.png").write_bytes(png(7))
    work.write_text(json.dumps(with_picture()))
    name = f"sampling_kit/{hashlib.sha256(png(7)).hexdigest()[:32]}.png"

    async def scene(fake):
        first = await command(fake, "queue", work, "--seeds", "0-2")
        second = await command(fake, "queue", work, "--seeds", "3", "--output", "other")
        return first, second, fake

    first, second, fake = play(scene)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert fake.uploads == [name] and fake.inputs[name] == png(7)
    assert [body["prompt"]["2"]["inputs"]["image"] for body in fake.bodies] == [name] * 4


def test_half_an_upload_is_sent_again_and_a_lost_one_too(work):
    Path("input").mkdir()
    Path("input/cat.png").write_bytes(png(7))
    work.write_text(json.dumps(with_picture()))
    name = f"sampling_kit/{hashlib.sha256(png(7)).hexdigest()[:32]}.png"
    result, fake = on_server(
        "queue", work, setup=lambda fake: fake.inputs.update({name: png(7)[:20]})
    )
    assert result.exit_code == 0 and fake.inputs[name] == png(7)
    fault = test_queue_faults.once("/upload/image", test_queue_faults.hang_up)
    result, fake = on_server(
        "queue", work, "--output", "b", setup=lambda fake: setattr(fake, "fault", fault)
    )
    assert result.exit_code == 0, result.output
    assert fake.inputs[name] == png(7) and len(fake.ran) == 1


def test_an_upload_that_is_refused_fails_its_job_with_the_reason(work):
    Path("input").mkdir()
    Path("input/cat.png").write_bytes(png(7))
    work.write_text(json.dumps(with_picture()))
    fault = test_queue_faults.once("/upload/image", test_queue_faults.status(413, "too big"))
    result, _ = on_server("queue", work, setup=lambda fake: setattr(fake, "fault", fault))
    assert result.exit_code == 1 and "413 (too big)" in result.stderr


def test_another_picture_of_the_same_name_is_another_job(tmp_path):
    picture = tmp_path / "cat.png"
    picture.write_bytes(png(1))
    one, uploads = with_uploads(Workflow(tmp_path, with_picture()), tmp_path)
    picture.write_bytes(png(2))
    two, _ = with_uploads(Workflow(tmp_path, with_picture()), tmp_path)
    assert one.prompt != two.prompt

    async def scene(fake):
        done = await Queue(f"127.0.0.1:{fake.port}", tmp_path / "out").run(
            [Job("", one.prompt, None, uploads)]
        )
        return done, fake

    done, fake = play(scene)
    assert "was changed while the jobs ran" in done[0].error and fake.inputs == {}


def test_a_workflow_reaches_no_picture_outside_of_the_input_folder(tmp_path):
    inside, outside = tmp_path / "input", tmp_path / "secret.png"
    inside.mkdir()
    outside.write_bytes(png(1))
    (inside / "link.png").symlink_to(outside)
    for name in (
        str(outside),
        "../secret.png",
        "link.png",
        "",
        " ",
        "a\0b",
        "x" * 5000,
        3,
        ["1", 0],
    ):
        assert local_file(name, inside, ()) is None, name
    assert local_file(str(outside), inside, {str(outside)}) == outside.resolve()
    (inside / "a b.png").write_bytes(png(1))
    assert local_file("a b.png [input]", inside, ()) == (inside / "a b.png").resolve()


def test_a_picture_that_is_not_here_keeps_its_name(work):
    work.write_text(json.dumps(with_picture(name="there.png")))
    result, fake = on_server("queue", work)
    assert result.exit_code == 0, result.output
    assert fake.bodies[0]["prompt"]["2"]["inputs"] == {"image": "there.png"} and not fake.uploads


# ------------------------------------------------------------------------------ --only


def two_outputs() -> dict[str, Any]:
    save = {"class_type": "Save", "inputs": {"images": ["1", 0], "filename_prefix": "q"}}
    return graph_of() | {"3": save | {"_meta": {"title": "second"}}}


@pytest.mark.parametrize("name", ["3", "second"])
def test_run_goes_up_to_chosen_outputs(work, name):
    work.write_text(json.dumps(two_outputs()))
    result = call("run", work, "--only", name)
    assert [Path(p).name for p in result.stdout.split()] == ["q_00001_.png"]
    result = call("run", work, "--only", name, "--only", "2")
    assert [Path(p).name for p in result.stdout.split()] == ["p_00001_.png", "q_00002_.png"]


@pytest.mark.parametrize(("name", "words"), [("1", "is no output"), ("9", "no node is called '9'")])
def test_only_names_outputs(work, name, words):
    work.write_text(json.dumps(two_outputs()))
    result = call("run", work, "--only", name)
    assert result.exit_code == 2 and words in result.stderr
    assert 'outputs are: 2 "Save Image", 3 "second"' in result.stderr


def test_queue_sends_the_part_up_to_chosen_outputs(work):
    show = {"class_type": "Show", "inputs": {"value": ["2", 0]}}
    work.write_text(json.dumps(with_picture(name="there.png") | {"3": show}))
    result, fake = on_server("queue", work, "--only", "1")
    assert result.exit_code == 0, result.output
    assert [set(body["prompt"]) for body in fake.bodies] == [{"1"}]
    result, fake = on_server("queue", work, "--only", "2", "--output", "b")
    assert result.exit_code == 2 and "is no output" in result.stderr and not fake.bodies


# ------------------------------------------------------------------------------ checked before


def loader(**inputs: Any) -> dict[str, Any]:
    values = {"ckpt_name": "sdxl.safetensors", "mode": "a", "kind": "x", "kind.depth": 1, **inputs}
    show = {"class_type": "Show", "inputs": {"value": ["1", 0]}}
    return {"1": {"class_type": "Loader", "inputs": values}, "2": show}


FINE: dict[str, dict[str, Any]] = {
    "plain": {}, "grown": {"models.first": ["3", 0]}, "matching": {"any": ["3", 0]}, "several": {"tags": ["p", "q"]},
}  # fmt: skip
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a model": ({"ckpt_name": "sdx.safetensors"}, "Did you mean 'sdxl.safetensors'"),
    "a choice": ({"mode": "c"}, "Choose one of a, b"),
    "a number of a choice": ({"kind.depth": 101}, "bigger than max of 100"),
    "a link's type": ({"models.second": ["4", 0]}, "Received type IMAGE"),
}


@pytest.mark.parametrize("name", FINE)
def test_what_a_server_takes_is_fine(work, name):
    work.write_text(json.dumps(loader(**FINE[name]) | {"3": loader()["1"]}))
    result, fake = on_server("check", work)
    assert result.exit_code == 0, result.output
    assert f"fine for http://127.0.0.1:{fake.port}, 3 nodes" in result.stdout


@pytest.mark.parametrize("name", WRONG)
def test_what_a_server_would_refuse_is_named(work, name):
    inputs, words = WRONG[name]
    prompt = loader(**inputs) | {"4": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}}}
    work.write_text(json.dumps(prompt))
    result, _ = on_server("check", work)
    assert result.exit_code == 2 and words in result.stderr, result.output


def test_an_unknown_class_does_not_stop_the_rest(work):
    prompt = loader(mode="c") | {
        "5": {"class_type": "Nope", "inputs": {"x": ["1", 0]}},
        "6": {"class_type": "Show", "inputs": {"value": ["5", 0]}},
    }
    work.write_text(json.dumps(prompt))
    result, fake = on_server("check", work)
    assert result.exit_code == 2
    assert f"http://127.0.0.1:{fake.port} has no such node" in result.stderr
    assert "Value not in list: 'c'" in result.stderr
    local = graph_of(steps=0) | {"5": {"class_type": "Nope", "inputs": {}}}
    work.write_text(json.dumps(local))
    result = call("check", work)
    assert "Node class not found" in result.stderr and "smaller than min of 1" in result.stderr


def test_a_server_that_is_not_there_is_named(work):
    result = call("check", work, "--server", "http://127.0.0.1:9")
    assert result.exit_code == 1 and "http://127.0.0.1:9 does not answer" in result.stderr


def test_a_misspelt_set_on_a_node_of_the_server_is_refused(work):
    work.write_text(json.dumps(graph(3)))
    nodes = copy.deepcopy(NODES)
    nodes["Elsewhere"] = nodes.pop("Paint")
    prompt = graph(3)
    prompt["1"]["class_type"] = "Elsewhere"
    work.write_text(json.dumps(prompt))

    def setup(fake):
        fake.nodes = nodes

    result, fake = on_server("queue", work, "--set", "1.sede=4", setup=setup)
    assert result.exit_code == 2 and "has no input 'sede'; it has: seed" in result.stderr
    assert not fake.bodies
    result, fake = on_server("queue", work, "--set", "1.seed=4", setup=setup)
    assert result.exit_code == 0 and fake.ran == [4]


def test_an_input_of_a_kind_that_is_not_understood_may_be_set():
    nodes, read = registry_of(NODES), Workflow(Path("w"), loader())
    assert with_settings(read, nodes, ["1.odd.x=1"]).prompt["1"]["inputs"]["odd.x"] == 1
    with pytest.raises(WorkflowError, match="no input"):
        with_settings(read, nodes, ["1.models.third=1"])


# ------------------------------------------------------------------------------ seeds


def test_every_seed_has_64_bits():
    from sampling_kit.headless.prompt import SEEDS
    from sampling_kit.headless.registry import registry

    seeds = [
        (name, item.id, item.as_dict()["max"])
        for name, node in registry().items()
        for item in node.define_schema().inputs
        if item.id in SEEDS and item.io_type == "INT"
    ]
    assert len(seeds) > 5 and {most for _, _, most in seeds} == {2**64 - 1}, seeds


def test_the_last_seed_can_be_drawn_with():
    import torch

    from sampling_kit.nodes.image.postcards import NODES as postcards
    from sampling_kit.schedulers.measure.two_samples import chance

    (paint,) = postcards
    last, first = (
        paint.execute(name="desert", seed=seed, size=32, batch_size=size).args[0]
        for seed, size in ((2**64 - 1, 2), (0, 1))
    )
    assert torch.equal(last[1], first[0]), "behind the last seed comes the first"
    assert chance(torch.randn(8, 3), torch.randn(8, 3), 20, 2**64 - 1) is not None
