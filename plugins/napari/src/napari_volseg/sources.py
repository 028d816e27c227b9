"""What is segmented, with which model, and where that is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari.layers import Image, Labels
from qtpy.QtCore import Qt

from napari_volseg import opening
from napari_volseg.bridge import BusyWatch, DeskBridge, callback
from napari_volseg.form import SERVER_DEVICE
from napari_volseg.geometry import LayerVolume
from napari_volseg.models import ModelLoader
from napari_volseg.mouse import SliceView
from napari_volseg.overlays import user_layers
from napari_volseg.server import ServerAddress
from napari_volseg.state import WidgetState
from volseg.errors import SessionError
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.sessions.desk import Desk, DeskEvent, autosave_folder
from volseg.sessions.worker import WorkerProcess

PREFERRED_MODEL = "sam2-nano"


class Ending:
    """What must end with the widget, whoever deletes it; knows nothing of the widget, so it keeps nothing alive."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.desk: tuple[DeskBridge, Desk] | None = None

    def close_desk(self) -> None:
        """Ends the desk; its threads end by themselves."""
        if self.desk is not None:
            bridge, desk = self.desk
            self.desk = None
            bridge.close()
            desk.close(timeout_s=0)

    def __call__(self, *_: object) -> None:
        """Ends everything, once."""
        self.close_desk()
        while self.steps:
            self.steps.pop()()


