"""Choices in prompts, {a|b}: which there are, which is taken, and that the same command takes it again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_headless_cli
from test_headless_cli import REGISTRY, Paint, call, graph_of

from sampling_kit.headless import graph
from sampling_kit.headless.dynamic_prompts import DEEPEST, choose, draws, with_choices
from sampling_kit.headless.workflow import Workflow, WorkflowError
from sampling_kit.nodes.host.alone import io

work = test_headless_cli.work  # a fixture
TEXTS = {
    "a {red|blue} ball": {"a red ball", "a blue ball"},
    "{a|b}{c|d}": {"ac", "ad", "bc", "bd"},
    "{a {x|y}|b}": {"a x", "a y", "b"},
    "{|very} big": {" big", "very big"},
    "{0::a|b}": {"b"},
    "{1.5::a|2 :: b}": {"a", " b"},
    "{0::a|0::b}": {"a", "b"},
    "{a::b|2::}": {"a::b", ""},
    r"\{a\|b\}": {"{a|b}"},
    r"{a\|b|c\}}": {"a|b", "c}"},
    r"a \(b:1.2\) \n": {r"a \(b:1.2\) \n"},
    '{"json": {"a": 1}}': {'{"json": {"a": 1}}'},
    '{"json": "{x|y}"}': {'{"json": "x"}', '{"json": "y"}'},
    "a | b } c": {"a | b } c"},
    "{a|b": {"{a|b"},
    "{a {x|y": {"{a {x|y"},
    "{open {x|y}": {"{open x", "{open y"},
    "": {""},
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_may_come_of_a_text(text):
    assert {choose(text, draws(str(i))) for i in range(64)} == TEXTS[text]


def test_alternatives_come_as_often_as_their_weights_say():
    counts = Counter(choose("{3::a|b|{c|d}}", draws(str(i))) for i in range(4000))
    for letter, share in {"a": 0.6, "b": 0.2, "c": 0.1, "d": 0.1}.items():
        assert abs(counts[letter] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_hostile_texts_end():
    with pytest.raises(WorkflowError, match=f"more than {DEEPEST}"):
        choose("{" * 10**6, draws(""))
    deepest = "{a|" * DEEPEST + "b" + "}" * DEEPEST
    assert choose(deepest, draws("1")) in {"a", "b"}
    assert choose("{a|b}" * 10**4 + "|" * 10**5, draws("1")).count("|") == 10**5


class Prompted(Paint):
    """Paint whose label is a prompt."""

    @classmethod
    def define_schema(cls):
        schema = Paint.define_schema()
        inputs = [
            io.String.Input("label", dynamic_prompts=True, optional=True) if i.id == "label" else i
            for i in schema.inputs
        ]
        return replace(schema, inputs=inputs)


@pytest.fixture
def prompted(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(REGISTRY, "Paint", Prompted)
    work.write_text(json.dumps(graph_of(label="a {red|blue|green} {ball|cube}")))
    return work


def labels(*files: str) -> list[str]:
    return [graph.load(file).prompt["1"]["inputs"]["label"] for file in files]


def test_a_choice_follows_from_seed_node_and_input(prompted):
    read = Workflow(
        prompted, json.loads(prompted.read_text()) | {"9": graph_of(label="{a|b}")["1"]}
    )
    taken = {seed: with_choices(read, REGISTRY, seed) for seed in range(40)}
    assert len({chosen["1.label"] for _, chosen in taken.values()}) == 6
    assert len({(c["1.label"], c["9.label"]) for _, c in taken.values()}) > 6, "each of its own"
    assert with_choices(read, REGISTRY, 7) == taken[7]
    assert taken[7][0].prompt["1"]["inputs"]["label"] == taken[7][1]["1.label"]
    assert with_choices(read, REGISTRY, 0)[1] == {"1.label": "a green ball", "9.label": "a"}, (
        "for ever"
    )
    of_graph = with_choices(read, REGISTRY, None)[1]
    assert of_graph == with_choices(read, REGISTRY, None)[1]


def test_run_writes_the_choice_into_picture_and_report(prompted):
    result = call("run", prompted, "--seeds", "0-7", "--json")
    runs = json.loads(result.stdout)["runs"]
    assert [one["chosen"]["1.label"] for one in runs] == labels(*(one["files"][0] for one in runs))
    assert len({one["chosen"]["1.label"] for one in runs}) > 2
    again = call("run", prompted, "--seeds", "0-7", "--json", "--output", "b")
    assert [one["chosen"] for one in json.loads(again.stdout)["runs"]] == [
        r["chosen"] for r in runs
    ]


def test_choices_can_be_left_alone(prompted):
    (file,) = call("run", prompted, "--no-choices").stdout.split()
    assert labels(file) == ["a {red|blue|green} {ball|cube}"]
    (file,) = call("run", prompted, "--set", r"1.label=\{a\|b\}").stdout.split()
    assert labels(file) == ["{a|b}"]
    result = call("verify", file)
    assert result.exit_code == 0, result.output
    assert call("check", prompted).exit_code == 0


def test_a_sweep_writes_its_choices_down(prompted):
    from sampling_kit.headless.sweep import work_list

    read = graph.load(prompted)
    items = work_list(read, REGISTRY, ["1.steps=1,2"], range(6))
    texts = [item.prompt["1"]["inputs"]["label"] for item in items]
    assert texts[:6] == texts[6:] and len(set(texts)) > 2, "the seed's, whatever else is set"
    assert [item.values["1.label"] for item in items] == texts
    assert all("{" not in text for text in texts)
    plain = work_list(read, REGISTRY, [], range(2), choices=False)
    assert {item.prompt["1"]["inputs"]["label"] for item in plain} == {
        "a {red|blue|green} {ball|cube}"
    }


NODES: dict[str, Any] = {
    "Paint": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "text": ["STRING", {"dynamicPrompts": True}],
                "plain": ["STRING", {}],
            }
        },
        "output": ["IMAGE"],
        "output_node": True,
    }
}


def test_queue_resumes_with_the_same_choice(prompted):
    pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")
    from test_queue_faults import play
    from test_queue_inputs import command

    inputs = {"seed": 1, "text": "{red|blue} ball", "plain": "{red|blue}"}
    prompted.write_text(json.dumps({"1": {"class_type": "Elsewhere", "inputs": inputs}}))

    async def scene(fake):
        fake.nodes = {"Elsewhere": NODES["Paint"]}
        first = await command(fake, "queue", prompted, "--seeds", "0-7")
        again = await command(fake, "queue", prompted, "--seeds", "0-9", "--json")
        plain = await command(fake, "queue", prompted, "--no-choices", "--output", "b")
        return first, again, plain, fake

    first, again, plain, fake = play(scene)
    assert first.exit_code == again.exit_code == plain.exit_code == 0, first.output + again.output
    sent = [body["prompt"]["1"]["inputs"] for body in fake.bodies]
    assert len(sent) == 11, "eight, two more, one"
    assert {i["text"] for i in sent[:10]} == {"red ball", "blue ball"}
    assert {i["plain"] for i in sent} == {"{red|blue}"} and sent[10]["text"] == "{red|blue} ball"
    jobs = json.loads(again.stdout)["jobs"]
    assert [job["chosen"] for job in jobs] == [{"1.text": i["text"]} for i in sent[:10]]
    lines = [json.loads(x) for x in Path("output/queue.jsonl").read_text().splitlines()]
    assert [line["chosen"] for line in lines if "id" in line] == [job["chosen"] for job in jobs]
