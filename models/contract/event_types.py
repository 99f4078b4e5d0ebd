"""Event types of histories and targets: codes in rows, names in manifests and model folders.

A code is the position of its type in a list of names, counted from 1; 0 is padding.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from models.contract.failures import BadInput

MOST_TYPES = 127  # codes are stored as tinyint


def codes_for(known: Sequence[str], given: Sequence[str], model: str) -> np.ndarray:
    """A table that maps the codes of rows to those of the model that reads them: int64 [1 + number of given names].

    Args:
        known: the names that the model was trained with.
        given: the names that the codes of the rows stand for.
        model: what error messages call the model.

    Raises:
        BadInput: the rows have no types, or a type that the model does not know.
    """
    if not given:
        raise BadInput(
            f"{model} can read nothing but the event types {', '.join(known)}, and these histories have none: set"
            " sequences.keep_event_types: true, or train anew without"
        )
    if unknown := [name for name in given if name not in known]:
        raise BadInput(
            f"{model} can read the event types {', '.join(known)}, but these histories may hold {', '.join(unknown)}:"
            " train anew, or leave what is unknown out of sequences.history_events and target_events"
        )
    return np.array([0, *(1 + list(known).index(name) for name in given)], np.int64)


def checked_types(
    names: Sequence[str], hist_len_B: np.ndarray, hist_types_BH: np.ndarray | None, width: int
) -> np.ndarray:
    """The checked type codes of histories: int64 [B, H], 0 after a history's end.

    Args:
        names: that the towers know, in the order of their codes; some.
        hist_len_B: events of each history.
        hist_types_BH: codes; what stands behind a history's end does not matter.
        width: H, of the items' rows.

    Raises:
        BadInput: there are none, or an event has a code that is none of these names.
    """
    named = ", ".join(names)
    if hist_types_BH is None or np.shape(hist_types_BH) != (len(hist_len_B), width):
        raise BadInput(f"these towers read the type of every event ({named}), which the histories lack")
    is_event_BH = np.arange(width) < hist_len_B[:, None]
    types_BH = np.where(is_event_BH, hist_types_BH, 0).astype(np.int64)
    if wrong := np.setdiff1d(types_BH[is_event_BH], np.arange(1, 1 + len(names))).tolist():
        raise BadInput(f"an event of a history has the type {wrong[0]}; these towers know 1 to {len(names)} ({named})")
    return types_BH


def weights_by_code(weights: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """The weight of every code, by default 1, and 0 for padding: float32 [1 + number of names]."""
    return np.array([0.0, *(weights.get(name, 1.0) for name in names)], np.float32)


def check_weights(weights: Mapping[str, float], kept: Sequence[str], targets: Sequence[str]) -> None:
    """Checks that weights of event types can apply to the targets of a loss.

    Args:
        weights: weights by the types' names.
        kept: the event types that are kept with the events; empty if none are.
        targets: the event types that the loss's targets have.

    Raises:
        BadInput: types are not kept with events, a weighted type is no target's, or all targets weigh 0.
    """
    if weights and not kept:
        raise BadInput("loss.event_type_weights weighs event types, but sequences.keep_event_types is off: set it true")
    if unknown := sorted(weights.keys() - set(targets)):
        raise BadInput(
            f"loss.event_type_weights names {', '.join(unknown)}; the targets of this loss are {', '.join(targets)}"
        )
    if weights and not any(weights.get(name, 1.0) for name in targets):
        raise BadInput(f"loss.event_type_weights is 0 for all targets ({', '.join(targets)}): nothing would be learned")
