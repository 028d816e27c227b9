from __future__ import annotations

import pytest
import torch

from volseg.training import half
from volseg.training.config import Precision


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_used_where_it_is_wanted_and_fast(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(half, "half_is_fast", lambda device: fast)
    assert half.in_half(Precision.BFLOAT16, torch.device("cpu")) is fast
    assert not half.in_half(Precision.FLOAT32, torch.device("cpu"))
