"""The base class of the specs: the settings of a command of `python -m models`, and facts about the command."""

from pathlib import Path
from typing import Any, ClassVar, Self

from models.contract.strict import Settings, parse_settings
from models.contract.whole_files import read_json


class Spec(Settings):
    """The spec of a command of `python -m models`. The Spark side makes it, the command's process reads it.

    Attributes:
        command: the command's name.
        version: version of the command's code, part of the folder names of a comparison. Raise it when a change of the
            code changes figures.
        module: the module with the function `run(spec)`; it is imported when the command runs.
        help: what the command does.
        launchable: whether torchrun may run it in several processes.
        out_dir: the folder that the command writes to.
    """

    command: ClassVar[str]
    version: ClassVar[int] = 1
    module: ClassVar[str]
    help: ClassVar[str]
    launchable: ClassVar[bool] = False

    out_dir: Path

    @classmethod
    def load(cls, file: Path) -> Self:
        """The spec in a JSON file.

        Raises:
            BadInput: the file is missing, is no JSON, or does not fit; one line.
        """
        return parse_settings(cls, read_json(file, "spec"), f"spec {file}")

    def told(self) -> dict[str, Any]:
        """All settings but `out_dir`, as JSON values: those that the result depends on."""
        return self.model_dump(mode="json", exclude={"out_dir"})

    def raised(self) -> list[int]:
        """[version] if it was ever raised, else []. Folder names that are older than versions stay valid that way."""
        return [self.version] if self.version > 1 else []

    def into(self, out_dir: Path) -> Self:
        """The same spec with another out_dir, such as one that is named by a hash of `told`."""
        return self.model_copy(update={"out_dir": out_dir})
