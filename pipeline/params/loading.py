"""params.yaml read and checked."""

import re
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import ConfigurationError
from pipeline.params import agreement
from pipeline.params.faults import checked, one_line
from pipeline.params.whole import Params


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises ConfigurationError, one line: the file, the key, its value and what is allowed.
    """
    return parse(_read(path), where=path.name)


def parse(content: object, *, where: str = "params.yaml") -> Params:
    """Check the mapping that params.yaml holds; see `load`."""
    params = checked(Params, content, where=where)
    agreement.check(params, where=where)
    return params


def _read(path: Path) -> object:
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} does not exist; run this in the folder that holds params.yaml"
        ) from None
    except DuplicateKeyError as error:
        key = re.search(r'duplicate key "(.*?)"', str(error.problem))
        raise ConfigurationError(
            f"{path.name}:{_line_number(error)}: the key {key[1] if key else '?'!r} stands twice; "
            "delete one"
        ) from None
    except MarkedYAMLError as error:
        raise ConfigurationError(
            f"{path.name}:{_line_number(error)}: not valid YAML: {error.problem}"
        ) from None
    except YAMLError as error:
        raise ConfigurationError(f"{path.name}: not valid YAML: {one_line(str(error))}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path.name}: not UTF-8 text; save it as UTF-8") from None


def _line_number(error: MarkedYAMLError) -> int:
    mark = error.problem_mark
    return mark.line + 1 if mark else 0
