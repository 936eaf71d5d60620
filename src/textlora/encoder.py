"""The model: pretrained encoder, fresh head, LoRA adapters; owns transformers and PEFT.

The encoder is frozen and computes in the plan's precision; adapters and head stay in fp32.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from textlora import packed, windows
from textlora.batching import padded_length
from textlora.errors import ResourceError, UsageError, did_you_mean
from textlora.packed import loading, quantized
from textlora.settings import LoraSettings
from textlora.tasks import TASKS
from textlora.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftModel

    from textlora.tokenization import TokenIds

DTYPES = {"fp32": torch.float32, "fp32_onednn": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NEARLY_FULL = 1_000_000  # bytes
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
BLOCK_NUMBER = re.compile(r"\.(\d+)\.")
RESTORE = "Restore the folder, or train again."
# Heads of AutoModelForSequenceClassification classes are called one of these.
HEAD_NAMES = ("classifier", "score")
TRUNK_DROPOUTS = (
    "dropout", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "embedding_dropout", "mlp_dropout", "pooler_dropout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """All that decides the model's structure and arithmetic.

    Attributes:
        folder: the base model's folder.
        label_names: one class each, in order.
        precision: of the frozen part, one of ``DTYPES``.
        attention: ``eager`` or ``sdpa``.
        trunk_dropout: whether the encoder's own dropout stays on in training.
        bits: 4 or 8 for frozen linear layers quantized to so many bits, or None.
        task: what the configuration tells other tools about the head.
    """

    folder: Path
    label_names: tuple[str, ...]
    precision: str = "fp32"
    attention: str = "eager"
    trunk_dropout: bool = False
    bits: int | None = None
    task: Task = "single_label"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the progress bars and notices of transformers while loading."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def build_model(spec: EncoderSpec, lora: LoraSettings, *, seed: int) -> PeftModel:
    """Load the pretrained encoder, add a fresh head and LoRA adapters.

    Args:
        spec: structure and arithmetic.
        lora: the adapters' settings; ``target_modules`` must be resolved.
        seed: of the head's and adapters' initial values.

    Raises:
        UsageError: a target module that the encoder does not have.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    torch.manual_seed(seed)
    model, fresh = load_classifier(spec)
    targets = _check_targets(model, lora.target_modules or (), fresh)
    if lora.top_layers:
        targets = top_paths(model, targets, lora.top_layers)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.r,
        lora_alpha=lora.lora_alpha,  # PEFT takes fractions too, though it says int
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        exclude_modules=_below(fresh),
        modules_to_save=list(fresh),
    )
    _freeze(model, fresh, spec)
    return _ready(get_peft_model(model, config))


def load_frozen(spec: EncoderSpec) -> Any:
    """Load a pretrained encoder as it is, to read its hidden states; the head is fresh and serves nothing.

    Raises:
        ResourceError: the weights cannot be read.
    """
    model, fresh = load_classifier(spec)
    _freeze(model, fresh, spec)
    if packed.supports(model.config):
        packed.install(model, kernel=spec.attention)
    return model.eval()


def _freeze(model: nn.Module, fresh: Sequence[str], spec: EncoderSpec) -> None:
    """Bring all but the fresh modules into the form that they are kept and computed in."""
    if spec.bits:
        quantized.quantize(model, spec.bits, inside=re.compile(_below(fresh)).fullmatch)
    cast_trunk(model, fresh, DTYPES[spec.precision])


def _ready(model: PeftModel) -> PeftModel:
    match_head_inputs(model)
    narrow_adapters(model)
    classifier = model.get_base_model()
    if packed.supports(classifier.config):
        packed.install(classifier, kernel=classifier.config._attn_implementation)
    return model


def runs_packed(model: Any) -> bool:
    """Return whether the model takes texts laid end to end."""
    return hasattr(_innermost(model), "packed")


def use_kernel(model: Any, kernel: str) -> None:
    """Let the packed forward attend with ``kernel``; without it the model keeps its own."""
    if runs_packed(model):
        _innermost(model).packed.kernel = kernel


