"""Sessions, label maps and commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog

from napari_volseg.bridge import callback
from napari_volseg.keys import FILE_AXCODES_KEY, PATH_KEY
from napari_volseg.mouse import SliceView
from napari_volseg.state import WidgetState
from volseg.data.labelmap import OverlapPolicy
from volseg.errors import SessionError
from volseg.sessions.desk import (
    segment_command,
)

if TYPE_CHECKING:
    from napari.layers import Layer

SESSION_FILTER = "volseg session (*.json)"
EXPORT_FILTER = "3D Slicer segmentation (*.seg.nrrd);;NIfTI (*.nii.gz);;NRRD (*.nrrd);;MetaImage (*.mha)"


class Files(WidgetState):
    """What is saved, opened and copied."""

    @callback
    def save(self, path: str | Path | None = None) -> None:
        """Saves the session; asks for a file the first time."""
        target = path or self._session_path or self._ask_save("Save the session", SESSION_FILTER, ".json")
        if target and self._desk is not None:
            self._desk.save(target)

    @callback
    def resume(self, path: str | Path | None = None) -> None:
        """Opens a saved session on this image."""
        if path is None and self._refused is not None:
            path, allow = self._refused, True
        else:
            allow = False
            path = path or QFileDialog.getOpenFileName(self, "Resume a session", "", SESSION_FILTER)[0]
        if path and self._desk is not None:
            self._refused, self._resuming = None, None if allow else Path(path)
            self._session_path = Path(path)
            self._desk.resume(path, allow_other=allow)

    @callback
    def export(self, path: str | Path | None = None) -> None:
        """Writes the label map, computed exactly, with its voxels in the order of the image's file."""
        target = path or self._ask_save("Export the label map", EXPORT_FILTER, ".seg.nrrd")
        if target and self._desk is not None and self._layer is not None:
            self._desk.export(target, self._layer.metadata.get(FILE_AXCODES_KEY))

    @callback
    def copy_command(self, session_path: str | Path | None = None) -> None:
        """Saves the session and puts the command line that gives its mask into the clipboard."""
        if self._layer is None or self._desk is None:
            raise SessionError("choose an image first")
        image = self._image_path(self._layer)
        target = session_path or self._session_path or self._ask_save("Save the session", SESSION_FILTER, ".json")
        if not target:
            return
        path = Path(target)

        def copy() -> None:
            self._session_path = path
            state = self.session.state
            suffix = ".seg.nrrd" if state.overlap is OverlapPolicy.LAYERS else ".nii.gz"
            line = segment_command(state, self.session.card, image, path, path.with_name(f"{path.stem}_seg{suffix}"))
            QGuiApplication.clipboard().setText(line)
            self.say(f"copied: {line}")

        self._after_save = copy
        self._desk.save(path)

    def _image_path(self, layer: Layer) -> Path:
        found = layer.metadata.get(PATH_KEY) or layer.source.path
        if not found:
            raise SessionError(
                f"{layer.name} has no file; save the image, open that file, and resume the session on it"
            )
        return Path(found)

    def _ask_save(self, title: str, filters: str, suffix: str) -> str:
        name = "" if self._layer is None else self._layer.name
        chosen, wanted = QFileDialog.getSaveFileName(self, title, f"{name}{suffix}", filters)
        if chosen and "." not in Path(chosen).name:
            chosen += wanted.split("(*")[-1].rstrip(")") or suffix
        return str(chosen)

    @callback
    def _recover(self) -> None:
        if self._desk is not None and self._found is not None:
            self._desk.resume(self._found.path, allow_other=True)
        self.recover_bar.setVisible(False)

    @callback
    def _forget(self) -> None:
        self.recover_bar.setVisible(False)

    @callback
    def _on_case(self, case: Any, image: Any) -> None:
        """A case of the worklist was read: the one before is saved, this one opened."""
        viewer = self.viewer
        old = self.worklist.open_case
        if old is not None and self._desk is not None and self._desk.is_open and self._desk.has_unsaved_changes:
            old.session.parent.mkdir(parents=True, exist_ok=True)
            self._desk.save(old.session)
        previous = self._layer
        self.close_image()
        if previous is not None and previous in viewer.layers and previous.metadata.get("volseg_worklist"):
            viewer.layers.remove(previous)
        data, attributes, _ = image
        attributes["metadata"]["volseg_worklist"] = True
        layer = viewer.add_image(data, **attributes)
        self._go_to_layer(layer)
        self.worklist.opened(case)
        self.done_button.setVisible(True)
        self.tabs.setCurrentIndex(0)
        self.open_image(layer, case.session if case.session.exists() else None)
        self._session_path = case.session

    def _go_to_layer(self, layer: Layer) -> None:
        """Shows the middle of a layer, which may lie elsewhere in the world than those that are there already."""
        viewer = self.viewer
        first, last = layer.extent.world
        offset = viewer.dims.ndim - layer.ndim
        factors = SliceView.of(viewer.dims).unit_factors(layer)
        for axis in viewer.dims.not_displayed:
            if axis >= offset:
                place = axis - offset
                viewer.dims.set_point(axis, (first[place] + last[place]) / 2 / factors[place])
        try:
            viewer.reset_view(layers=[layer])
        except TypeError:  # an older napari fits all layers or none
            viewer.reset_view()

    @callback
    def _on_case_done(self, case: Any) -> None:
        """The open case is finished: session saved, label map written; then it is ticked off."""
        if self._desk is None:
            raise SessionError("open the case first")
        case.session.parent.mkdir(parents=True, exist_ok=True)
        self._session_path = case.session
        self._desk.save(case.session)
        self.export(case.labelmap)
