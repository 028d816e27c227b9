"""The widget's fields and buttons, without what they do."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFormLayout,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QRadioButton,
    QScrollArea,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.panels import HistoryPanel, ObjectsPanel
from napari_volseg.server import ServerPanel
from napari_volseg.tools import TOOLS, Tool
from napari_volseg.words import WordsLine
from napari_volseg.worklist import WorklistPanel
from volseg.data.labelmap import OverlapPolicy
from volseg.transforms.windows import CT_PRESETS

DEVICES = ("auto", "cpu", "cuda", "mps")
SERVER_DEVICE = "server"
"""The entry of the list of devices that stands for another machine."""

OVERLAPS = {
    OverlapPolicy.LAST_WINS: "later objects win",
    OverlapPolicy.FIRST_WINS: "earlier objects win",
    OverlapPolicy.LAYERS: "objects may overlap",
}


class AnnotateForm(QWidget):
    """Fields and buttons of the widget, laid out for a dock about 400 pixels wide."""

    def __init__(self) -> None:
        super().__init__()
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        tabs = QTabWidget()
        outer.addWidget(tabs)
        page = QWidget()
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(page)
        tabs.addTab(scroll, "Segment")
        self.worklist = WorklistPanel()
        tabs.addTab(self.worklist, "Worklist")
        self.tabs = tabs
        layout = QVBoxLayout(page)
        layout.setContentsMargins(6, 6, 12, 6)
        layout.setSpacing(5)
        for add in (self._sources, self._recovery, self._tools, self._objects, self._history, self._files, self._foot):
            add(layout)
        self.setMinimumWidth(330)

    def _sources(self, layout: QVBoxLayout) -> None:
        form = QFormLayout()
        form.setSpacing(4)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.image_box, self.model_box, self.device_box, self.window_box = (QComboBox() for _ in range(4))
        for box in (self.image_box, self.model_box):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.image_box.setPlaceholderText("choose an image …")
        self.device_box.addItems([*DEVICES, SERVER_DEVICE])
        self.device_box.setToolTip("what computes: this machine, or a volseg server on another one")
        self.window_box.addItem("by modality", None)
        for name, preset in CT_PRESETS.items():
            self.window_box.addItem(f"{name} ({preset.low:g} … {preset.high:g})", name)
        self.window_box.addItem("percentiles", "percentile")
        form.addRow("Image", self.image_box)
        with_device = QHBoxLayout()
        with_device.addWidget(self.model_box, 1)
        with_device.addWidget(self.device_box)
        form.addRow("Model", with_device)
        form.addRow("Window", self.window_box)
        layout.addLayout(form)
        self.server = ServerPanel()
        self.server.setVisible(False)
        layout.addWidget(self.server)
        self.card_label = _wrapped("")
        self.card_label.setStyleSheet("font-size: 10px; color: #a8adb3;")
        layout.addWidget(self.card_label)

    def _recovery(self, layout: QVBoxLayout) -> None:
        self.recover_bar = QFrame()
        self.recover_bar.setStyleSheet("QFrame { background: #4a3b16; border-radius: 4px; }")
        inner = QVBoxLayout(self.recover_bar)
        self.recover_label = _wrapped("")
        inner.addWidget(self.recover_label)
        self.recover_button, self.forget_button = QPushButton("Go on with it"), QPushButton("Start anew")
        inner.addLayout(_row(self.recover_button, self.forget_button))
        self.recover_bar.setVisible(False)
        layout.addWidget(self.recover_bar)

    def _tools(self, layout: QVBoxLayout) -> None:
        grid = QGridLayout()
        grid.setSpacing(3)
        self.tool_buttons: dict[Tool, QPushButton] = {}
        for place, (tool, description) in enumerate(TOOLS.items()):
            button = QPushButton(f"{description.label} ({description.key})")
            button.setCheckable(True)
            self.tool_buttons[tool] = button
            grid.addWidget(button, place // 3, place % 3)
        layout.addLayout(grid)
        self.positive_button, self.negative_button = QRadioButton("belongs (+)"), QRadioButton("does not (–)")
        self.positive_button.setToolTip("the next prompt says what belongs to the object (X switches)")
        self.negative_button.setToolTip("the next prompt says what does not belong to it (X switches)")
        self.positive_button.setChecked(True)
        self._signs = QButtonGroup(self)
        self._signs.addButton(self.positive_button)
        self._signs.addButton(self.negative_button)
        self.extend_button = QPushButton("Extend box to slice")
        layout.addLayout(_row(self.positive_button, self.negative_button, self.extend_button))
        self.text_line, self.text_button = WordsLine(), QPushButton("Find")
        layout.addLayout(_row(self.text_line, self.text_button))
        self.mask_box, self.mask_button = QComboBox(), QPushButton("Take as mask")
        self.mask_box.setPlaceholderText("no Labels layer")
        self.mask_box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        layout.addLayout(_row(self.mask_box, self.mask_button))

    def _objects(self, layout: QVBoxLayout) -> None:
        self.objects = ObjectsPanel()
        layout.addWidget(self.objects, 2)
        self.new_button, self.remove_button = QPushButton("New object (O)"), QPushButton("Remove")
        self.overlap_box = QComboBox()
        for policy, text in OVERLAPS.items():
            self.overlap_box.addItem(text, policy)
        self.overlap_box.setToolTip("what becomes of voxels that several objects claim")
        layout.addLayout(_row(self.new_button, self.remove_button, self.overlap_box))

    def _history(self, layout: QVBoxLayout) -> None:
        self.history = HistoryPanel()
        layout.addWidget(self.history, 2)
        self.undo_button, self.redo_button = QPushButton("Undo"), QPushButton("Redo")
        self.undo_button.setToolTip("Ctrl+Z")
        self.redo_button.setToolTip("Ctrl+Shift+Z")
        self.undo_button.setEnabled(False)
        self.redo_button.setEnabled(False)
        self.delete_button = QPushButton("Delete prompt")
        layout.addLayout(_row(self.undo_button, self.redo_button, self.delete_button))

    def _files(self, layout: QVBoxLayout) -> None:
        self.save_button, self.resume_button = QPushButton("Save"), QPushButton("Resume")
        self.export_button, self.command_button = QPushButton("Export"), QPushButton("Copy command")
        self.save_button.setToolTip("save the session: all prompts and the undo history")
        self.resume_button.setToolTip("go on with a saved session on this image")
        self.export_button.setToolTip("write the label map")
        self.command_button.setToolTip("copy the volseg command line that gives the same label map")
        layout.addLayout(_row(self.save_button, self.resume_button, self.export_button, self.command_button))
        self.done_button = QPushButton("Done, next case of the worklist")
        self.done_button.setToolTip("save, export, tick the case off and open the next one")
        self.done_button.setVisible(False)
        layout.addWidget(self.done_button)

    def _foot(self, layout: QVBoxLayout) -> None:
        self.progress = WorkBar()
        self.cancel_button, self.go_on_button = QPushButton("Cancel"), QPushButton("Go on")
        self.cancel_button.setToolTip("Esc")
        self.cancel_button.setEnabled(False)
        self.go_on_button.setVisible(False)
        self.progress.setVisible(False)
        layout.addLayout(_row(self.progress, self.go_on_button, self.cancel_button))
        self.status = _wrapped("Choose an image.")
        self.status.setMinimumHeight(34)
        layout.addWidget(self.status)


class WorkBar(QProgressBar):
    """How far the work is. Its place stays when it is hidden, so that nothing else moves."""

    def __init__(self) -> None:
        super().__init__()
        self.setTextVisible(True)
        policy = self.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.setSizePolicy(policy)

    def show_work(self, fraction: float, text: str) -> None:
        """Shows it when the window is painted next: Qt's own bar repaints at once, and the whole picture with it."""
        self.setUpdatesEnabled(False)
        self.setValue(round(fraction * 100))
        self.setFormat(text)
        self.setUpdatesEnabled(True)
        self.setVisible(True)


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(4)
    for widget in widgets:
        row.addWidget(widget)
    return row


def _wrapped(text: str) -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
