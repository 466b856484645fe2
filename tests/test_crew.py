"""Who is blamed for a worker that died, without Ray."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from sampling_kit.headless.sweep import Crew, Item


def items():
    return [Item(n, {}, {}) for n in range(6)]


class YoungestFirst:
    """Ray as far as a crew needs it, where one worker dies of item 4 and all that it has is ready at once."""

    class exceptions:
        RayActorError = type("RayActorError", (Exception,), {})
        RayTaskError = type("RayTaskError", (Exception,), {})

    def __init__(self):
        self.run = SimpleNamespace(remote=lambda name, prompt: (name, object()))

    def wait(self, refs):
        return [refs[-1]], refs[:-1]

    def get(self, ref):
        if ref[0] == "000004":
            raise self.exceptions.RayActorError("gone")
        return {}, {}


def test_the_item_that_killed_a_worker_is_the_one_it_was_at(monkeypatch):
    monkeypatch.setattr(Crew, "ray", lambda self: nullcontext(YoungestFirst()))
    monkeypatch.setattr(Crew, "hire", lambda self, ray: lambda: ray)
    done = []
    failed = Crew(1).work(items(), lambda item, record, files: done.append(item.name))
    assert failed == {"000004": "3 workers died: gone"}
    assert done == ["000000", "000001", "000002", "000003", "000005"]


class LosesAnswers(YoungestFirst):
    """One that dies of item 4 while an answer to the item before is still on its way."""

    def __init__(self):
        self.at = []
        self.run = SimpleNamespace(remote=self.take)

    def take(self, name, prompt):
        self.at.append(name)
        return name, self, object()

    def wait(self, refs):
        return refs[:1], refs[1:]

    def get(self, ref):
        name, worker, _ = ref
        if "000004" in worker.at:
            raise self.exceptions.RayActorError("gone")
        worker.at.remove(name)
        return {}, {}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_whose_answer_died_with_the_next_is_not_blamed(monkeypatch, workers):
    monkeypatch.setattr(Crew, "ray", lambda self: nullcontext(LosesAnswers()))
    monkeypatch.setattr(Crew, "hire", lambda self, ray: LosesAnswers)
    done = []
    failed = Crew(workers).work(items(), lambda item, record, files: done.append(item.name))
    assert failed == {"000004": "3 workers died: gone"}
    assert sorted(done) == ["000000", "000001", "000002", "000003", "000005"]
