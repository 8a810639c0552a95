"""A model of three million random weights: a real engine answers with it within milliseconds, always the same nonsense.

Made once per version of this file and of Python, without a hub, into a cache outside the checkout. Knows nothing of
engines. Its words come from the text of Python's own manual pages; it has a chat template.

    python -m tests.e2e.tiny_model    prints its folder
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VOCABULARY = 4096  # small enough for quick logits, large enough that a token is some letters long
CONTEXT = 2048  # tokens; the engine's --max-model-len in the tests
MAKE_WITHIN_S = 180.0  # 9 s on an idle core; CI machines start torch cold
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model() -> Path:
    """Return the model's folder, made first where it is missing. Safe for several processes at once.

    Raises:
        subprocess.CalledProcessError, subprocess.TimeoutExpired: it could not be made; the child's words are on stderr.
    """
    folder = _folder()
    if not folder.is_dir():
        # A child, so that the tests' own process never carries torch.
        command = [sys.executable, "-W", "ignore", __file__, str(folder)]
        subprocess.run(command, check=True, timeout=MAKE_WITHIN_S, stdout=subprocess.DEVNULL)
    return folder


def _folder() -> Path:
    base = os.environ.get("METAINF_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metainf"
    recipe = Path(__file__).read_bytes() + sys.version.encode()
    return Path(base).expanduser() / "tests" / f"tiny-{hashlib.sha256(recipe).hexdigest()[:16]}"


def _make(folder: Path) -> None:
    """Write the model beside its place and rename it there: whoever finds the folder finds it whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix="draft-"))
    try:
        _write_weights(draft, vocabulary=_write_tokenizer(draft))
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was quicker: its model is as good
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_tokenizer(folder: Path) -> int:
    """Train a byte-level BPE; return the size of its vocabulary."""
    import pydoc_data.topics  # noqa: PLC0415 -- needed in the making only

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415 -- heavy
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[UNKNOWN, BEGIN, END, "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(sorted(pydoc_data.topics.topics.values()), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=END,
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _write_weights(folder: Path, *, vocabulary: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,  # the places of BEGIN and END in the list above
        eos_token_id=2,
        # With tied weights a random model repeats its last token for ever: nothing to tell apart.
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def _main() -> None:
    if len(sys.argv) > 1:
        _make(Path(sys.argv[1]))
    else:
        print(tiny_model())


if __name__ == "__main__":
    _main()
