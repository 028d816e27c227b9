"""The fields for a server that computes, and the line to it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from volseg.errors import VolsegError

DEFAULT_URL = "http://127.0.0.1:8765"
TOKEN_VARIABLE = "VOLSEG_TOKEN"
"""The environment variable that ``volseg serve`` takes its token from; a window started with it knows the token."""

GOOD, BAD, DIM = "#7fd18b", "#ff8a65", "#a8adb3"


@dataclass(frozen=True)
class ServerAddress:
    """A server that answered.

    Attributes:
        url: such as ``http://127.0.0.1:8765``.
        token: never shown.
        models: the names it offers.
    """

    url: str
    token: str = field(repr=False)
    models: tuple[str, ...]


class ServerPanel(QWidget):
    """Address and token of a ``volseg serve``, and whether it can be reached."""

    connected = Signal(object)
    """A ``ServerAddress``."""
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.url_line, self.token_line = QLineEdit(DEFAULT_URL), QLineEdit(os.environ.get(TOKEN_VARIABLE, ""))
        self.url_line.setToolTip("where 'volseg serve' listens; see docs/server.md for a tunnel to another machine")
        self.token_line.setEchoMode(QLineEdit.EchoMode.Password)
        self.token_line.setPlaceholderText("as 'volseg serve' printed it")
        self.token_line.setToolTip("kept in this window only, never saved")
        self.connect_button, self.state_label = QPushButton("Connect"), QLabel()
        self.state_label.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        form = QFormLayout()
        form.setSpacing(4)
        form.addRow("Address", self.url_line)
        form.addRow("Token", self.token_line)
        row = QHBoxLayout()
        row.addWidget(self.connect_button)
        row.addWidget(self.state_label, 1)
        layout.addLayout(form)
        layout.addLayout(row)
        self.address: ServerAddress | None = None
        self._call: _Call | None = None
        self.connect_button.clicked.connect(lambda: self.ask())
        for line in (self.url_line, self.token_line):
            line.returnPressed.connect(self.ask)
        self._say("not connected", DIM)

    def ask(self) -> None:
        """Asks the server for its models, in a thread; ``connected`` or ``failed`` follows."""
        self.forget()
        url, token = self.url_line.text().strip(), self.token_line.text().strip()
        if not token:
            self._on_refused("the token is missing; 'volseg serve' prints it when it starts")
            return
        self._say("connecting …", DIM)
        self.connect_button.setEnabled(False)
        self._call = _Call(url, token)
        self._call.answered.connect(self._on_answered)
        self._call.refused.connect(self._on_refused)
        self._call.start()

    def forget(self) -> None:
        """Ends the line."""
        if self._call is not None:
            self._call.close()
        self._call = self.address = None
        self.connect_button.setEnabled(True)
        self._say("not connected", DIM)

    def show_lost(self) -> None:
        """The server cannot be reached at the moment."""
        self._say("connection lost; trying again …", BAD)

    def show_reached(self) -> None:
        """It answers, or answers again."""
        if self.address is not None:
            count = len(self.address.models)
            self._say(f"connected; {count} model{'' if count == 1 else 's'}", GOOD)

    def _on_answered(self, address: ServerAddress) -> None:
        self.connect_button.setEnabled(True)
        self.address = address
        self.show_reached()
        self.connected.emit(address)

    def _on_refused(self, text: str) -> None:
        self.connect_button.setEnabled(True)
        self._say("not connected", BAD)
        self.failed.emit(text)

    def _say(self, text: str, color: str) -> None:
        self.state_label.setText(f"● {text}")
        self.state_label.setStyleSheet(f"color: {color};")


class _Call(QObject):
    """One question to a server, in a thread."""

    answered = Signal(object)
    refused = Signal(str)

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self._url, self._token = url, token
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Begins."""
        threading.Thread(target=self._ask, name="volseg-server", daemon=True).start()

    def close(self) -> None:
        """Says nothing any more."""
        with self._lock:
            self._closed = True

    def _ask(self) -> None:
        from volseg.server import offered_models

        try:
            address = ServerAddress(self._url, self._token, offered_models(self._url, self._token))
        except VolsegError as error:
            with self._lock:
                if not self._closed:
                    self.refused.emit(str(error))
            return
        with self._lock:
            if not self._closed:
                self.answered.emit(address)
