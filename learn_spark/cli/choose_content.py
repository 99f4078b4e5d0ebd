"""The command that chooses how content vectors are made."""

from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import dataclass
from functools import partial

from learn_spark.bridge.folders import require_writable
from learn_spark.cli.command import Call, Command, Outcome, Summary, count, names, numbers, with_config
from learn_spark.cli.releases import existing_lake
from learn_spark.cli.runs import effects
from learn_spark.comparison.content_choice import (
    FOLDER_NAME,
    POOLINGS,
    Asked,
    asked_layers,
    base_variant,
    choose_content,
)
from learn_spark.comparison.content_table import content_lines
from learn_spark.embedding.prompts import TEMPLATES

ITEMS = 20_000


@dataclass(frozen=True)
class ChosenSummary(Summary):
    """The content of `output.dir/choose_content/choose_content.json`."""

    content: dict[str, object]


def _choose_content(call: Call) -> Outcome:
    args, config = call.args, call.config
    base_variant(config)  # refuses a wrong model or layer before a session is started
    asked_layers(config, args.layers)
    require_writable(config.output.folder / FOLDER_NAME, "output.dir")
    asked = Asked(args.items, args.layers, args.pooling, args.templates, args.ranker)
    with existing_lake(call) as context:
        told = choose_content(context, asked)
    print(*content_lines(told), sep="\n", flush=True)
    return Outcome(ChosenSummary(told))


def _some_of(text: str, known: tuple[str, ...]) -> list[str]:
    found = list(dict.fromkeys(names(text)))
    unknown = [name for name in found if name not in known]
    if unknown or not found:
        raise ArgumentTypeError(f"{text!r}: there is no {', '.join(unknown) or 'name'}; there are {', '.join(known)}")
    return found


def _arguments(parser: ArgumentParser) -> None:
    templates = tuple(sorted(TEMPLATES))
    of_poolings, of_templates = partial(_some_of, known=POOLINGS), partial(_some_of, known=templates)
    parser.add_argument("--items", type=count, default=ITEMS, metavar="N", help=f"of the sample, at most ({ITEMS})")
    parser.add_argument(
        "--layers", type=numbers, default=(), metavar="2,4", help="counted from 1 (all; of many, eight)"
    )
    parser.add_argument("--pooling", type=of_poolings, default=(), metavar="A,B", help="of mean, last, cls (all)")
    parser.add_argument(
        "--templates",
        type=of_templates,
        default=(),
        metavar="A,B",
        help=f"of {', '.join(templates)} (title, brief, industrial); each reads other fields",
    )
    parser.add_argument("--ranker", action="store_true", help="also measure what the best ones bring a ranker's trees")


COMMANDS = (
    Command(
        "choose_content",
        "Measures layers, poolings and templates of the text encoder, and names the config lines to take.",
        (with_config, _arguments),
        _choose_content,
        effects(
            "sequences, interactions, items, item_index, the model folder",
            f"output.dir/{FOLDER_NAME}; nothing in the lake. A rerun begins again",
        ),
    ),
)
