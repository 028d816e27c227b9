"""The widget in a real window, used with mouse, keys and buttons."""

from __future__ import annotations

import gc
import shlex
import weakref

import numpy as np
import pytest
from phantom import centroids_ras_mm, make_phantom
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from test_layer_volume import napari_affine
from window_tools import CTRL

from volseg.data import read_labelmap
from volseg.geometry import Frame
from volseg.prompts import Point, PromptKind

# What RegionModel answers to a click is the connected voxels of the same value.
A, B = 100, 200


def two_blocks():
    """[12, 40, 50] with block A at 2..7, 8..19, 10..24 and block B at 4..9, 22..33, 30..43."""
    values = np.zeros((12, 40, 50), dtype=np.int16)
    values[2:8, 8:20, 10:25] = A
    values[4:10, 22:34, 30:44] = B
    return values


@pytest.fixture
def hand(open_window, region_model):
    hand = open_window()
    hand.layer = hand.viewer.add_image(two_blocks(), name="blocks", scale=(3, 1, 1), contrast_limits=(0, 255))
    hand.open(hand.layer)
    return hand


def at(hand, *ijk):
    return hand.layer.data_to_world(ijk)


def test_a_person_segments_corrects_undoes_saves_and_goes_on(hand, open_window, tmp_path):
    before = hand.layer.data.copy()
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data == A)
    # A wrong click, and back.
    hand.click(at(hand, 5, 28, 35))
    hand.settle()
    assert hand.shown(1).sum() == (before > 0).sum()
    hand.key(Qt.Key.Key_Z, CTRL)
    hand.settle()
    np.testing.assert_array_equal(hand.shown(1), before == A)
    # A second object, then back to the first one.
    hand.press(hand.widget.new_button)
    hand.click(at(hand, 6, 28, 35))
    hand.settle()
    np.testing.assert_array_equal(hand.shown(2), before == B)
    hand.widget.objects.selectRow(0)
    hand.click(at(hand, 5, 10, 12))
    hand.settle()
    assert [entry.object_id for entry in hand.widget.session.history] == [1, 2, 1]
    np.testing.assert_array_equal(hand.shown(1), before == A)
    table = hand.widget.objects
    assert [table.item(row, 3).text() for row in (0, 1)] == ["3.24", "3.02"]
    # Saved, and gone on with in a new window.
    hand.widget.save(tmp_path / "s.json")
    hand.wait(lambda: "saved" in hand.widget.status.text())
    again = open_window()
    again.layer = again.viewer.add_image(two_blocks(), name="blocks", scale=(3, 1, 1))
    again.open(again.layer)
    again.widget.resume(tmp_path / "s.json")
    again.wait(lambda: len(again.widget.session.objects) == 2)
    again.settle()
    np.testing.assert_array_equal(again.widget.desk.canvas.array, hand.widget.desk.canvas.array)
    again.press(again.widget.undo_button)
    again.settle()
    assert len(again.widget.session.history) == 2
    again.widget.export(tmp_path / "out.nii.gz")
    again.wait(lambda: "wrote" in again.widget.status.text())
    assert set(np.unique(read_labelmap(tmp_path / "out.nii.gz").array)) == {0, 1, 2}
    np.testing.assert_array_equal(hand.layer.data, before)


def test_signs_ctrl_and_the_buttons(hand):
    hand.press(hand.widget.tool_buttons["point"])
    hand.click(at(hand, 5, 12, 15))
    hand.click(at(hand, 5, 28, 35), CTRL)
    hand.key(Qt.Key.Key_X)
    hand.click(at(hand, 5, 3, 3))
    hand.settle()
    assert [entry.prompt.positive for entry in hand.widget.session.history] == [True, False, False]
    assert hand.widget.negative_button.isChecked()


