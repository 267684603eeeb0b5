"""Any ONNX file that takes images in; its tensors are the layers."""

from typing import TYPE_CHECKING

from pipeline.backbones import weights
from pipeline.backbones.source import Description, Locate, Origin, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError, InputError
from pipeline.images import Preprocessing
from pipeline.params import PENULTIMATE, BackboneParams

if TYPE_CHECKING:
    import torch

    from pipeline.architectures.ends import Taken
    from pipeline.backbones.graph import OnnxNetwork

USUAL_CROP, USUAL_SHARE = 224, 0.875
"""Of a suggested recipe: the crop, and its share of the resized shorter side."""

NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Onnx:
    """Source `onnx`; layer `penultimate` is the input of the last Gemm or MatMul."""

    def check(self, entry: BackboneParams, at: str) -> None:
        """Refuse what is not a file for onnxruntime."""
        if entry.model is not None:
            raise ConfigurationError(f"{at}.model: source onnx has no model; delete the key")
        if entry.runtime != "onnx":
            raise ConfigurationError(
                f"{at}.runtime: torch does not run an ONNX file; write runtime: onnx"
            )
        if not weights.names_a_file(entry, at):
            raise ConfigurationError(
                f"{at}.weights is {entry.weights!r}; write file:PATH of an .onnx file"
            )

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:
        """The file."""
        return Origin(weights.weights_file(entry, at, locate))

    def describe(self, entry: BackboneParams, at: str, locate: Locate) -> Description:
        """As the file says; its parameters are all the numbers that it holds, its classifier's too."""
        from pipeline.architectures import graphs
        from pipeline.backbones import bare

        whole = entry.model_copy(update={"layers": [PENULTIMATE]})  # whichever the entry names
        loaded = self.load(whole, at, locate)
        network: OnnxNetwork = loaded.network  # type: ignore[assignment]
        count = graphs.numbers(network.model.graph)
        return bare.of_loaded(loaded, parameters=count, nested=False)

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
        """Read the file and try which of its tensors can be had of several images at once."""
        from pipeline.backbones import onnx_file, trial

        path = weights.weights_file(entry, at, locate)
        if path is None:
            raise InputError(f"{at}.weights: no file; write file:PATH of an .onnx file")
        model = onnx_file.read(path, at)
        taken = onnx_file.taken_in(model, path.name, at)
        recipe = preprocessing_or(entry, lambda: _own(taken, at), at)
        _check(recipe, taken, at)
        network = trial.network(model, taken, recipe, f"{at}.weights: {path.name}")
        for text in entry.layers:
            if why := network.broken.get(text.partition("@")[0]):
                raise ConfigurationError(
                    f"{at}.layers: {text!r} cannot be had of several images at once ({why}); "
                    "export the file with a dynamic batch axis"
                )
        return Pretrained(
            network=network,
            preprocessing=recipe,
            architecture="onnx",
            package="none",
            licence=onnx_file.licence(model),
            classifier=_classifier(network),
        )


def _own(taken: "Taken", at: str) -> Preprocessing:
    """Of a file that normalises by itself: the size it takes. Raises ConfigurationError."""
    if not taken.normalised and taken.side:
        return Preprocessing(taken.side, taken.side, "bicubic", NO_MEAN, NO_STD)
    crop = taken.side or USUAL_CROP
    unknown = "the mean and std it was trained with" if taken.normalised else "the size it wants"
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    if not taken.normalised:
        mean, std = list(NO_MEAN), list(NO_STD)
    raise ConfigurationError(
        f"{at}.preprocessing is missing, and an ONNX file does not say {unknown}; add what its maker "
        f"states, likely 'preprocessing: {{resize: {round(crop / USUAL_SHARE)}, crop: {crop}, "
        f"interpolation: bicubic, mean: {mean}, std: {std}}}'"
    )


def _check(recipe: Preprocessing, taken: "Taken", at: str) -> None:
    if taken.side not in (None, recipe.crop):
        raise ConfigurationError(
            f"{at}.preprocessing: crop is {recipe.crop}, but the file takes {taken.side} x "
            f"{taken.side} pixels; write crop: {taken.side}"
        )
    if not taken.normalised and (recipe.mean, recipe.std) != (NO_MEAN, NO_STD):
        raise ConfigurationError(
            f"{at}.preprocessing: the file takes uint8 and normalises by itself; "
            "write mean: [0.0, 0.0, 0.0] and std: [1.0, 1.0, 1.0]"
        )


def _classifier(network: "OnnxNetwork") -> "torch.nn.Module | None":
    """The classifier, where `penultimate` is what it takes in, as it is."""
    from pipeline.backbones import last_layer
    from pipeline.taps import PENULTIMATE

    found = last_layer.find(network.model.graph)
    spot = network.spots.get(PENULTIMATE)
    if found is None or spot is None or spot.tensor != found.takes or len(spot.shape) > 1:
        return None
    return found.module


SOURCE = Onnx()
