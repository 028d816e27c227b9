"""The lists of objects and of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHeaderView,
    QListWidget,
    QListWidgetItem,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_volseg.handles import centre_of
from napari_volseg.overlays import presence_text, volume_text
from napari_volseg.tools import kind_name
from volseg.geometry import Grid
from volseg.prompts import Text
from volseg.sessions import HistoryEntry, SessionObject, SessionState
from volseg.sessions.desk import ObjectSummary

SEEN, COLOR, NAME, VOLUME, PRESENCE, LOCKED = range(6)
HEADERS = ("see", "", "object", "ml", "present", "lock")
ID_ROLE = Qt.ItemDataRole.UserRole


class ObjectsPanel(QTableWidget):
    """One row an object: seen, colour, name, volume, presence, locked."""

    chosen = Signal(int)
    renamed = Signal(int, str)
    recolored = Signal(int, tuple)
    locked = Signal(int, bool)
    shown = Signal(int, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(HEADERS), parent)
        self.setHorizontalHeaderLabels(HEADERS)
        self.verticalHeader().setVisible(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        header = self.horizontalHeader()
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        for column, width in ((SEEN, 34), (COLOR, 26), (VOLUME, 56), (PRESENCE, 60), (LOCKED, 38)):
            self.setColumnWidth(column, width)
        self.setMinimumHeight(110)
        self.hidden: frozenset[int] = frozenset()
        self._objects: tuple[SessionObject, ...] = ()
        self._filling = False
        self.itemSelectionChanged.connect(self._on_selection)
        self.itemChanged.connect(self._on_item)
        self.cellDoubleClicked.connect(self._on_double_click)

    def sizeHint(self) -> QSize:  # Qt's name
        """A few rows; the window gives it what is left."""
        return QSize(260, 120)

    @property
    def active(self) -> int | None:
        """The object that is worked on."""
        rows = self.selectionModel().selectedRows()
        return None if not rows else self._objects[rows[0].row()].object_id

    def activate(self, object_id: int) -> None:
        """Chooses an object."""
        for row, item in enumerate(self._objects):
            if item.object_id == object_id:
                self.selectRow(row)

    def show_objects(self, objects: tuple[SessionObject, ...]) -> None:
        """Shows these objects; the chosen one stays chosen, or the last one is."""
        if objects == self._objects:
            return
        active = self.active
        added = {item.object_id for item in objects} - {item.object_id for item in self._objects}
        self._filling = True
        try:
            old, self._objects = self._objects, objects
            self.hidden &= frozenset(item.object_id for item in objects)
            self.setRowCount(len(objects))
            for row, item in enumerate(objects):
                if old[row : row + 1] != (item,):
                    self._fill(row, item)
            ids = [item.object_id for item in objects]
            target = max(added) if added and active is None else active
            if target not in ids and ids:
                target = ids[-1]
            if target in ids:
                self.selectRow(ids.index(target))
        finally:
            self._filling = False
        if self.active is not None and self.active != active:
            self.chosen.emit(self.active)

    def show_summary(self, object_id: int, summary: ObjectSummary | None, pending: bool) -> None:
        """Shows an object's numbers; dots while they are being computed."""
        for row, item in enumerate(self._objects):
            if item.object_id == object_id:
                waiting = "…" if pending else ""
                volume = waiting if summary is None else volume_text(summary.volume_ml)
                presence = waiting if summary is None else presence_text(summary.presence)
                self._filling = True
                try:
                    self.item(row, VOLUME).setText(volume)
                    self.item(row, PRESENCE).setText(presence)
                finally:
                    self._filling = False

    def _fill(self, row: int, item: SessionObject) -> None:
        for column in range(len(HEADERS)):
            if self.item(row, column) is None:
                self.setItem(row, column, QTableWidgetItem())
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        for column, checked, tip in (
            (SEEN, item.object_id not in self.hidden, "seen on the picture"),
            (LOCKED, item.locked, "refuse changes"),
        ):
            cell = self.item(row, column)
            cell.setFlags(flags | Qt.ItemFlag.ItemIsUserCheckable)
            cell.setCheckState(Qt.CheckState.Checked if checked else Qt.CheckState.Unchecked)
            cell.setToolTip(tip)
        for column in (COLOR, VOLUME, PRESENCE):
            self.item(row, column).setFlags(flags)
        self.item(row, COLOR).setIcon(color_icon(item.color_rgb))
        self.item(row, COLOR).setToolTip("double-click for another colour")
        name = self.item(row, NAME)
        name.setText(item.name)
        name.setToolTip(f"label value {item.object_id}; double-click to name it")
        if not item.name:
            name.setText(item.title)

    def _on_selection(self) -> None:
        if not self._filling and self.active is not None:
            self.chosen.emit(self.active)

    def _on_item(self, cell: QTableWidgetItem) -> None:
        if self._filling:
            return
        item = self._objects[cell.row()]
        checked = cell.checkState() == Qt.CheckState.Checked
        match cell.column():
            case 0:
                change = {item.object_id}
                self.hidden = self.hidden - change if checked else self.hidden | change
                self.shown.emit(item.object_id, checked)
            case 2 if cell.text() != item.title:
                self.renamed.emit(item.object_id, cell.text().strip())
            case 5 if checked != item.locked:
                self.locked.emit(item.object_id, checked)

    def _on_double_click(self, row: int, column: int) -> None:
        if column == COLOR:
            color = QColorDialog.getColor(QColor(*self._objects[row].color_rgb), self, "Colour of the object")
            if color.isValid():
                self.recolored.emit(self._objects[row].object_id, (color.red(), color.green(), color.blue()))


