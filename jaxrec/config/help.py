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
    if file is not None:
        return _fields(configuration.load(file, overrides), f"values of {file}")
    if any(word.partition("=")[0] == "--model.name" for word in overrides):
        return _fields(configuration.override({"data": {"path": "DIR"}}, overrides, "configuration"), "defaults")
    models = {name: " ".join((model.__doc__ or "").split()) for name, model in finding.models().items()}
    return GENERAL.format(models="\n".join(f"  {name:<10} {text}" for name, text in models.items()))


def _fields(config: Config, values: str) -> str:
    """The fields of a configuration, each with its value and what it is."""
    kind, (model, loss, optimizer) = type(config), (getattr(config, section).name for section in finding.NAMED)
    lines = [f"fields of {model} with loss {loss} and optimizer {optimizer}, [{values}]; each is an option:"]
    for name, field in configuration.fields(kind).items():
        section = getattr(config, name.partition(".")[0])
        value, allowed = getattr(section, name.partition(".")[2]), configuration.choices(name, kind)
        text = " ".join(map(str, value)) if isinstance(value, tuple) else "null" if value is None else str(value)
        among = f" One of: {', '.join(allowed)}." if len(allowed) > 1 else ""
        said = " ".join((field.description or type(section).__doc__ or "").split())
        lines += ["", f"  --{name} [{text}]", f"      {said}{among}"]
    names = [", ".join(configuration.choices(f"{section}.name", kind)) for section in ("loss", "optimizer")]
    lines += ["", f"Other losses ({names[0]}) and optimizers ({names[1]}) have other fields: add --loss.name or "
                  "--optimizer.name to --help."]  # fmt: skip
    return "\n".join(lines)