def test_a_box_on_one_slice_becomes_3d_on_another(hand):
    hand.key(Qt.Key.Key_B)
    hand.drag(at(hand, 3, 8, 10), at(hand, 3, 15, 20), at(hand, 3, 19, 24))
    (entry,) = hand.widget.session.history
    assert entry.prompt.kind is PromptKind.BOX_2D
    np.testing.assert_allclose((entry.prompt.low, entry.prompt.high), ((3, 8, 10), (3, 19, 24)), atol=1)
    hand.go_to_slice(at(hand, 6, 0, 0))
    hand.key(Qt.Key.Key_B, Qt.KeyboardModifier.ShiftModifier)
    (entry,) = hand.widget.session.history
    assert entry.prompt.kind is PromptKind.BOX_3D
    assert (entry.prompt.low[0], entry.prompt.high[0]) == (3, 6)
    hand.settle()
    assert np.flatnonzero(hand.shown(1).any(axis=(1, 2))).tolist() == [3, 4, 5, 6]


def test_a_scribble_is_drawn_and_a_lasso_is_greyed_with_the_reason(hand):
    hand.key(Qt.Key.Key_S)
    hand.drag(at(hand, 5, 10, 12), at(hand, 5, 14, 15), at(hand, 5, 17, 22))
    hand.settle()
    (entry,) = hand.widget.session.history
    assert entry.prompt.kind is PromptKind.SCRIBBLE
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data == A)
    button = hand.widget.tool_buttons["lasso"]
    assert not button.isEnabled()
    assert "takes no positive lasso" in button.toolTip()
    assert not hand.widget.text_line.isEnabled()
    hand.key(Qt.Key.Key_L)
    assert "takes no positive lasso" in hand.widget.status.text()
    assert hand.widget.tool == "scribble"


def test_the_history_jumps_drags_and_deletes(hand):
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.click(at(hand, 8, 28, 35))
    hand.settle()
    hand.go_to_slice(at(hand, 0, 0, 0))
    history = hand.widget.history
    history.setCurrentRow(0)
    hand.widget.go_to(history.entry)
    hand.pause()
    assert hand.viewer.dims.point[0] == 15
    # The first point is dragged from block A to block B.
    hand.key(Qt.Key.Key_M)
    hand.drag(at(hand, 5, 12, 15), at(hand, 5, 20, 25), at(hand, 5, 26, 33))
    hand.settle()
    entry = hand.widget.session.history[0]
    np.testing.assert_allclose(entry.prompt.position, (5, 26, 33), atol=0.6)
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data == B)
    history.setCurrentRow(1)
    hand.press(hand.widget.delete_button)
    hand.settle()
    assert [entry.entry_id for entry in hand.widget.session.history] == [1]


def test_brush_strokes_are_a_correction_that_can_be_undone(hand):
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    hand.key(Qt.Key.Key_W)
    labels = hand.widget.overlays.labels
    assert labels.mode == "paint"
    labels.brush_size = 3
    hand.drag(at(hand, 5, 28, 33), at(hand, 5, 28, 36), at(hand, 5, 28, 38))
    hand.wait(lambda: len(hand.widget.session.history) == 2, why="the stroke was not taken")
    hand.settle()
    entry = hand.widget.session.history[1]
    assert entry.prompt.kind is PromptKind.MASK
    assert {int(k) for k in entry.prompt.voxels_ijk(hand.widget.session.grid)[:, 0]} == {5}
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data > 0)
    hand.key(Qt.Key.Key_Z, CTRL)
    hand.settle()
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data == A)
    assert hand.widget.session.can_redo


def test_a_labels_layer_becomes_a_rough_mask_and_stays_as_it_is(hand):
    drawn = np.zeros((6, 20, 25), dtype=np.uint8)
    drawn[2, 12, 16] = 3  # at half resolution: voxel 4..5, 24..25, 32..33 of the image
    labels = hand.viewer.add_labels(drawn.copy(), scale=(6, 2, 2), translate=(1.5, 0.5, 0.5), name="rough")
    labels.selected_label = 3
    hand.widget.mask_box.setCurrentIndex(hand.widget.mask_box.findText("rough"))
    hand.press(hand.widget.mask_button)
    hand.wait(lambda: len(hand.widget.session.history) == 1, why="the mask was not taken")
    hand.settle()
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data == B)
    np.testing.assert_array_equal(labels.data, drawn)


