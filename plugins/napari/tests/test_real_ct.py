"""The widget with the carried weights for clicks and words: on a patient's CT where there is one, and on the sample.

With ``VOLSEG_PICTURES=FOLDER`` the window's pictures are written there; those of the phantom are the docs' pictures.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from napari_volseg.readers import read_volume
from napari_volseg.samples import draw_phantom, phantom
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from window_tools import CTRL

from volseg.data import read_labelmap

CLICKS, WORDS = "sam2-nano", "text-then-clicks"


def picture(hand, name):
    folder = os.environ.get("VOLSEG_PICTURES")
    if folder:
        import imageio

        hand.pause(0.5)
        shot = hand.viewer.window.screenshot(canvas_only=False, flash=False)[..., :3]
        imageio.imwrite(Path(folder) / f"{name}.png", shot)


def dice(a, b):
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def extent(mask, margin=0):
    """The slice with most of a mask, and its box there: rows and columns."""
    k = int(mask.sum(axis=(1, 2)).argmax())
    rows, columns = np.nonzero(mask[k])
    return k, (rows.min() - margin, columns.min() - margin), (rows.max() + margin, columns.max() + margin)


def work(hand, open_window, model, layer_data, first, second, tmp_path, name):
    """Box, click, wrong click, undo, second object, back to the first, words, save, reopen in a new window, go on.

    Words are for a model that takes them.
    """
    data, attributes, _ = layer_data
    hand.layer = hand.viewer.add_image(data, **attributes)
    hand.viewer.reset_view()
    hand.pause(0.2)
    hand.open(hand.layer, model)
    before = data.copy()

    def at(*ijk):
        return hand.layer.data_to_world(ijk)

    k, low, high = extent(first, margin=2)
    hand.key(Qt.Key.Key_B)
    hand.drag(at(k, *low), at(k, *((np.array(low) + high) / 2)), at(k, *high))
    hand.settle()
    boxed = hand.shown(1).copy()
    assert dice(boxed[k], first[k]) > 0.5
    inside = np.argwhere(first[k])[first[k].sum() // 2]
    hand.key(Qt.Key.Key_P)
    hand.click(at(k, *inside))
    hand.settle()
    clicked = hand.shown(1).copy()
    # A click far off the object, by mistake.
    wrong = (k, 5 + data.shape[1] // 8, data.shape[2] // 2)
    hand.click(at(*wrong))
    hand.settle()
    picture(hand, f"{name}_correction")
    hand.key(Qt.Key.Key_Z, CTRL)
    hand.settle()
    np.testing.assert_array_equal(hand.shown(1), clicked)
    hand.key(Qt.Key.Key_O)
    other, low, high = extent(second, margin=2)
    hand.key(Qt.Key.Key_B)
    hand.drag(at(other, *low), at(other, *((np.array(low) + high) / 2)), at(other, *high))
    hand.settle()
    # A shell of dense bone, which the model fills: this is about the window, not about accuracy.
    assert dice(hand.shown(2)[other], second[other]) > 0.3
    hand.widget.objects.selectRow(0)
    hand.widget.objects.item(0, 2).setText("first")
    hand.key(Qt.Key.Key_P)
    hand.click(at(k, *inside), CTRL)
    hand.key(Qt.Key.Key_Z, CTRL)
    hand.settle()
    assert {entry.object_id for entry in hand.widget.session.history} == {1, 2}
    if model == WORDS:
        say_words(hand, name)
        hand.widget.objects.selectRow(0)
    hand.go_to_slice(at(k, 0, 0))
    picture(hand, f"{name}_window")
    hand.widget.save(tmp_path / "s.json")
    hand.wait(lambda: "saved" in hand.widget.status.text())
    np.testing.assert_array_equal(hand.layer.data, before)

    again = open_window()
    layer = again.viewer.add_image(data, **attributes)
    again.pause(0.2)
    again.open(layer, model)
    again.widget.resume(tmp_path / "s.json")
    names = [item.name for item in hand.widget.session.objects]
    again.wait(lambda: len(again.widget.session.objects) == len(names), why="the session was not resumed")
    again.settle()
    assert [item.name for item in again.widget.session.objects] == names
    again.key(Qt.Key.Key_P)
    again.widget.objects.selectRow(0)
    again.click(layer.data_to_world((k, *inside)))
    again.settle()
    assert len(again.widget.session.history) == len(hand.widget.session.history) + 1
    again.widget.export(tmp_path / "out.nii.gz")
    again.wait(lambda: "wrote" in again.widget.status.text(), why="it was not exported")
    labelmap = read_labelmap(tmp_path / "out.nii.gz")
    assert {1, 2} <= set(np.unique(labelmap.array))
    return labelmap


def say_words(hand, name):
    """A word that nobody knows, one that this model does not serve, and one that it serves, chosen from the list."""
    line, table = hand.widget.text_line, hand.widget.objects
    hand.wait(lambda: line.completer() is not None, why="the vocabulary was not read")
    for words, answer in (("kidneyish", "nearest terms are: "), ("uterus", "not trained for 'uterus'")):
        line.setText(words)
        hand.press(hand.widget.text_button)
        assert answer in hand.widget.status.text()
    assert len(hand.widget.session.objects) == 2
    line.clear()
    line.setFocus()
    QTest.keyClicks(line, "left hipp")
    hand.pause(0.1)
    popup = line.completer().popup()
    assert popup.isVisible()
    picture(hand, f"{name}_words")
    popup.setCurrentIndex(popup.model().index(0, 0))
    QTest.keyClick(popup, Qt.Key.Key_Return)
    hand.wait(lambda: len(hand.widget.session.objects) == 3, why="the words were not taken")
    hand.settle()
    assert line.text() == ""
    # There is none in a thigh; what the model makes of that is its own affair.
    assert [item.name for item in hand.widget.session.objects] == ["first", "", "left hippocampus"]
    assert str(hand.widget.session.history[-1].prompt.kind) == "text"
    assert table.active == 3


def test_the_sample(open_window, tmp_path):
    _, masks = draw_phantom()
    labelmap = work(
        open_window(),
        open_window,
        CLICKS,
        phantom()[0],
        masks["liver"] | masks["tumour"],
        masks["spleen"],
        tmp_path,
        "phantom",
    )
    # The liver is on the patient's right, the spleen on the left.
    right, left = (labelmap.grid.to_ras_mm(np.argwhere(labelmap.array == value).mean(axis=0))[0] for value in (1, 2))
    assert right > 0 > left


@pytest.mark.shared
def test_a_patients_ct(open_window, shared_data, tmp_path):
    folder = shared_data / "sts" / "STS_003"
    (data,) = read_volume(next(folder.glob("CT_image.nii*")))
    (tumour,) = read_volume(next(folder.glob("CT*mask*.nii*")))
    first = np.asarray(tumour[0]) > 0
    # The second object: the bone that is brightest on the tumour's slice.
    k = int(first.sum(axis=(1, 2)).argmax())
    from scipy.ndimage import label

    bones, count = label(data[0][k] > 250)
    sizes = [(bones == number).sum() for number in range(1, count + 1)]
    second = np.zeros_like(first)
    second[k] = bones == 1 + int(np.argmax(sizes))
    work(open_window(), open_window, WORDS, data, first, second, tmp_path, "patient")
