"""Listing models without keeping the window waiting: the first look at them imports large libraries."""

from __future__ import annotations

import logging
import threading

from qtpy.QtCore import QObject, Signal

logger = logging.getLogger(__name__)


class ModelLoader(QObject):
    """Lists the models in a thread; ``loaded`` gives their cards by name, in the window's thread."""

    loaded = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Begins."""
        threading.Thread(target=self._list, name="volseg-models", daemon=True).start()

    def close(self) -> None:
        """Says nothing any more."""
        with self._lock:
            self._closed = True

    def _list(self) -> None:
        from volseg.models.registry import list_models

        cards = {card.name: card for card in list_models()}
        with self._lock:
            if not self._closed:
                self.loaded.emit(cards)
