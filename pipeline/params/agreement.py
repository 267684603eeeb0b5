"""What the entries of params.yaml say of each other has to agree."""

from pipeline.errors import ConfigurationError
from pipeline.names import NAME, unknown
from pipeline.params.backbones import RESERVED
from pipeline.params.data import SplitParams
from pipeline.params.whole import Params


def check(params: Params, *, where: str) -> None:
    """Raise ConfigurationError, one line, where two of them do not; where: the file's name."""
    _check_split(params.data.split, where)
    _check_names(params, where)
    _check_curves(params, where)
    _check_finetunes(params, where)
    _check_bundle(params, where)


def _check_split(split: SplitParams, where: str) -> None:
    if split.val + split.test >= 1:
        raise ConfigurationError(
            f"{where}: data.split: val {split.val} and test {split.test} leave nothing to train on;"
            " their sum must be below 1"
        )


def _check_names(params: Params, where: str) -> None:
    for block in ("backbones", "heads", "curve", "finetune"):
        for name in getattr(params, block):
            if not NAME.fullmatch(name):
                raise ConfigurationError(
                    f"{where}: {block}: the name {name!r} is not made of a-z, 0-9 and _; rename it"
                )
    for block, entries in (("backbones", params.backbones), ("heads", params.heads)):
        listed: list[str] = getattr(params.run, block)
        for name in listed:
            if name not in entries:
                raise ConfigurationError(
                    f"{where}: run.{block}: {unknown(block[:-1], name, entries)}"
                )
            if listed.count(name) > 1:
                raise ConfigurationError(f"{where}: run.{block}: {name!r} stands twice; delete one")
    if RESERVED in params.backbones:
        raise ConfigurationError(f"{where}: backbones.{RESERVED}: this name is taken; rename it")


def _check_curves(params: Params, where: str) -> None:
    for name, entry in params.curve.items():
        at = f"{where}: curve.{name}"
        listed = entry.backbones or []
        if twice := [one for one in listed if listed.count(one) > 1]:
            raise ConfigurationError(f"{at}.backbones: {twice[0]!r} stands twice; delete one")
        for one in listed:
            if one not in params.run.backbones:
                raise ConfigurationError(
                    f"{at}.backbones: {unknown('backbone', one, params.run.backbones)} "
                    "(a curve has backbones of run.backbones)"
                )
        sizes = [float("inf") if shots == "all" else shots for shots in entry.shots]
        if sizes != sorted(set(sizes)):
            raise ConfigurationError(
                f"{at}.shots is {entry.shots}: must rise, 'all' being the last, and name none twice"
            )


def _check_finetunes(params: Params, where: str) -> None:
    for name, entry in params.finetune.items():
        at = f"{where}: finetune.{name}"
        if name in params.heads:
            raise ConfigurationError(f"{at}: a head has this name already; rename it")
        for key, listed in (("backbone", params.run.backbones), ("head", params.run.heads)):
            given = getattr(entry, key)
            if given not in listed:
                raise ConfigurationError(
                    f"{at}.{key}: {unknown(key, given, listed)} (it starts from one of run.{key}s)"
                )
        if entry.init == "random" and entry.unfreeze != "all":
            raise ConfigurationError(
                f"{at}.unfreeze is {entry.unfreeze!r}: with init random nothing is worth keeping as "
                "it is; write unfreeze: all"
            )
        if entry.warmup and entry.warmup >= entry.epochs:
            raise ConfigurationError(
                f"{at}.warmup_epochs is {entry.warmup_epochs}: must be below epochs ({entry.epochs})"
            )


def _tuned_on(params: Params, backbone: str | None) -> list[str]:
    return [name for name, entry in params.finetune.items() if entry.backbone == backbone]


def _check_bundle(params: Params, where: str) -> None:
    named = {"backbone": params.bundle.backbone, "head": params.bundle.head}
    for key, name in named.items():
        listed: list[str] = getattr(params.run, f"{key}s")
        tuned = " or under finetune, on that backbone" if key == "head" else ""
        if key == "head":
            listed = [*listed, *_tuned_on(params, params.bundle.backbone)]
        if name is not None and name not in listed:
            raise ConfigurationError(
                f"{where}: bundle.{key}: {unknown(key, name, listed)} (it has to be in run.{key}s{tuned})"
            )
    if len(given := [key for key, name in named.items() if name is not None]) == 1:
        other = next(key for key in named if key not in given)
        raise ConfigurationError(
            f"{where}: bundle.{given[0]} is given and bundle.{other} is not; name both, or leave "
            "both at null for the best by validation"
        )