def _innermost(model: Any) -> Any:
    """Return the model without PEFT's wrapper, which a merged one and one for prediction do not have."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Send fp32 products through oneDNN while inside, if ``precision`` asks for it.

    oneDNN is twice as fast as MKL on some processors. The switch is the process's, so it is put back.
    """
    if precision != "fp32_onednn":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def load_classifier(spec: EncoderSpec) -> tuple[Any, tuple[str, ...]]:
    """Load an encoder with a classification head in fp32.

    Returns:
        The model and the names of its fresh modules: what the base model has no weights for, and
        the head in any case.

    Raises:
        ResourceError: the weights cannot be read.
    """
    model, report = _loaded(spec)
    mismatched = [key[0] for key in report["mismatched_keys"]]
    return model, fresh_modules(model, [*report["missing_keys"], *mismatched])


def _loaded(spec: EncoderSpec) -> tuple[Any, dict[str, Any]]:
    """Return the model, and which of its weights the folder lacks."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = spec.label_names
    config = AutoConfig.from_pretrained(
        spec.folder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type=TASKS[spec.task].problem_type,
        trust_remote_code=False,
    )
    if not spec.trunk_dropout:
        still_trunk(config)
    try:
        with quiet_libraries():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                spec.folder,
                config=config,
                dtype=torch.float32,
                attn_implementation=spec.attention,
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # a head for another number of classes is replaced
                trust_remote_code=False,
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ResourceError(f"Cannot read the weights in {spec.folder}: {str(error).splitlines()[0]}") from error
    return model, report


def still_trunk(config: Any) -> None:
    """Turn off dropout inside the encoder, and keep the head's own where it has a name of its own."""
    if config.model_type.startswith("deberta"):
        config.cls_dropout = getattr(config, "cls_dropout", None)
    for name in ("classifier_dropout", "cls_dropout"):
        if getattr(config, name, 0.0) is None:  # the head takes over the encoder's
            setattr(config, name, getattr(config, "hidden_dropout_prob", None))
    for name in TRUNK_DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)


def fresh_modules(model: nn.Module, missing: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that must be trained and saved whole.

    They are the owners of the weights that the base model lacks, collapsed to the head where they
    lie inside it, and the head itself. PEFT alone would forget a fresh pooler.
    """
    owners = {key.rpartition(".")[0] for key in missing}
    owners |= {name for name, _ in model.named_children() if name in HEAD_NAMES}
    collapsed = {owner.split(".")[0] if owner.split(".")[0] in HEAD_NAMES else owner for owner in owners}
    order = [name for name, _ in model.named_modules()]
    return tuple(sorted(collapsed, key=order.index))


def _check_targets(model: nn.Module, wanted: Sequence[str], fresh: tuple[str, ...]) -> list[str]:
    inside = re.compile(_below(fresh))
    linears = {
        path.split(".")[-1]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and not inside.fullmatch(path)
    }
    problems = [
        f"there is no linear layer {name!r}.{did_you_mean(name, linears)}" for name in wanted if name not in linears
    ]
    if problems or not wanted:
        raise UsageError(
            "Cannot place the adapters (lora.target_modules):",
            problems=problems,
            hint=f"Linear layers of this encoder: {', '.join(sorted(linears))}.",
        )
    return list(wanted)


def top_paths(model: nn.Module, targets: Sequence[str], top_layers: int) -> list[str]:
    """Return the full paths of the target layers in the last ``top_layers`` repeated blocks.

    A layer is in a repeated block when its path holds a number, as ``layer.0.attention.q_lin``.
    """
    numbered = [
        (int(number[1]), path)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path.split(".")[-1] in targets and (number := BLOCK_NUMBER.search(path))
    ]
    depth = 1 + max(number for number, _ in numbered)
    return [path for number, path in numbered if number >= depth - top_layers]


def _below(modules: Iterable[str]) -> str:
    """Return a pattern that matches the modules and all they contain."""
    return "|".join(rf"{re.escape(name)}(\..*)?" for name in modules)


def cast_trunk(model: nn.Module, fresh: Iterable[str], dtype: torch.dtype) -> None:
    """Cast the weights outside the fresh modules to ``dtype``.

    Buffers stay as they are: ModernBERT's rotary frequencies need fp32. So do the codes of quantized layers.
    """
    inside = re.compile(_below(fresh))
    for path, module in model.named_modules():
        if inside.fullmatch(path):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


def match_head_inputs(model: nn.Module) -> None:
    """Cast what enters the fp32 modules (head, fresh pooler) from the trunk's precision."""
    for module in model.modules():
        if "ModulesToSaveWrapper" in {parent.__name__ for parent in type(module).__mro__}:
            module.register_forward_pre_hook(_to_fp32)


def _to_fp32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        item.float() if isinstance(item, torch.Tensor) and item.is_floating_point() else item for item in inputs
    )


