"""The recipes of docs/fit.md for the models people have: each head before the template's fit, and the sizes they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sampling_kit.headless import shipped

PAGE = (Path(__file__).parents[1] / "docs" / "fit.md").read_text(encoding="utf-8")
TEMPLATE = "fit-a-solver-to-your-checkpoint"
#: Values of a latent by its node's widgets.
VALUES = {
    "EmptyLatentImage": lambda w: 4 * (w["height"] // 8) * (w["width"] // 8),
    "EmptySD3LatentImage": lambda w: 16 * (w["height"] // 8) * (w["width"] // 8),
    "EmptyHunyuanLatentVideo": lambda w: (
        16 * ((w["length"] - 1) // 4 + 1) * (w["height"] // 8) * (w["width"] // 8)
    ),
}
#: What a recipe says of the latent where its head is of another size.
SIZES = {"Wan 14B, 480p, 81 frames": {"width": 832, "height": 480, "length": 81}}


def rows(header):
    """Cells of the table with this header, by the first."""
    lines = PAGE.split(header)[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells}


RECIPES = rows("| model | head of the template | loaders | latent | CFG |")


def graph_of(stem):
    return json.loads(shipped.example(stem).read_text(encoding="utf-8"))


def above(graph, links):
    """The nodes that these links come from, and those before them."""
    left, found = [link[0] for link in links], {}
    while left:
        key = left.pop()
        found[key] = graph[key]
        left += [v[0] for v in graph[key]["inputs"].values() if isinstance(v, list)]
    return found


def put_before(head):
    """The template with another model's loaders, texts and latent; what stays of each model is its CFG."""
    fit, other = graph_of(TEMPLATE), graph_of(head)
    run = next(n for n in other.values() if "positive" in n["inputs"] and "model" in n["inputs"])
    first = next(n for n in other.values() if "latent_image" in n["inputs"])
    wires = {name: run["inputs"].get(name) for name in ("model", "positive", "negative")}
    wires["latent"] = wires["latent_image"] = first["inputs"]["latent_image"]
    wires["vae"] = next(n for n in other.values() if n["class_type"] == "VAEDecode")["inputs"][
        "vae"
    ]
    before = above(other, [link for link in wires.values() if link])
    graph = {f"head {key}": renamed(node, before) for key, node in before.items()}
    old = above(fit, [fit["6"]["inputs"][n] for n in ("model", "positive", "negative")])
    old |= above(fit, [fit["7"]["inputs"]["latent"]])
    for key, node in fit.items():
        if key not in old:
            inputs = {n: v for n, v in node["inputs"].items() if n not in wires}
            for name in node["inputs"].keys() & wires.keys():
                if wires[name]:
                    inputs[name] = [f"head {wires[name][0]}", wires[name][1]]
            graph[key] = {**node, "inputs": inputs}
    return graph


def renamed(node, before):
    inputs = {
        n: [f"head {v[0]}", v[1]] if isinstance(v, list) and v[0] in before else v
        for n, v in node["inputs"].items()
    }
    return {**node, "inputs": inputs}


@pytest.mark.parametrize("model", RECIPES)
def test_a_recipe_is_the_template_behind_the_model_s_own_head(model):
    head, loaders, latent, cfg = RECIPES[model]
    graph = put_before(head.split("`")[1])
    for node in graph.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in graph, value
    kinds = [n["class_type"] for k, n in graph.items() if k.startswith("head")]
    assert {k for k in kinds if "Loader" in k} == set(loaders.split(", "))
    assert latent in kinds
    guider = next(n for n in graph.values() if n["class_type"] == "SamplingKitGuider")
    assert ("negative" in guider["inputs"]) == ("no negative" not in cfg)
    inputs = [node["inputs"] for node in graph_of(head.split("`")[1]).values()]
    scales = {i.get("cfg", i.get("scale")) for i in inputs}
    assert float(cfg.split(",")[0]) in scales


@pytest.mark.parametrize("model", RECIPES)
def test_the_latent_of_a_recipe_has_as_many_values_as_its_memory_is_computed_for(model):
    head, _, latent, _ = RECIPES[model]
    graph = graph_of(head.split("`")[1])
    (node,) = (n for n in graph.values() if n["class_type"] == latent)
    stated = rows("| model | V | recipe | where the model runs | where Python runs |")[model][0]
    assert VALUES[latent](node["inputs"] | SIZES.get(model, {})) == int(stated.replace(" ", ""))
