"""A folder of images, one after another."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from volseg.errors import VolsegError
from volseg.sessions.desk import Worklist, WorklistCase


class WorklistPanel(QWidget):
    """The images of a folder, with ticks on what is done; images are read in a thread."""

    case_chosen = Signal(object, object)
    done_wanted = Signal(object)
    failed = Signal(str)
    _read = Signal(object, object)

    def __init__(self) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        self.folder_button = QPushButton("Choose a folder of images …")
        self.label = QLabel("Sessions and label maps go to the folder volseg in it.")
        self.label.setWordWrap(True)
        self.list = QListWidget()
        self.done_button, self.next_button = QPushButton("Done, next"), QPushButton("Skip")
        row = QHBoxLayout()
        row.addWidget(self.done_button)
        row.addWidget(self.next_button)
        for widget in (self.folder_button, self.label, self.list):
            layout.addWidget(widget)
        layout.addLayout(row)
        self.worklist: Worklist | None = None
        self.open_case: WorklistCase | None = None
        self._finishing: WorklistCase | None = None
        self._filling = False
        self.folder_button.clicked.connect(lambda: self.choose_folder())
        self.list.itemDoubleClicked.connect(lambda item: self.open(item.data(Qt.ItemDataRole.UserRole)))
        self.list.itemChanged.connect(self._on_ticked)
        self.done_button.clicked.connect(lambda: self.finish())
        self.next_button.clicked.connect(lambda: self.open_next())
        self._read.connect(self._on_read)

    def choose_folder(self, folder: str | Path | None = None) -> None:
        """Shows the images of a folder."""
        folder = folder or QFileDialog.getExistingDirectory(self, "A folder of images")
        if not folder:
            return
        try:
            self.worklist = Worklist(folder)
        except VolsegError as error:
            self.failed.emit(str(error))
            return
        self.open_case = None
        self._fill()

    def open(self, case: WorklistCase) -> None:
        """Reads a case and says so when it is there."""
        self.label.setText(f"reading {case.name} …")

        def read() -> None:
            from napari_volseg.readers import read_volume

            try:
                self._say(case, read_volume(case.image)[0])
            except VolsegError as error:
                self._say(case, error)

        threading.Thread(target=read, name="volseg-worklist", daemon=True).start()

    def open_next(self) -> None:
        """Opens the next case that is not done."""
        if self.worklist is None:
            return
        case = self.worklist.next_undone(self.open_case)
        if case is None:
            self.label.setText("All cases are done.")
        else:
            self.open(case)

    def finish(self) -> None:
        """Asks for the open case to be saved and exported; then it is ticked off."""
        if self.open_case is not None:
            self._finishing = self.open_case
            self.done_wanted.emit(self.open_case)

    def exported(self, path: Path) -> None:
        """A label map was written: if it is the open case's, the case is done."""
        if self.worklist is None or self._finishing is None or path != self._finishing.labelmap:
            return
        case, self._finishing = self._finishing, None
        self.worklist.mark(case)
        self._fill()
        self.open_next()

    def opened(self, case: WorklistCase) -> None:
        """The case is the one on the screen."""
        self.open_case = case
        self.label.setText(f"{case.name} is open.")
        self._fill()

    def _say(self, case: WorklistCase, found: Any) -> None:
        try:
            self._read.emit(case, found)
        except RuntimeError:
            # The window was closed meanwhile.
            return

    def _on_read(self, case: WorklistCase, found: Any) -> None:
        if isinstance(found, Exception):
            self.label.setText(str(found))
            self.failed.emit(str(found))
        else:
            self.case_chosen.emit(case, found)

    def _on_ticked(self, item: QListWidgetItem) -> None:
        if self._filling or self.worklist is None:
            return
        case = item.data(Qt.ItemDataRole.UserRole)
        try:
            self.worklist.mark(case, item.checkState() == Qt.CheckState.Checked)
        except VolsegError as error:
            self.failed.emit(str(error))

    def _fill(self) -> None:
        assert self.worklist is not None
        self._filling = True
        try:
            self.list.clear()
            cases = self.worklist.cases
            for case in cases:
                item = QListWidgetItem(case.name)
                item.setData(Qt.ItemDataRole.UserRole, case)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Checked if case.done else Qt.CheckState.Unchecked)
                font = item.font()
                font.setBold(self.open_case is not None and case.image == self.open_case.image)
                item.setFont(font)
                self.list.addItem(item)
            if self.open_case is None:
                self.label.setText(f"{len(cases)} images, {sum(case.done for case in cases)} done. Double-click one.")
        finally:
            self._filling = False
