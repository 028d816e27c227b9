"""A command that knows in which order its options were given."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

OPTIONS_IN_ORDER = "volseg.options_in_order"
"""Key in the context's ``meta`` of the list of (parameter name, text) pairs."""


class OrderedCommand(TyperCommand):
    """Records options that may be repeated in the order they stand on the command line.

    The parser gives each option the list of its values, in which the order between options is lost. It also says
    which option came after which, so the lists can be woven together again.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses twice: once for the order, once for the values."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        waiting = {name: list(given) for name, given in values.items() if isinstance(given, list)}
        ctx.meta[OPTIONS_IN_ORDER] = [
            (param.name, waiting[param.name].pop(0)) for param in order if waiting.get(param.name)
        ]
        return super().parse_args(ctx, args)
