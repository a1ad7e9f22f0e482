"""What ``train --help`` says of the configuration: the models, or the fields of one of them with their values."""

from __future__ import annotations

from collections.abc import Sequence

from jaxrec import config as configuration
from jaxrec.config import Config, finding

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
    models = {name: " ".join((model.__doc__ or "").split()) for name, model in finding.models().items()}
    width = max(map(len, models))
    return GENERAL.format(models="\n".join(f"  {name:<{width}}  {text}" for name, text in models.items()))


def _fields(config: Config, values: str) -> str:
    """The fields of a configuration, each with its value and what it is."""
    model, loss, optimizer = config.model.name, config.loss.name, config.optimizer.name
    lines = [f"fields of {model} with loss {loss} and optimizer {optimizer}, [{values}]; each is an option:"]
    for name, (_, text) in configuration.fields(type(config)).items():
        section, _, field = name.partition(".")
        part = getattr(config, section)
        allowed = configuration.choices(name, type(config))
        among = f" One of: {', '.join(allowed)}." if len(allowed) > 1 else ""
        said = text or (type(part).__doc__ or "")
        lines += ["", f"  --{name} {_shown(getattr(part, field))}", f"      {' '.join(said.split())}{among}"]
    losses, optimizers = (
        ", ".join(configuration.choices(f"{name}.name", type(config))) for name in ("loss", "optimizer")
    )
    others = f"Other losses ({losses}) and optimizers ({optimizers}) have other fields"
    lines += ["", f"{others}: add --loss.name or --optimizer.name to --help."]
    return "\n".join(lines)


def _shown(value: object) -> str:
    """A value as it is given."""
    text = " ".join(map(str, value)) if isinstance(value, tuple) else "null" if value is None else str(value)
    return f"[{text}]"