def test_objects_are_named_coloured_hidden_and_locked(hand):
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    table = hand.widget.objects
    table.item(0, 2).setText("liver")
    table.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    table.item(0, 5).setCheckState(Qt.CheckState.Checked)
    hand.pause()
    (item,) = hand.widget.session.objects
    assert (item.name, item.locked) == ("liver", True)
    assert hand.widget.overlays.labels.get_color(1)[3] == 0
    hand.click(at(hand, 5, 14, 16))
    assert "liver is locked" in hand.widget.status.text()
    assert len(hand.widget.session.history) == 1


def test_clicks_in_3d_are_refused_kindly(hand):
    hand.key(Qt.Key.Key_P)
    hand.viewer.dims.ndisplay = 3
    hand.pause(0.2)
    size = hand.canvas.size()
    from qtpy.QtTest import QTest

    QTest.mouseClick(hand.canvas, Qt.MouseButton.LeftButton, pos=hand.canvas.rect().center())
    hand.pause()
    assert size.width() > 100
    assert hand.widget.session.history == ()
    assert "go back to 2D" in hand.widget.status.text()


def test_other_planes_by_rolling_the_axes(hand):
    hand.viewer.dims.order = (1, 0, 2)
    hand.viewer.reset_view()
    hand.pause(0.1)
    hand.key(Qt.Key.Key_B)
    hand.drag(at(hand, 3, 12, 12), at(hand, 5, 12, 20), at(hand, 6, 12, 22))
    hand.settle()
    (entry,) = hand.widget.session.history
    assert entry.prompt.flat_axis == 1
    assert entry.prompt.low[1] == 12


def test_the_command_gives_the_same_mask(hand, tmp_path, monkeypatch):
    import nibabel

    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    hand.widget.copy_command(tmp_path / "s.json")
    assert "has no file" in hand.widget.status.text()
    path = tmp_path / "an image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(two_blocks(), np.diag((3, 1, 1, 1.0))), path)
    hand.layer.metadata["volseg_path"] = str(path)
    hand.widget.copy_command(tmp_path / "s.json")
    hand.wait(lambda: "copied" in hand.widget.status.text())
    words = shlex.split(QApplication.clipboard().text())
    assert words[:3] == ["volseg", "segment", str(path)]
    assert words[words.index("--prompts") + 1] == str(tmp_path / "s.json")


def test_a_crash_is_recovered_in_the_next_window(hand, open_window):
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    hand.widget.close_image()
    hand.wait(lambda: True)
    again = open_window()
    layer = again.viewer.add_image(two_blocks(), name="blocks", scale=(3, 1, 1))
    again.pause(0.5)
    again.open(layer)
    assert again.widget.recover_bar.isVisible()
    assert "1 prompts" in again.widget.recover_label.text()
    again.press(again.widget.recover_button)
    again.wait(lambda: len(again.widget.session.history) == 1)
    again.settle()
    np.testing.assert_array_equal(again.shown(1), layer.data == A)


