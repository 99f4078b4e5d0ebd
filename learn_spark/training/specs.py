"""What the trainer's process is told of the config, without data and folders."""

from learn_spark.config.load import Config


def towers_settings(config: Config) -> dict[str, object]:
    """The sections of a `models.training.train_towers.TowersSpec`."""
    retrieval = config.retrieval
    return {
        "towers": config.towers.model.model_dump(),
        "loss": config.towers.loss.model_dump(),
        "validation": {"prior_weight": retrieval.popularity_weight, "prior_days": retrieval.popularity_days},
        "train": config.towers.train.model_dump(),
        "stream": stream_settings(config),
    }


def stream_settings(config: Config) -> dict[str, object]:
    """How a snapshot is read; how it was written does not matter there."""
    return config.stream.model_dump(exclude={"rows_per_file"})
