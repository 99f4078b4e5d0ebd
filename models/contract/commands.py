"""The commands of `python -m models`, by name."""

from models.contract.content_spec import ContentSpec
from models.contract.evaluation_specs import RankerSpec, SystemsSpec
from models.contract.export_specs import CodesSpec, OnlineSpec, VectorsSpec
from models.contract.spec import Spec
from models.contract.training_specs import ALSSpec, CVRSpec, NoteLLMSpec, PromptSpec, SequentialSpec, TowersSpec

_SPECS: tuple[type[Spec], ...] = (
    *(TowersSpec, SequentialSpec, ALSSpec, NoteLLMSpec, PromptSpec, CVRSpec),
    *(OnlineSpec, VectorsSpec, CodesSpec),
    *(SystemsSpec, RankerSpec, ContentSpec),
)
COMMANDS = {spec.command: spec for spec in _SPECS}