@pytest.mark.parametrize("case", ["RAS", "LPS", "PIL", "SAR", "IAR oblique", "by hand", "time"])
def test_a_click_at_a_known_place_and_the_mask_lands_there_in_mm(open_window, region_model, tmp_path, case):
    hand = open_window()
    # napari cannot show a layer whose transforms swap axes, so those by hand are of slices, rows and columns.
    phantom = make_phantom(case.split()[0] if case[0].isupper() else "SPL", oblique="oblique" in case)
    if case == "by hand":
        layer = hand.viewer.add_image(
            phantom.array,
            scale=(2.5, 0.9, 1.4),
            rotate=(0, 0, 20),
            translate=(40, -7, 12),
            affine=np.diag((1, 1, 1.1, 1)),
        )
        # World (z, y, x) of LPS.
        for value in phantom.centroids_ras_mm:
            z, y, x = layer.data_to_world(np.argwhere(phantom.array == value).mean(axis=0))
            phantom.centroids_ras_mm[value] = np.array((-x, -y, z))
    elif case == "time":
        affine = np.eye(5)
        affine[1:, 1:] = napari_affine(phantom.affine_ras)
        layer = hand.viewer.add_image(np.stack([phantom.array * 0, phantom.array]), affine=affine)
        hand.viewer.dims.set_point(0, 1)
    else:
        scale = np.linalg.norm(phantom.affine_ras[:3, :3], axis=0)
        layer = hand.viewer.add_image(
            phantom.array, scale=scale, metadata={"volseg_affine_ras": phantom.affine_ras}, interpolation2d="nearest"
        )
    hand.viewer.reset_view()
    hand.pause(0.2)
    hand.open(layer)
    hand.key(Qt.Key.Key_P)
    values = list(phantom.centroids_ras_mm)
    for number, value in enumerate(values):
        if number:
            hand.key(Qt.Key.Key_O)
        voxels = np.argwhere(phantom.array == value)
        middle = voxels[np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
        hand.click(layer.data_to_world((1, *middle) if case == "time" else middle))
        hand.settle()
    hand.widget.export(tmp_path / "out.nii.gz")
    hand.wait(lambda: "wrote" in hand.widget.status.text())
    written = read_labelmap(tmp_path / "out.nii.gz")
    found = centroids_ras_mm(written.array, written.grid.affine_ras)
    phantom.check({values[number - 1]: centre for number, centre in found.items()}, tolerance_mm=1e-2)


def test_a_2d_image(open_window, region_model):
    hand = open_window()
    hand.layer = hand.viewer.add_image(two_blocks()[5], name="flat")
    hand.pause(0.2)
    hand.open(hand.layer)
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 12, 15))
    hand.settle()
    np.testing.assert_array_equal(hand.widget.overlays.labels.data == 1, hand.layer.data == A)


def test_removing_the_image_ends_its_session_and_our_layers(hand):
    hand.viewer.layers.remove(hand.layer)
    hand.pause(0.1)
    assert hand.widget.desk is None
    assert len(hand.viewer.layers) == 0
    assert not hand.widget.tool_buttons["point"].isEnabled()


def test_taking_the_widget_out_of_its_dock_ends_it(hand):
    hand.viewer.window.remove_dock_widget(hand.widget)
    hand.pause(0.1)
    assert hand.widget.desk is None
    assert [layer.name for layer in hand.viewer.layers] == ["blocks"]


def test_a_removed_result_layer_comes_back(hand):
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    removed = hand.widget.overlays.labels
    hand.viewer.layers.remove(removed)
    hand.wait(lambda: hand.widget.overlays.labels is not removed, why="nothing was made anew")
    hand.wait(lambda: all(layer in hand.viewer.layers for layer in hand.widget.overlays.layers), why="it stays away")
    np.testing.assert_array_equal(hand.widget.overlays.labels.data == 1, hand.layer.data == A)


def test_a_closed_window_is_forgotten(open_window, region_model):
    import napari.viewer
    from napari_volseg.widget import AnnotateWidget
    from window_tools import Hand

    refs = []
    for _ in range(2):
        viewer = napari.viewer.Viewer(show=True)
        widget = AnnotateWidget(viewer)
        viewer.window.add_dock_widget(widget, name="volseg")
        hand = Hand(viewer, widget)
        layer = viewer.add_image(two_blocks(), name="blocks")
        hand.pause(0.1)
        hand.open(layer)
        hand.widget.new_object()
        refs.append((weakref.ref(widget), weakref.ref(viewer), weakref.ref(layer), weakref.ref(widget.desk)))
        viewer.close()
        del viewer, widget, layer, hand
        for _ in range(30):
            QApplication.processEvents()
        gc.collect()
        QApplication.processEvents()
        gc.collect()
    alive = [[ref() is not None for ref in row] for row in refs]
    # napari itself keeps the last viewer until another takes its place.
    assert alive[0] == [False, False, False, False], alive


