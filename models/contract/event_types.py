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