class HistoryPanel(QListWidget):
    """Every prompt in order, the latest at the bottom."""

    chosen = Signal(int)
    deleted = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMinimumHeight(90)
        self.setUniformItemSizes(True)
        self._history: tuple[HistoryEntry, ...] = ()
        self._looks: dict[int, tuple[str, tuple[int, int, int]]] = {}
        self._filling = False
        self.currentItemChanged.connect(self._on_current)
        self.itemClicked.connect(lambda item: self.chosen.emit(item.data(ID_ROLE)))

    def sizeHint(self) -> QSize:  # Qt's name
        """A few rows; the window gives it what is left."""
        return QSize(260, 100)

    @property
    def entry(self) -> int | None:
        """The chosen prompt."""
        item = self.currentItem()
        return None if item is None or not item.isSelected() else int(item.data(ID_ROLE))

    def show_history(self, state: SessionState, grid: Grid) -> None:
        """Shows what was said; rows that are the same stay."""
        looks = {item.object_id: (item.title, item.color_rgb) for item in state.objects}
        if state.history == self._history and looks == self._looks:
            return
        entry = self.entry
        if looks != self._looks:
            # A name or colour stands in many rows.
            self._history, self._looks = (), looks
        self._filling = True
        try:
            same = 0
            for old, new in zip(self._history, state.history, strict=False):
                if old != new:
                    break
                same += 1
            while self.count() > same:
                self.takeItem(self.count() - 1)
            for number, new in enumerate(state.history[same:], start=same + 1):
                item = QListWidgetItem(describe(number, new, state, grid))
                item.setData(ID_ROLE, new.entry_id)
                item.setIcon(color_icon(state.object(new.object_id).color_rgb))
                self.addItem(item)
                if new.entry_id == entry:
                    self.setCurrentItem(item)
            self._history = state.history
            self.scrollToBottom()
        finally:
            self._filling = False

    def forget(self) -> None:
        """Shows nothing."""
        self.clear()
        self._history = ()

    def keyPressEvent(self, event: object) -> None:  # Qt's name
        """Delete removes the chosen prompt."""
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and self.entry is not None:  # type: ignore[attr-defined]
            self.deleted.emit(self.entry)
            return
        super().keyPressEvent(event)  # type: ignore[arg-type]

    def _on_current(self, item: QListWidgetItem | None, _: QListWidgetItem | None) -> None:
        if not self._filling and item is not None and self.hasFocus():
            self.chosen.emit(item.data(ID_ROLE))


def describe(number: int, entry: HistoryEntry, state: SessionState, grid: Grid) -> str:
    """Such as ``3  + point  liver  (12, 40, 7)``."""
    prompt = entry.prompt
    sign = "+" if prompt.positive else "–"
    where = ""
    if isinstance(prompt, Text):
        where = f"“{prompt.text}”"
    else:
        centre = centre_of(prompt, grid)
        if centre is not None:
            where = f"({', '.join(f'{value:.0f}' for value in centre)})"
    kind = kind_name(prompt.kind)
    return f"{number}  {sign} {kind}  {state.object(entry.object_id).title}  {where}"


def color_icon(color_rgb: Sequence[int]) -> QIcon:
    """A filled square."""
    pixels = QPixmap(16, 16)
    pixels.fill(QColor(*color_rgb))
    return QIcon(pixels)