def narrow_adapters(model: nn.Module) -> None:
    """Let the adapters compute in the trunk's precision, though their weights stay in fp32.

    PEFT casts every input to fp32 and adds two full-size fp32 tensors per layer; in bf16 that
    costs as much as the layer itself. Here the small weights are cast instead, the scaling goes
    into B (out, r), and the sum is fused into the second product. In fp32 the result equals
    PEFT's up to rounding.
    """
    from peft.tuners.lora import Linear

    for module in model.modules():
        if isinstance(module, Linear):
            module.forward = partial(_adapted_linear, module, module.forward)


def _adapted_linear(
    module: Any, original: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """Return W x + b + (alpha / r) B A x for x of (…, in)."""
    active = module.active_adapters
    if module.disable_adapters or module.merged or len(active) != 1 or args or kwargs:
        return original(x, *args, **kwargs)
    name = active[0]
    base = module.base_layer(x)
    down = module.lora_A[name].weight.to(x.dtype)
    up = (module.lora_B[name].weight * module.scaling[name]).to(x.dtype)
    inner = nn.functional.linear(module.lora_dropout[name](x), down)
    flat = torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), up.t())
    return flat.view_as(base)


def load_adapter(spec: EncoderSpec, adapter: Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved adapter onto its base model.

    Raises:
        ResourceError: the adapter's files are missing or damaged.
    """
    from peft import PeftModel

    _check_adapter_files(adapter)
    model, fresh = load_classifier(spec)
    _freeze(model, fresh, spec)
    try:
        with quiet_libraries():
            peft_model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except Exception as error:  # PEFT and safetensors raise many kinds for a damaged file
        raise ResourceError(
            f"The adapter in {adapter} cannot be loaded: {str(error).splitlines()[0]}",
            hint=RESTORE,
        ) from error
    return _ready(peft_model)


def _check_adapter_files(adapter: Path) -> None:
    # PEFT would look for other files in their place: pickled ones, or ones on the hub.
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        raise ResourceError(f"The adapter in {adapter} cannot be loaded: {missing[0]} is missing.", hint=RESTORE)


def load_for_prediction(spec: EncoderSpec, adapter: Path) -> Any:
    """Load a saved classifier to predict with: without transformers and PEFT where the engine can.

    Raises:
        ResourceError: files are missing or damaged.
    """
    _check_adapter_files(adapter)
    try:
        if not loading.can_load(spec.folder, adapter):
            return load_adapter(spec, adapter)
        model = loading.load(spec.folder, adapter, dtype=DTYPES[spec.precision], kernel=spec.attention, bits=spec.bits)
        loading.check_classes(model, len(spec.label_names))
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise ResourceError(
            f"The adapter in {adapter} cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}",
            hint=RESTORE,
        ) from error
    return model


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return adapters and fresh modules by the names that they have in the adapter's file."""
    if isinstance(model, loading.LoadedClassifier):
        return model.trained
    from peft import get_peft_model_state_dict

    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def save_adapter(model: Any, folder: Path, *, base_model: str | None = None) -> None:
    """Write adapters and fresh modules as safetensors.

    Args:
        model: what ``build_model`` or ``load_for_prediction`` returned.
        folder: an existing folder.
        base_model: what the files shall name as the base model, instead of a path on this machine.

    Raises:
        OSError: the disk is full, or whatever else keeps a file from being written.
    """
    if isinstance(model, loading.LoadedClassifier):
        with write_errors(folder):
            model.save(folder)
        return
    if base_model is not None:
        model.peft_config["default"].base_model_name_or_path = base_model
    with write_errors(folder):
        # "auto" would ask the hub whether the vocabulary has grown.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    # PEFT's card is an empty form; ours is written by the report.
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn the errors that safetensors and torch have for a failed write into ``OSError``."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        numbered = re.search(r"os error (\d+)", str(error))
        if numbered is None and "inline_container" not in str(error):
            raise
        # torch does not say why; half a file has then taken up the rest of a full disk.
        full = shutil.disk_usage(folder).free < NEARLY_FULL
        number = int(numbered[1]) if numbered else errno.ENOSPC if full else errno.EIO
        raise OSError(number, os.strerror(number), str(folder)) from error


def load_merged(spec: EncoderSpec) -> Any:
    """Load a merged Hugging Face folder to predict with, in fp32; texts end to end where the engine can.

    Raises:
        ResourceError: the weights cannot be read, or are not those of a whole classifier.
    """
    model, report = _loaded(spec)
    if lacking := [*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])]:
        raise ResourceError(
            f"The weights in {spec.folder} are not those of the classifier: {sorted(lacking)[0]} is missing or of another shape.",
            hint=RESTORE,
        )
    if packed.supports(model.config):
        packed.install(model, kernel=model.config._attn_implementation)
    return model


