"""The base of the specs: what a command of `python -m models` is told, and what is known of the command itself."""

from pathlib import Path
from typing import Any, ClassVar, Self

from models.contract.strict import Settings, parse_settings
from models.contract.whole_files import read_json


class Spec(Settings):
    """The spec of a command of `python -m models`; the Spark side makes it, the command's process reads it.

    Attributes:
        command: the command's name.
        version: of the command's code, for folders that a comparison names: raise it when figures would differ.
        module: has the function `run(spec)`; it is imported when the command is asked for.
        help: what the command does.
        launchable: whether several processes may do it together.
        out_dir: the folder that gets what the command makes.
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
        """All but `out_dir`, as JSON values: what the result depends on."""
        return self.model_dump(mode="json", exclude={"out_dir"})

    def raised(self) -> list[int]:
        """The version where it was raised: names of before there were versions hold none."""
        return [self.version] if self.version > 1 else []

    def into(self, out_dir: Path) -> Self:
        """The same with another folder, such as one that is named by what the spec tells."""
        return self.model_copy(update={"out_dir": out_dir})
