"""What ``train --help`` says of the configuration: the models, or the fields of one of them with their values."""

from __future__ import annotations

from collections.abc import Sequence

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.config.agreement import LOSSES, belongs

MODELS = {
    "gru4rec": "sessions of clicks: a recurrent network over the clicks so far; fast, and a good first choice",
    "narm": "sessions of clicks: a recurrent network with attention to earlier clicks",
    "sasrec": "sessions of clicks: self-attention",
    "merrec": "marketplace events with types and item names; also ranks items that training has not seen",
    "autoint": "rows of fields with a click or a rating: self-attention between fields, and a deep network",
    "two_tower": "rows of users and items: a vector for each, also for users and items that are new",
}
"""What each model reads, and what it is, in one line."""

GENERAL = """models:
{models}

Every field of the configuration is an option, --section.field VALUE, and wins over the file. To list those of a model:
  python -m jaxrec.train --help --model.name gru4rec                       # their defaults
  python -m jaxrec.train --help --config configs/gru4rec_synthetic.yaml    # the values of a file"""


def field_help(file: str | None, overrides: Sequence[str]) -> str:
    """The end of ``train --help``.

    Args:
        file: the configuration whose model and values are shown; None: the defaults of the model in ``overrides``, or
            where there is none the list of models.
        overrides: ``--section.field value`` words.
    """
    named = any(word.partition("=")[0] == "--model.name" for word in overrides)
    if file is not None:
        return _fields(configuration.load(file, overrides), f"values of {file}")
    if named:
        return _fields(configuration.override({"data": {"path": "DIR"}}, overrides, "configuration"), "defaults")
    width = max(map(len, MODELS))
    return GENERAL.format(models="\n".join(f"  {name:<{width}}  {text}" for name, text in MODELS.items()))


def _fields(config: Config, values: str) -> str:
    """The fields of a configuration's model, loss and optimizer, each with its value and what it is."""
    model, loss, optimizer = config.model.name, config.loss.name, config.optimizer.name
    lines = [f"fields of {model} with loss {loss} and optimizer {optimizer}, [{values}]; each is an option:"]
    for name, (_, text) in configuration.fields().items():
        if not belongs(name, model, loss, optimizer):
            continue
        section, _, field = name.partition(".")
        allowed = LOSSES[model] if name == "loss.name" else configuration.choices(name)
        among = f" One of: {', '.join(allowed)}." if len(allowed) > 1 else ""
        lines += [
            "",
            f"  --{name} {_shown(getattr(getattr(config, section), field))}",
            f"      {' '.join(text.split())}{among}",
        ]
    optimizers = ", ".join(configuration.choices("optimizer.name"))
    others = f"Other losses ({', '.join(LOSSES[model])}) and optimizers ({optimizers}) have other fields"
    lines += ["", f"{others}: add --loss.name or --optimizer.name to --help."]
    return "\n".join(lines)


def _shown(value: object) -> str:
    """A value as it is given."""
    text = " ".join(map(str, value)) if isinstance(value, tuple) else "null" if value is None else str(value)
    return f"[{text}]"