def test_a_worklist_goes_from_case_to_case(open_window, region_model, tmp_path):
    import nibabel

    # The second lies far from the first, so the window has to go there.
    for name, place in (("a", 0.0), ("b", 500.0)):
        affine = np.diag((3, 1, 1, 1.0))
        affine[:3, 3] = place
        nibabel.save(nibabel.Nifti1Image(two_blocks(), affine), tmp_path / f"{name}.nii.gz")
    hand = open_window()
    widget = hand.widget
    hand.wait(lambda: widget.model_box.count() > 0)
    assert not widget.done_button.isVisible()
    widget.tabs.setCurrentIndex(1)
    panel = widget.worklist
    panel.choose_folder(tmp_path)
    assert [panel.list.item(row).text() for row in range(panel.list.count())] == ["a", "b"]
    panel.list.itemDoubleClicked.emit(panel.list.item(0))
    hand.wait(lambda: widget.desk is not None and widget.desk.is_open, why="the first case was not opened")
    hand.wait(lambda: len(hand.viewer.layers) == 4)
    assert widget.tabs.currentIndex() == 0
    first, hand.layer = hand.viewer.layers[0], hand.viewer.layers[0]
    where = np.argwhere(np.asarray(first.data) == A)[0]
    hand.key(Qt.Key.Key_P)
    hand.click(first.data_to_world(where))
    hand.settle()
    hand.press(widget.done_button)
    hand.wait(lambda: panel.open_case is not None and panel.open_case.name == "b", why="the next case was not opened")
    hand.wait(lambda: widget.desk is not None and widget.desk.is_open)
    assert first not in hand.viewer.layers
    second = next(layer for layer in hand.viewer.layers if layer.name == "b")
    centre = second.data_to_world((np.array(second.data.shape) - 1) / 2)
    assert hand.canvas.rect().contains(hand.pixel(centre))
    assert abs(hand.viewer.dims.point[0] - centre[0]) <= second.scale[0]
    assert [case.done for case in panel.worklist.cases] == [True, False]
    written = read_labelmap(tmp_path / "volseg" / "a.seg.nrrd")
    assert (written.array == 1).sum() == (two_blocks() == A).sum()


def test_telling_how_far_the_work_is_does_not_draw_the_picture_at_once(hand):
    drawn = []
    hand.viewer.window._qt_viewer.canvas._scene_canvas.events.draw.connect(lambda event: drawn.append(event))
    bar = hand.widget.progress
    bar.show_work(0.1, "starting")
    hand.pause(0.2)
    drawn.clear()
    # A mask has grown, so that the picture is to be drawn again, and the work goes on.
    hand.widget.overlays.refresh()
    bar.show_work(0.6, "slice 3")
    assert drawn == []
    hand.wait(lambda: drawn, why="the picture was not drawn")
    assert (bar.value(), bar.format(), bar.isVisible()) == (60, "slice 3", True)


def test_many_changes_at_once_are_drawn_once_and_all_of_them(hand):
    points = hand.widget.overlays.points
    hand.pause(0.1)
    set_, moved = [], points.events.data
    moved.connect(lambda event: set_.append(event))
    for number in range(20):
        hand.widget.add_prompt(Point((5, 10 + number % 9, 12), Frame.IJK))
    assert not set_
    hand.settle()
    assert len(points.data) == 20
    assert len(set_) <= 4, "napari tells twice of each"
    # What did not change is not told to napari again.
    set_.clear()
    hand.press(hand.widget.new_button)
    hand.pause(0.1)
    assert not set_
    assert (points.face_color[:, 3] < 1).all(), "they are another object's now"
    hand.key(Qt.Key.Key_Z, CTRL)
    hand.key(Qt.Key.Key_Z, CTRL)
    hand.settle()
    assert len(points.data) == 19
    assert (points.face_color[:, 3] == 1).all()
