"""An empty picture of one curve, where matplotlib is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def empty(width_inches: float, height_inches: float) -> Figure:
    """A figure to draw on.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError("the curve needs matplotlib: pip install 'bertpress[loadtest]'") from error
    return Figure(figsize=(width_inches, height_inches), layout="constrained")
