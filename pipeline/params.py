"""The shape of params.yaml: what each key is, what it may be, and the line a wrong one gets."""

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import ConfigurationError
from pipeline.names import NAME, unknown

CONTROL_SOURCES = ("pixels", "random")
CONTROL_KINDS = ("dummy",)
"""Backbones of these sources and heads of these kinds are there to be beaten, never the best."""
SHOTS = (1, 2, 5, 10, 20, 50)
"""Images a class of a learning curve, where its entry has none."""

RESERVED = "best"
"""The key of metrics.json beside the backbones' names, so no backbone may have it."""

PENULTIMATE = "penultimate"
"""The layer that a backbone gives by default: what its classifier's last Linear takes in."""

Pooling = Literal["avg", "max", "gem", "cls", "patch_mean", "flatten"]
"""How a layer's positions become one vector."""

M = TypeVar("M", bound=BaseModel)
Count = Annotated[int, Field(ge=1)]
LayerNames = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Enhancement = Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)] | None
Unfrozen = Annotated[str, Field(pattern=r"^last:[1-9][0-9]{0,3}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Block(BaseModel):
    """A mapping of params.yaml: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SplitParams(_Block):
    """How the data is split where it does not split itself; fractions of what is split."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: int = 0
    group: str | None = None


class DataParams(_Block):
    """Which images, and how they are split."""

    path: Annotated[str, Field(min_length=1)]
    format: str | None = None
    split: SplitParams = SplitParams()
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.01


class PreprocessingParams(_Block):
    """A recipe that replaces the weights' own; sizes in pixels, mean and std of 0..1 values."""

    resize: Annotated[int, Field(ge=1)]
    crop: Annotated[int, Field(ge=1)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]


class BackboneParams(_Block):
    """One frozen backbone: where its weights come from, what is taken from it, how it is run.

    layers: each the name of a layer, or `NAME@POOLING`, the first being what heads use unless
    they say otherwise; pooling: of layers that name none, None: by their shape; views: augmented
    ones of each image beside the clean one; tta: deterministic views that a clean vector is the
    mean of; seed: of random weights and of the views.
    """

    source: str
    model: str | None = None
    weights: str | None = None
    sha256: Sha256 | None = None
    preprocessing: PreprocessingParams | None = None
    layers: LayerNames = [PENULTIMATE]
    pooling: Pooling | None = None
    views: Annotated[int, Field(ge=0, le=100)] = 0
    tta: Literal["flip", "five_crop", "ten_crop"] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    runtime: str = "onnx"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    storage: Literal["float16", "float32"] = "float16"


class HeadParams(BaseModel):
    """One head: its kind and what it sees; the kind itself checks the options beside these.

    layers: of the backbone's, their vectors joined; None: its first, `all`, or `best`: the one, or
    all joined, with the best validation score; views: it trains on the augmented views too;
    enhance: what is done to the vectors before the classifier, in this order, None: the kind's own;
    search: the name of a grid, None: the kind's own; cv: folds of the training images that the
    option is chosen on, None: it is chosen on the validation images; calibrate: its probabilities
    are brought to the right sharpness on the validation images, None: where it has none of its own;
    seeds: how many draws of train and val its validation accuracy is told for; wanted_precision:
    below which share of right answers it should rather abstain.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    kind: str
    layers: LayerNames | Literal["all", "best"] | None = None
    views: bool = False
    enhance: Enhancement = None
    search: str | None = None
    cv: Annotated[int, Field(ge=2, le=20)] | None = None
    calibrate: bool | None = None
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    wanted_precision: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The kind's own keys."""
        return dict(self.model_extra or {})


class RunParams(_Block):
    """What `dvc repro` runs: names of entries above."""

    backbones: Annotated[list[str], Field(min_length=1)]
    heads: Annotated[list[str], Field(min_length=1)]


CURVE_HEAD = HeadParams(kind="logistic", enhance=["centre", "l2"])
"""Standard deviations of ten images are noise: where few are drawn, standardising hurts."""


class CurveParams(_Block):
    """A learning curve: how good a head is by the number of images that it is trained on.

    backbones: names of run.backbones, None: all of them; head: an entry as under heads; shots:
    images a class, rising, `all` of them last; seeds: draws of each number.
    """

    backbones: Annotated[list[str], Field(min_length=1)] | None = None
    head: HeadParams = CURVE_HEAD
    shots: Annotated[list[Count | Literal["all"]], Field(min_length=1)] = [*SHOTS, "all"]
    seeds: Annotated[int, Field(ge=1, le=100)] = 5


class FinetuneParams(_Block):
    """One fine-tuned model: a backbone and a head to start from, and how both are trained on.

    init: `head` starts exactly at the fitted head, `fresh` at random numbers in its place, `random`
    at random numbers everywhere; unfreeze: `head`, `last:N` blocks, `all`, or names of blocks; gradual:
    from the last one on, over the first half of the epochs; batch_size: images a pass, accumulate:
    passes a step; optimizer, lr, schedule, warmup_epochs: of the backbone's last block, rates of
    blocks before it fall by layer_decay each, the head's is head_lr_factor times as high;
    weight_decay: of matrices alone; batch_norm: its statistics stay, or follow the images, null:
    `train` with init random alone; augment: what is done to training images; mixup, cutmix: alpha, 0 for
    none; ema: decay of the average that is kept of the weights, null for none; clip: largest norm
    of the gradient; patience: epochs without a better validation figure before it stops; wise_ft:
    whether the weights may end up between start and finish; l2_sp: pull towards the start;
    precision: amp is for GPUs, a CPU computes in float32.
    """

    backbone: str
    head: str
    init: Literal["head", "fresh", "random"] = "head"
    unfreeze: Literal["head", "all"] | Unfrozen | LayerNames = "last:1"
    gradual: bool = False
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 3e-5
    head_lr_factor: Annotated[float, Field(gt=0)] = 10.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["constant", "step", "plateau", "cosine"] = "cosine"
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    batch_norm: Literal["frozen", "train"] | None = None
    augment: Literal["none", "flip", "crop", "trivial"] = "crop"
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    patience: Count | None = 3
    wise_ft: bool = True
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "amp"] = "amp"
    channels_last: bool = True


class BundleParams(_Block):
    """Which head of which backbone of the run is bundled; None: the best by validation."""

    backbone: str | None = None
    head: str | None = None

    @property
    def named(self) -> tuple[str, str] | None:
        """Both names, or None."""
        return (self.backbone, self.head) if self.backbone and self.head else None


class ExecutionParams(_Block):
    """Mechanics: about speed and place, tracked by no stage, never part of a result."""

    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    threads: Count | Literal["auto"] = "auto"
    sessions: Count | Literal["auto"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: Count | Literal["auto"] = "auto"
    scheduler: str | None = None
    insecure: bool = False
    patience: Annotated[float, Field(gt=0)] = 60.0
    performance_report: bool = False
    store: str = "artifacts/.store"


class Params(_Block):
    """All of params.yaml."""

    data: DataParams
    backbones: dict[str, BackboneParams]
    heads: dict[str, HeadParams]
    run: RunParams
    curve: dict[str, CurveParams] = {}
    finetune: dict[str, FinetuneParams] = {}
    bundle: BundleParams = BundleParams()
    execution: ExecutionParams = ExecutionParams()


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises ConfigurationError, one line: the file, the key, its value and what is allowed.
    """
    return parse(_read(path), where=path.name)


def parse(content: object, *, where: str = "params.yaml") -> Params:
    """Check the mapping that params.yaml holds; see `load`."""
    params = checked(Params, content, where=where)
    _check_split(params.data.split, where)
    _check_names(params, where)
    _check_curves(params, where)
    _check_finetunes(params, where)
    _check_bundle(params, where)
    return params


def checked(model: type[M], content: object, *, where: str, at: str = "") -> M:
    """Validate `content` against a pydantic model; the first fault becomes one line.

    at: dotted key of `content` within the file. Raises ConfigurationError.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(_line(model, error, where, at)) from None


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
        raise ConfigurationError(f"{path.name}: not valid YAML: {_one_line(str(error))}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path.name}: not UTF-8 text; save it as UTF-8") from None


def _line_number(error: MarkedYAMLError) -> int:
    mark = error.problem_mark
    return mark.line + 1 if mark else 0


def _line(model: type[BaseModel], error: ValidationError, where: str, at: str) -> str:
    # a misspelt key is missing as well: name what was written before what was not
    errors = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    first = _deepest(errors)
    parts = [str(part) for part in first["loc"] if not _is_type_tag(part)]
    key = _one_line(".".join(filter(None, [at, *parts]))) or "(top level)"
    value = first["input"]
    if first["type"] == "extra_forbidden":
        allowed = _keys(model, parts[:-1])
        near = difflib.get_close_matches(parts[-1], allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed here: {', '.join(allowed)}"
        return f"{where}: unknown key {key} (= {_short(value)}); {hint}"
    if first["type"] == "missing":
        return f"{where}: the key {key} is missing; add it"
    wanted = [e["msg"] for e in errors if _same_place(e["loc"], first["loc"])]
    text = " or ".join(dict.fromkeys(map(_plain, wanted)))
    return f"{where}: {key} is {_short(value)} ({_type_name(value)}): {text}"


def _deepest(errors: list[Any]) -> Any:
    """The first error, or one within its value: of a mapping that may also be a word, say, what is
    wrong within it tells more than that it is no such word.
    """
    top = _place(errors[0]["loc"])
    within = [e for e in errors if _place(e["loc"])[: len(top)] == top]
    return max(within, key=lambda e: len(_place(e["loc"])))


def _is_type_tag(part: object) -> bool:
    """Pydantic names the member of a union in `loc`; the user's file does not have it."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-"))


def _same_place(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return _place(left) == _place(right)


def _place(loc: tuple[Any, ...]) -> list[Any]:
    return [part for part in loc if not _is_type_tag(part)]


def _plain(message: str) -> str:
    message = re.sub(r" or instance of \w+$", "", message).replace(
        "a valid dictionary", "a mapping"
    )
    message = re.sub(r" after validation, not \d+$", "", message)
    return re.sub(r"^(Input |List |String |Dictionary |Value error, )", "", message)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _type_name(value: object) -> str:
    names = {"str": "text", "dict": "mapping", "NoneType": "null", "bool": "true/false"}
    return names.get(type(value).__name__, type(value).__name__)


def _keys(model: Any, parts: list[str]) -> list[str]:
    """The keys allowed in the block that `parts` leads to from `model`."""
    for part in parts:
        fields = getattr(model, "model_fields", None)
        model = fields[part].annotation if fields else get_args(model)[1]  # dict[str, Block]
        if isinstance(model, UnionType):
            model = get_args(model)[0]  # Block | None
    return list(model.model_fields)


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
        if entry.warmup_epochs >= entry.epochs and entry.warmup_epochs:
            raise ConfigurationError(
                f"{at}.warmup_epochs is {entry.warmup_epochs}: must be below epochs ({entry.epochs})"
            )


def _tuned_on(params: Params, backbone: str | None) -> list[str]:
    return [name for name, entry in params.finetune.items() if entry.backbone == backbone]


def _check_bundle(params: Params, where: str) -> None:
    named = {"backbone": params.bundle.backbone, "head": params.bundle.head}
    for key, name in named.items():
        listed: list[str] = getattr(params.run, f"{key}s")
        if key == "head":
            listed = [*listed, *_tuned_on(params, params.bundle.backbone)]
        if name is not None and name not in listed:
            raise ConfigurationError(
                f"{where}: bundle.{key}: {unknown(key, name, listed)} (it has to be in run.{key}s)"
            )
    if len(given := [key for key, name in named.items() if name is not None]) == 1:
        other = next(key for key in named if key not in given)
        raise ConfigurationError(
            f"{where}: bundle.{given[0]} is given and bundle.{other} is not; name both, or leave "
            "both at null for the best by validation"
        )
