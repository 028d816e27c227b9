"""The line for words, which knows what may be typed."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QStandardItem, QStandardItemModel
from qtpy.QtWidgets import QCompleter, QLineEdit

from volseg.sessions.desk import Term

HINT = "words, such as {}"

POPUP_STYLE = """
QListView { background: #262930; color: #f0f1f2; border: 1px solid #414851; }
QListView::item:disabled { color: #868e93; }
QListView::item:selected:enabled { background: #5a626c; }
"""


class WordsLine(QLineEdit):
    """Completes what is typed: names the model serves first, then the vocabulary's others in grey, with the reason."""

    def __init__(self) -> None:
        super().__init__()
        self._terms: tuple[Term, ...] = ()
        self.show_terms(())

    def show_terms(self, terms: Sequence[Term]) -> None:
        """Offers these, in this order; none takes the offer back."""
        if tuple(terms) == self._terms and self.completer() is not None:
            return
        self._terms = tuple(terms)
        self.setPlaceholderText(HINT.format(self._example()))
        if not self._terms:
            self.setCompleter(None)
            return
        model = QStandardItemModel(self)
        for term in self._terms:
            item = QStandardItem(term.words)
            if term.reason:
                # Grey, and not to be chosen; a completer leaves out what cannot be selected at all.
                item.setFlags(Qt.ItemFlag.ItemIsSelectable)
                item.setToolTip(term.reason)
            model.appendRow(item)
        completer = QCompleter(model, self)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        # The list is a window of its own, which napari's style does not reach.
        completer.popup().setStyleSheet(POPUP_STYLE)
        self.setCompleter(completer)

    def take_back(self) -> None:
        """Empties the line, also where Return in the list sent the words before the completer wrote them."""
        self.clear()
        QTimer.singleShot(0, self.clear)

    def show_refusal(self, reason: str) -> None:
        """Says why nothing can be typed."""
        self.show_terms(())
        self.setPlaceholderText(reason)

    def _example(self) -> str:
        return next((term.words for term in self._terms if not term.reason), "liver")
