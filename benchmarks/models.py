"""Which models freeze, and for what runtime: each of torchvision's for classification, timm's families.

python -m benchmarks.models [LIBRARY/NAME ...] goes through all of them, or those named. Each has a
process of its own under a limit of time and memory; the weights are random and calibrated (source
`random`). What is done stands in models.jsonl, a line a model, and is not done again.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks import environments, machine
from benchmarks.desk import FULL, Desk
from benchmarks.table import Row, row

HERE = Path(__file__).parent
RESULTS, PAGE = "models.jsonl", "models.md"
SECONDS, GIB = 1200.0, 16.0
POLL = 0.2
FEW = ("timm/test_resnet", "torchvision/squeezenet1_1", "timm/test_vit")
"""Of `--quick`."""

FAMILIES = {
    "beit": "beit_base_patch16_224", "byoanet": "botnet26t_256", "byobnet": "mobileone_s0",
    "cait": "cait_xxs24_224", "coat": "coat_lite_tiny", "convit": "convit_tiny",
    "convmixer": "convmixer_768_32", "convnext": "convnext_atto", "crossvit": "crossvit_9_240",
    "cspnet": "cs3darknet_s", "davit": "davit_tiny", "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121", "dla": "dla46_c", "dpn": "dpn48b", "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1", "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0", "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0", "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0", "fastvit": "fastvit_t8", "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny", "ghostnet": "ghostnet_050", "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224", "hrnet": "hrnet_w18_small", "inception_next": "inception_next_atto",
    "inception_v4": "inception_v4", "levit": "levit_128s", "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_rmlp_pico_rw_256", "metaformer": "poolformer_s12", "mlp_mixer": "mixer_s32_224",
    "mobilenetv3": "mobilenetv3_small_050", "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_gap", "nest": "nest_tiny", "nextvit": "nextvit_small",
    "nfnet": "nf_ecaresnet26", "pit": "pit_ti_224", "pvt_v2": "pvt_v2_b0", "regnet": "regnetx_002",
    "repghost": "repghostnet_050", "repvit": "repvit_m0_9", "res2net": "res2net50_14w_8s",
    "resnest": "resnest14d", "resnet": "resnet10t", "resnetv2": "resnetv2_18",
    "rexnet": "rexnetr_100", "selecsls": "selecsls42", "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s1",
    "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256", "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_patch16_224", "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224", "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224", "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw", "xception_aligned": "xception41", "xcit": "xcit_nano_12_p16_224",
}  # fmt: skip
"""Modules of timm, and a small model of each."""


@dataclass(frozen=True)
class Outcome:
    """What became of a model. runtime: that it was frozen for, empty for none.

    params: numbers in its body; layers: that can be tapped; cosine, drift: of the probe, frozen
    against the module, the lowest and max |d| / RMS; seconds: of freezing; reason: why not onnx.
    """

    model: str
    runtime: str = ""
    params: int = 0
    dim: int = 0
    layers: int = 0
    cosine: float = 0.0
    drift: float = 0.0
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Limit:
    """Of a process: wall seconds, and GiB of resident memory."""

    seconds: float = SECONDS
    gib: float = GIB


class NotDoneError(Exception):
    """A process that gave no result; the message says why, in a few words."""


def models() -> list[str]:
    """All of them, as `model:` of params.yaml has them."""
    from torchvision import models as theirs

    known = theirs.list_models(module=theirs)
    return [f"torchvision/{name}" for name in known] + [
        f"timm/{name}" for name in FAMILIES.values()
    ]


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table; the long one goes beside it."""
    quick = desk.scale is not FULL
    names = FEW if quick else models()
    outcomes = run(names, desk.folder if quick else HERE, Limit())
    done = [one for one in outcomes if one.runtime]
    onnx = [one for one in done if one.runtime == "onnx"]
    others = ", ".join(one.model for one in outcomes if one not in onnx)
    drift = max((one.drift for one in onnx), default=0.0)
    return [
        row("models that freeze", [len(done)], unit=f"of {len(outcomes)}", note=f"see {PAGE}"),
        row("of these for onnx", [len(onnx)], unit=f"of {len(done)}", note=others),
        row("largest max |d| / RMS, onnx", [drift], unit="", expected="median <= 0.001"),
    ]


def run(names: Sequence[str], folder: Path, limit: Limit) -> list[Outcome]:
    """What became of each, in this order; those that stand in the folder's file are taken as said."""
    path = folder / RESULTS
    kept = read(path)
    for number, name in enumerate(names, 1):
        if name not in kept:
            kept[name] = outcome(name, limit)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(kept[name])) + "\n")
        found = kept[name]
        print(
            f"{number}/{len(names)} {name}: {found.runtime or '-'} {found.reason}", file=sys.stderr
        )
        (folder / PAGE).write_text(page(list(kept.values())), encoding="utf-8")
    return [kept[name] for name in names]


