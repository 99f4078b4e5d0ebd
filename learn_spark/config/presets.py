"""Values that belong together, under a name: where a config says `preset`, they lie below its own values."""

from typing import Any, Literal

Preset = Literal["paper", "recommended"]
DEFAULT_PRESET: Preset = "recommended"
PRESETS: dict[str, dict[str, Any]] = {  # each names the same keys, so that one replaces the other
    "paper": {
        "towers": {"model": {"content_residual": False}, "loss": {"mask_false_negatives": False}},
        "cvr": {"model": {"fusion": "concat"}},
    },
    "recommended": {
        "towers": {"model": {"content_residual": True}, "loss": {"mask_false_negatives": True}},
        "cvr": {"model": {"fusion": "concat+product"}},
    },
}
