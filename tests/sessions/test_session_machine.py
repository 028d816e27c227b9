"""Random sequences of operations against a model that copies everything at every step."""

from __future__ import annotations

import copy

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from region_model import RegionModel, blocks_image, region

from volseg.data.labelmap import OverlapPolicy
from volseg.errors import SessionError
from volseg.geometry import Frame
from volseg.prompts import Box, Point
from volseg.sessions import Session

IMAGE = blocks_image()

points = st.builds(
    Point,
    st.tuples(st.integers(0, 11), st.integers(0, 9), st.integers(0, 7)),
    st.just(Frame.IJK),
    st.booleans(),
)
boxes = st.builds(
    lambda low, size, positive: Box(low, np.add(low, size), Frame.IJK, positive),
    st.tuples(*[st.integers(0, 5)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.booleans(),
)
prompts = points | boxes
colors = st.tuples(*[st.integers(0, 255)] * 3)


class SessionMachine(RuleBasedStateMachine):
    """``naive`` is a dict of plain lists; ``past`` and ``future`` are deep copies of it."""

    @initialize()
    def start(self):
        self.session = Session(RegionModel(), IMAGE)
        self.naive = {"objects": [], "prompts": [], "overlap": OverlapPolicy.LAST_WINS}
        self.past, self.future = [], []

    def changed(self):
        self.future = []

    def remember(self):
        self.past.append(copy.deepcopy(self.naive))

    def pick(self, data, kind):
        return data.draw(st.sampled_from(self.naive[kind]))

    def locked(self, number):
        return next(item["locked"] for item in self.naive["objects"] if item["id"] == number)

    def apply(self, locked, do, change):
        if locked:
            before = self.session.state
            try:
                do()
            except SessionError:
                assert self.session.state is before
                return
            raise AssertionError("a locked object was changed")
        self.remember()
        result = do()
        change(result)
        self.changed()

    @rule(name=st.sampled_from(["", "liver", "Niere"]))
    def add_object(self, name):
        self.apply(
            False,
            lambda: self.session.add_object(name),
            lambda number: self.naive["objects"].append({"id": number, "name": name, "color": None, "locked": False}),
        )

    @precondition(lambda self: self.naive["objects"])
    @rule(data=st.data(), name=st.text(max_size=5), color=colors)
    def change_object(self, data, name, color):
        item = self.pick(data, "objects")
        number = item["id"]
        match data.draw(st.sampled_from(["rename", "recolor", "lock", "remove"])):
            case "rename":
                self.apply(item["locked"], lambda: self.session.rename_object(number, name),
                           lambda _: item.update(name=name))  # fmt: skip
            case "recolor":
                self.apply(item["locked"], lambda: self.session.recolor_object(number, color),
                           lambda _: item.update(color=color))  # fmt: skip
            case "lock":
                wanted = not item["locked"]
                self.apply(False, lambda: self.session.lock_object(number, wanted),
                           lambda _: item.update(locked=wanted))  # fmt: skip
            case "remove":

                def forget(_):
                    self.naive["objects"] = [other for other in self.naive["objects"] if other["id"] != number]
                    self.naive["prompts"] = [entry for entry in self.naive["prompts"] if entry["object"] != number]

                self.apply(item["locked"], lambda: self.session.remove_object(number), forget)

    @precondition(lambda self: self.naive["objects"])
    @rule(data=st.data(), prompt=prompts)
    def add_prompt(self, data, prompt):
        number = self.pick(data, "objects")["id"]
        self.apply(
            self.locked(number),
            lambda: self.session.add_prompt(number, prompt),
            lambda entry: self.naive["prompts"].append({"id": entry, "object": number, "prompt": prompt}),
        )

    @precondition(lambda self: self.naive["prompts"])
    @rule(data=st.data(), prompt=prompts)
    def edit_prompt(self, data, prompt):
        entry = self.pick(data, "prompts")
        self.apply(
            self.locked(entry["object"]),
            lambda: self.session.edit_prompt(entry["id"], prompt),
            lambda _: entry.update(prompt=prompt),
        )

    @precondition(lambda self: self.naive["prompts"])
    @rule(data=st.data())
    def delete_prompt(self, data):
        entry = self.pick(data, "prompts")
        self.apply(
            self.locked(entry["object"]),
            lambda: self.session.delete_prompt(entry["id"]),
            lambda _: self.naive["prompts"].remove(entry),
        )

    @rule(overlap=st.sampled_from([OverlapPolicy.FIRST_WINS, OverlapPolicy.LAST_WINS]))
    def set_overlap(self, overlap):
        self.apply(False, lambda: self.session.set_overlap(overlap), lambda _: self.naive.update(overlap=overlap))

    @precondition(lambda self: self.past)
    @rule()
    def undo(self):
        self.session.undo()
        self.future.append(self.naive)
        self.naive = self.past.pop()

    @precondition(lambda self: self.future)
    @rule()
    def redo(self):
        self.session.redo()
        self.past.append(self.naive)
        self.naive = self.future.pop()

    @rule(exact=st.booleans())
    def predict(self, exact):
        expected = np.zeros(self.session.grid.shape, dtype=int)
        for item in self.naive["objects"]:
            said = [entry["prompt"] for entry in self.naive["prompts"] if entry["object"] == item["id"]]
            mask = region(IMAGE[0].numpy(), said, self.session.grid)
            if self.naive["overlap"] is OverlapPolicy.FIRST_WINS:
                mask &= expected == 0
            expected[mask] = item["id"]
        np.testing.assert_array_equal(self.session.predict(exact=exact).array, expected)

    @invariant()
    def agrees(self):
        if not hasattr(self, "session"):
            return
        assert [(item.object_id, item.name, item.locked) for item in self.session.objects] == [
            (item["id"], item["name"], item["locked"]) for item in self.naive["objects"]
        ]
        assert [(entry.entry_id, entry.object_id, entry.prompt) for entry in self.session.history] == [
            (entry["id"], entry["object"], entry["prompt"]) for entry in self.naive["prompts"]
        ]
        for item, wanted in zip(self.session.objects, self.naive["objects"], strict=True):
            assert wanted["color"] is None or item.color_rgb == wanted["color"]
        assert self.session.state.overlap is self.naive["overlap"]
        assert (self.session.can_undo, self.session.can_redo) == (bool(self.past), bool(self.future))


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