def read(path: Path) -> dict[str, Outcome]:
    """By model, what stands in a file; nothing where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {one.model: one for one in (Outcome(**json.loads(line)) for line in lines)}


def outcome(name: str, limit: Limit) -> Outcome:
    """Freeze a model for onnx, or else for torch, each in a process of its own."""
    reasons = []
    for runtime in ("onnx", "torch"):
        command = [sys.executable, "-m", "benchmarks.models", "--child", runtime, name]
        try:
            found = json.loads(watched(command, limit).splitlines()[-1])
            if not (why := found.pop("error", "")):
                return Outcome(name, runtime, **found, reason="; ".join(reasons))
        except (NotDoneError, IndexError, ValueError) as error:
            why = str(error)
        reasons.append(f"{runtime}: {_short(why, name)}")
    return Outcome(name, reason="; ".join(reasons))


def _short(why: str, name: str) -> str:
    """One line without what every message of ours begins and ends with."""
    text = " ".join(why.split()).removeprefix(f"{name}: ").removeprefix(f"{name}.")
    inner = re.fullmatch(r"runtime: onnx does not do for it \((.*)\); write runtime: torch", text)
    return (inner[1] if inner else text)[:300]


def watched(command: Sequence[str], limit: Limit) -> str:
    """What a process prints. Raises NotDoneError where it fails or goes beyond the limit."""
    with TemporaryDirectory(prefix="headstart-models-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=HERE.parent)
        too_much = _beyond(process, limit)
        process.wait()
        if too_much:
            raise NotDoneError(too_much)
        if process.returncode < 0:
            raise NotDoneError(f"it crashed (signal {-process.returncode})")
        if process.returncode:
            raise NotDoneError(environments.reason(err.read_text(errors="replace")))
        return out.read_text(errors="replace")


def _beyond(process: "subprocess.Popen[bytes]", limit: Limit) -> str:
    """Wait for its end; why it was killed before, empty where it was not."""
    begun = time.monotonic()
    while process.poll() is None:
        try:
            used = psutil.Process(process.pid).memory_info().rss / 2**30
        except psutil.NoSuchProcess:
            break
        over = time.monotonic() - begun > limit.seconds
        if over or used > limit.gib:
            process.kill()
            return f"more than {limit.seconds:g} s" if over else f"more than {limit.gib:g} GiB"
        time.sleep(POLL)
    return ""


def child(name: str, runtime: str) -> dict[str, object]:
    """Freeze a model; what is known of it then, or an `error`."""
    from pipeline import frozen
    from pipeline.architectures import named
    from pipeline.backbones import freezing
    from pipeline.backbones.network import TorchNetwork
    from pipeline.errors import HeadstartError
    from pipeline.params import BackboneParams

    entry = BackboneParams(source="random", model=name, runtime=runtime)
    begun = time.perf_counter()
    with TemporaryDirectory(prefix="headstart-models-") as parent:
        folder = Path(parent) / "b"
        try:
            drift = freezing.freeze("b", entry, folder, locate=Path)
        except HeadstartError as error:
            return {"error": str(error).removeprefix("params.yaml: backbones.b").lstrip(".: ")}
        seconds = time.perf_counter() - begun
        backbone = frozen.load(folder)
    body = named.parts(name).body
    return {
        "params": sum(parameter.numel() for parameter in body.parameters()),
        "dim": backbone.dim,
        "layers": len(TorchNetwork(body).layers(backbone.preprocessing)),
        "cosine": drift.cosine,
        "drift": drift.relative,
        "seconds": seconds,
    }


def page(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""
    done = [one for one in outcomes if one.runtime]
    onnx = [one for one in done if one.runtime == "onnx"]
    found = machine.versions(
        ("torch", "torchvision", "timm", "onnx", "onnxruntime-gpu", "onnxruntime")
    )
    head = (
        "model",
        "params",
        "dim",
        "layers",
        "runtime",
        "1 - cosine",
        "drift",
        "reason",
    )
    lines = [
        "# Models",
        "",
        "What each column means: [docs/benchmarks.md](../docs/benchmarks.md).",
        "",
        f"{len(onnx)} of {len(outcomes)} freeze for onnx, {len(done) - len(onnx)} for torch alone, "
        f"{len(outcomes) - len(done)} for neither; "
        + ", ".join(f"{name} {version}" for name, version in found.items()) + ".",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *(_line(one) for one in sorted(outcomes, key=lambda one: one.model)),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _line(one: Outcome) -> str:
    reason = one.reason.replace("|", "\\|")
    if not one.runtime:
        return f"| {one.model} |  |  |  | neither |  |  | {reason} |"
    cells = (
        one.model, f"{one.params / 1e6:.1f} M", one.dim, one.layers, one.runtime,
        f"{max(0.0, 1 - one.cosine):.0e}", f"{one.drift:.0e}", reason,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Go through the models; the results go beside this file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="LIBRARY/NAME")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a process may take")
    parser.add_argument("--gib", type=float, default=GIB, help="of memory that a process may take")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.models[0], given.child)))
        return
    run(given.models or models(), given.out, Limit(given.seconds, given.gib))


if __name__ == "__main__":
    main()
