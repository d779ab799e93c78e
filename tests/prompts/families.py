"""Families of models: what their vocabularies have, and how their authors write conversations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmstream_cli.core.llama import Model
from llmstream_cli.prompts import encode
from llmstream_cli.prompts.messages import Message, Tool
from llmstream_cli.prompts.template import ChatTemplate, chat_variables
from tests.gguf_files import write_family

CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", "Where is Paris?"),
    Message("assistant", "In France."),
    Message("user", "And Rome?"),
)


@dataclass(frozen=True)
class Family:
    """A family.

    Attributes:
        chat_format: the name of its format.
        tokenizer: SentencePiece, or byte-level.
        bos: begins a sequence.
        eos: ends one.
        add_bos: the vocabulary wants it before every prompt.
        control: its other control tokens.
        question: how `CONVERSATION[1]` alone is written down.
        conversation: how `CONVERSATION` is.
        name: what its files call the model.
    """

    chat_format: str
    tokenizer: Literal["llama", "gpt2"]
    bos: str
    eos: str
    add_bos: bool
    control: tuple[str, ...]
    question: str
    conversation: str
    name: str = ""

    def load(self, path: Path, template: str | None = None) -> Model:
        """Return a tiny model with the vocabulary of the family."""
        write_family(
            path,
            self.tokenizer,
            *self.control,
            bos=self.bos,
            eos=self.eos,
            add_bos=self.add_bos,
            template=template,
            name=self.name,
        )
        return Model(str(path))


_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
_PUFFIN = "The assistant gives helpful, detailed, and polite answers to the user's questions."

FAMILIES = {
    "ChatML": Family(
        "chatml",
        *("gpt2", "<|endoftext|>", "<|im_end|>", False, ("<|im_start|>",)),
        "<|im_start|>user\nWhere is Paris?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhere is Paris?<|im_end|>\n"
        "<|im_start|>assistant\nIn France.<|im_end|>\n"
        "<|im_start|>user\nAnd Rome?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "ChatML, SentencePiece": Family(
        "chatml",
        *("llama", "<s>", "<|im_end|>", True, ("<|im_start|>", "</s>")),
        "<|im_start|>user\nWhere is Paris?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhere is Paris?<|im_end|>\n"
        "<|im_start|>assistant\nIn France.<|im_end|>\n"
        "<|im_start|>user\nAnd Rome?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "Llama 2": Family(
        "llama2",
        *("llama", "<s>", "</s>", True, ()),
        "<s>[INST] Where is Paris? [/INST]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhere is Paris? [/INST] In France. </s>"
        "<s>[INST] And Rome? [/INST]",
    ),
    "Llama 3": Family(
        "llama3",
        *("gpt2", "<|begin_of_text|>", "<|eot_id|>", True),
        ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhere is Paris?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhere is Paris?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIn France.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd Rome?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Mistral 0.2": Family(
        "mistral",
        *("llama", "<s>", "</s>", True, ()),
        "<s>[INST] Where is Paris? [/INST]",
        "<s>[INST] Be brief.\n\nWhere is Paris? [/INST]In France.</s>[INST] And Rome? [/INST]",
    ),
    "Mistral 0.3": Family(
        "mistral",
        *("llama", "<s>", "</s>", True, ("[INST]", "[/INST]")),
        "<s>[INST] Where is Paris? [/INST]",
        "<s>[INST] Be brief.\n\nWhere is Paris? [/INST]In France.</s>[INST] And Rome? [/INST]",
    ),
    "Gemma": Family(
        "gemma",
        *("llama", "<bos>", "<eos>", True, ("<start_of_turn>", "<end_of_turn>")),
        "<bos><start_of_turn>user\nWhere is Paris?<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\nBe brief.\n\nWhere is Paris?<end_of_turn>\n"
        "<start_of_turn>model\nIn France.<end_of_turn>\n"
        "<start_of_turn>user\nAnd Rome?<end_of_turn>\n"
        "<start_of_turn>model\n",
    ),
    "Phi-3": Family(
        "phi3",
        *("llama", "<s>", "<|endoftext|>", True),
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "</s>"),
        "<|user|>\nWhere is Paris?<|end|>\n<|assistant|>\n",
        "<|system|>\nBe brief.<|end|>\n"
        "<|user|>\nWhere is Paris?<|end|>\n"
        "<|assistant|>\nIn France.<|end|>\n"
        "<|user|>\nAnd Rome?<|end|>\n"
        "<|assistant|>\n",
        name="Phi-3 mini",
    ),
    "Phi-4": Family(
        "phi4",
        *("gpt2", "<|endoftext|>", "<|im_end|>", False, ("<|im_start|>", "<|im_sep|>")),
        "<|im_start|>user<|im_sep|>Where is Paris?<|im_end|><|im_start|>assistant<|im_sep|>",
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|>"
        "<|im_start|>user<|im_sep|>Where is Paris?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>In France.<|im_end|>"
        "<|im_start|>user<|im_sep|>And Rome?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>",
    ),
    "Phi-4 mini": Family(
        "phi4-mini",
        *("gpt2", "<|endoftext|>", "<|end|>", False),
        ("<|system|>", "<|user|>", "<|assistant|>"),
        "<|user|>Where is Paris?<|end|><|assistant|>",
        "<|system|>Be brief.<|end|><|user|>Where is Paris?<|end|>"
        "<|assistant|>In France.<|end|><|user|>And Rome?<|end|><|assistant|>",
    ),
    "Zephyr": Family(
        "zephyr",
        *("llama", "<s>", "</s>", True, ()),
        "<|user|>\nWhere is Paris?</s>\n<|assistant|>\n",
        "<|system|>\nBe brief.</s>\n"
        "<|user|>\nWhere is Paris?</s>\n"
        "<|assistant|>\nIn France.</s>\n"
        "<|user|>\nAnd Rome?</s>\n"
        "<|assistant|>\n",
    ),
    "Granite": Family(
        "granite",
        *("gpt2", "<|end_of_text|>", "<|end_of_text|>", False),
        ("<|start_of_role|>", "<|end_of_role|>"),
        "<|start_of_role|>user<|end_of_role|>Where is Paris?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Where is Paris?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>In France.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>And Rome?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    "Vicuna": Family(
        "vicuna",
        *("llama", "<s>", "</s>", True, ()),
        f"{_VICUNA} USER: Where is Paris? ASSISTANT:",
        "Be brief. USER: Where is Paris? ASSISTANT: In France.</s>USER: And Rome? ASSISTANT:",
    ),
    "Puffin": Family(
        "puffin",
        *("gpt2", "<|endoftext|>", "<|endoftext|>", False, ()),
        f"{_PUFFIN}\nUSER: Where is Paris?\nASSISTANT:",
        "Be brief.\nUSER: Where is Paris?\nASSISTANT: In France.\nUSER: And Rome?\nASSISTANT:",
    ),
    "Alpaca": Family(
        "alpaca",
        *("gpt2", "<|endoftext|>", "<|endoftext|>", False, ()),
        "### Instruction:\nWhere is Paris?\n\n### Response:\n",
        "Be brief.\n\n### Instruction:\nWhere is Paris?\n\n### Response:\nIn France.\n\n"
        "### Instruction:\nAnd Rome?\n\n### Response:\n",
    ),
    "Instruct": Family(
        "instruct",
        *("gpt2", "<|endoftext|>", "<|endoftext|>", False, ()),
        "Instruct: Where is Paris?\nOutput:",
        "Be brief.\nInstruct: Where is Paris?\nOutput: In France.\nInstruct: And Rome?\nOutput:",
    ),
}


def own_template(name: str) -> str:
    """Return a template that behaves as that family's own, in the features that matter here."""
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text()


def control(model: Model, tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if model.is_control(token)]


def encode_masked(model: Model, template: ChatTemplate, messages: Sequence[Message]) -> list[int]:
    """The tokens of messages given as they are, whatever they hold, under masks."""

    def render(messages: Sequence[Message], _: Sequence[Tool]) -> str:
        return template.render(
            chat_variables(messages, bos_token=model.bos_token, eos_token=model.eos_token)
        )

    return list(encode._encode_masked(model, render, messages))