def merged_model(spec: EncoderSpec, adapter: Path) -> Any:
    """Return an ordinary Hugging Face classifier in fp32 with the adapters merged in."""
    return load_adapter(EncoderSpec(spec.folder, spec.label_names, task=spec.task), adapter).merge_and_unload()


def pad(ids: Sequence[TokenIds], pad_id: int, *, limit: int, fixed: bool = False) -> dict[str, torch.Tensor]:
    """Stack token ids to ``input_ids`` and ``attention_mask``, both (B, T).

    T is the longest text rounded up to a few lengths, or ``limit`` if ``fixed``.
    """
    longest = max(len(row) for row in ids)
    width = limit if fixed else padded_length(longest, limit)
    input_ids = torch.full((len(ids), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(ids), width), dtype=torch.long)
    for row, values in enumerate(ids):
        input_ids[row, : len(values)] = torch.from_numpy(values)
        mask[row, : len(values)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def collate(ids: Sequence[TokenIds], pad_id: int, *, limit: int, packed_rows: bool) -> dict[str, Any]:
    """Return the model's inputs for some windows: laid end to end, or padded."""
    return packed.pack(ids, pad_id) if packed_rows else pad(ids, pad_id, limit=limit)


def pool(logits: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return the logits (B, C) of texts from those (W, C) of their windows, as ``windows.pool`` does."""
    if len(logits) == len(counts):
        return logits
    places = torch.from_numpy(windows.places(counts)).to(logits.device)
    padded = torch.cat([logits, logits.new_zeros(1, logits.shape[1])])
    return padded[places].sum(1) / logits.new_tensor(counts)[:, None]


def head_dropouts(model: Any) -> list[nn.Dropout]:
    """Return the dropout modules outside of the pretrained encoder; none for a model loaded to predict."""
    if isinstance(model, loading.LoadedClassifier):
        return []
    classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk = classifier.base_model_prefix
    return [
        module
        for path, module in classifier.named_modules()
        if isinstance(module, nn.Dropout) and path.split(".")[0] != trunk
    ]


def is_ours(name: str) -> bool:
    """Return whether a parameter belongs to the adapters or the fresh modules."""
    return "lora_" in name or ".modules_to_save." in name


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Return all parameters of the classifier (adapters included, copies not) and the trained ones."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    unused = sum(parameter.numel() for name, parameter in model.named_parameters() if ".original_module." in name)
    # A byte of codes holds two 4-bit weights.
    packed_away = sum(
        module.in_features * module.out_features - module.weight.numel()
        for module in model.modules()
        if isinstance(module, quantized.QuantizedLinear)
    )
    return sum(parameter.numel() for parameter in model.parameters()) + packed_away - unused, trainable