class Sources(WidgetState):
    """Image, model and device: choosing any of them opens a session."""

    _bridge: DeskBridge | None = None
    _resume_first: Path | None = None
    _carried = False
    _was_lost = False
    _local_cards: dict[str, ModelCard] | None = None

    def _on_news(self, event: DeskEvent) -> None:
        raise NotImplementedError

    def _connect_sources(self) -> None:
        self._ending = Ending()
        self.destroyed.connect(self._ending)
        self._worker = WorkerProcess()
        self._ending.steps.append(self._worker.close)
        self._ending.steps.append(BusyWatch(self._worker.window_works).close)
        self._loader = ModelLoader()
        self._loader.loaded.connect(self._on_models)
        self._ending.steps.append(self._loader.close)
        self.image_box.activated.connect(lambda _: self.open_image(self.image_box.currentData()))
        self.model_box.activated.connect(lambda _: self._reopen())
        self.device_box.activated.connect(lambda _: self._on_device())
        self.server.connected.connect(self._on_server)
        self.server.failed.connect(self._on_server_failed)
        self._loader.start()

    @property
    def on_server(self) -> bool:
        """Whether a server is chosen to compute."""
        return self.device_box.currentText() == SERVER_DEVICE

    @callback
    def _on_models(self, cards: dict[str, ModelCard]) -> None:
        self._local_cards = cards
        if not self.on_server:
            self._show_models()

    @callback
    def _on_device(self) -> None:
        """Another device, or a server, which opens nothing before it was reached."""
        self.server.setVisible(self.on_server)
        self._show_models()
        if self.on_server and self.server.address is None:
            self.say("give the address and token of a running 'volseg serve', then press Connect")
        else:
            self._reopen()

    @callback
    def _on_server(self, address: ServerAddress) -> None:
        self._show_models()
        if not address.models:
            self.say(f"the server at {address.url} offers no models", problem=True)
            return
        self.say(f"connected to {address.url}")
        self._reopen()

    @callback
    def _on_server_failed(self, text: str) -> None:
        self._show_models()
        self.say(text, problem=True)

    def _show_models(self) -> None:
        """Lists what can be chosen where it is computed."""
        address = self.server.address
        if self.on_server:
            # What a server's model can do is known when an image is opened with it.
            self._cards = {}
            names = list(address.models) if address is not None else []
        else:
            self._cards = self._local_cards or {}
            names = list(self._cards)
        chosen = self.model_box.currentText()
        self.model_box.clear()
        for place, name in enumerate(names):
            self.model_box.addItem(name)
            if name in self._cards:
                self.model_box.setItemData(place, self._cards[name].summary, Qt.ItemDataRole.ToolTipRole)
        for name in (chosen, PREFERRED_MODEL, *names[:1]):
            if name in names:
                self.model_box.setCurrentText(name)
                break
        self._show_card()

    @callback
    def _fill_images(self, event: object = None) -> None:
        viewer = self._viewer_ref()
        if viewer is None:
            return
        for box, kind in ((self.image_box, Image), (self.mask_box, Labels)):
            chosen = box.currentData()
            box.clear()
            for layer in user_layers(viewer, kind):
                box.addItem(layer.name, layer)
            index = next((i for i in range(box.count()) if box.itemData(i) is chosen), -1)
            if box is self.image_box and chosen is None and self._layer is None:
                index = -1
            box.setCurrentIndex(index)
        self.mask_button.setEnabled(self.mask_box.count() > 0)
        if self.mask_box.currentIndex() < 0 and self.mask_box.count():
            self.mask_box.setCurrentIndex(0)

    @callback
    def open_image(self, layer: Image | None, resume: Path | None = None) -> None:
        """Opens an image layer; what was open before is closed, and kept by the autosave.

        Args:
            layer: of the person; only read.
            resume: a session file to go on with.
        """
        if layer is None:
            return
        viewer = self.viewer
        volume = LayerVolume.of(layer, SliceView.of(viewer.dims).in_layer_units(layer, viewer.dims.point))
        if not self.model_box.currentText():
            if self.on_server:
                raise SessionError("connect to the server first")
            raise SessionError("the models are still being listed; try again in a moment")
        self.close_image()
        self._layer, self._volume, self._resume_first = layer, volume, resume
        self._session_path = resume
        index = next((i for i in range(self.image_box.count()) if self.image_box.itemData(i) is layer), -1)
        self.image_box.setCurrentIndex(index)
        for event in (layer.events.scale, layer.events.translate, layer.events.rotate, layer.events.shear):
            event.connect(self._on_transform)
        layer.events.affine.connect(self._on_transform)
        bridge = DeskBridge()
        bridge.news.connect(self._on_news)
        desk = Desk(self._opener(layer, volume), bridge, autosave_folder())
        self._bridge, self._desk = bridge, desk
        self._ending.desk = bridge, desk
        self.say(f"opening {layer.name} …")
        self._show_tools()

    def _opener(self, layer: Image, volume: LayerVolume) -> opening.OpenSession:
        """Makes the session on this machine or on the server; keeps the widget out of the desk's threads."""
        model, options = self.model_box.currentText(), EncodeOptions(window=self.window_box.currentData())
        address = self.server.address if self.on_server else None
        if address is not None:
            return opening.remote_session(
                lambda: volume.read(layer), address.url, address.token, model, options=options
            )
        return opening.worker_session(
            self._worker,
            lambda: volume.read(layer),
            model,
            device=self.device_box.currentText(),
            options=options,
            encodings_folder=autosave_folder().parent / "encodings",
        )

    @callback
    def close_image(self) -> None:
        """Ends the session of the open image; the person's layers stay."""
        self.use_tool(None)
        overlays, layer = self._overlays, self._layer
        self._desk = self._bridge = self._overlays = self._layer = self._volume = self._found = None
        self._session_path = self._after_save = self._refused = self._resuming = None
        self._was_lost = False
        self._ending.close_desk()
        if layer is not None:
            for event in (layer.events.scale, layer.events.translate, layer.events.rotate, layer.events.shear):
                event.disconnect(self._on_transform)
            layer.events.affine.disconnect(self._on_transform)
        if overlays is not None and self._viewer_ref() is not None:
            overlays.labels.events.paint.disconnect(self._on_paint)
            overlays.remove()
        self.recover_bar.setVisible(False)
        self.objects.show_objects(())
        self.history.forget()
        self.progress.setVisible(False)
        self._show_tools()

    @callback
    def _reopen(self) -> None:
        """Another model, device or server: the same session goes on with it."""
        self._show_card()
        layer, desk = self._layer, self._desk
        if layer is None or desk is None or not self.model_box.currentText():
            return
        if not desk.is_open:
            # Still opening: what it was to go on with is gone on with by the next one.
            carried, path = self._carried, self._session_path
            self.open_image(layer, self._resume_first)
            self._carried, self._session_path = carried, path
            return
        if not desk.session.objects:
            self.open_image(layer)
            return
        carried = autosave_folder() / "carried.json"
        carried.parent.mkdir(parents=True, exist_ok=True)

        def go_on() -> None:
            self.open_image(layer, carried)
            self._session_path, self._carried = None, True

        self._after_save = go_on
        # A copy: should the image not open again, the autosave still has everything.
        desk.save(carried, is_copy=True)
