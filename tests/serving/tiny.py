"""A tiny model with random weights and a tiny index, published as real ones are."""

from app.core.digests import digest_bytes

CHUNKS = [
    (["Accounts", "Harbour account"], "A Harbour account has a yearly fee of 2,000 euros. It is paid in May."),
    (["Accounts", "Meadow account"], "A Meadow account is free of charge for members under 26."),
    (["Loans", "Decisions"], "The branch manager decides on loans of up to 50,000 euros within three days."),
    (["Members", "Joining"], "Whoever lives in the valley may join the cooperative with one share."),
]


def publish_index(registry, folder, *, retriever=None, most=1000, more=()):
    """An index over ``CHUNKS``, with the pinned encoder or a retriever's; divided into shards of ``most`` chunks.

    ``more`` has further chunks: heading path, text, access labels.
    """
    import numpy as np

    from app.inference.retrievers import find_source
    from app.retrieval.shards import write_shards

    folder.mkdir()
    rows = [
        {
            "chunk_id": digest_bytes(text.encode()),
            "document_id": digest_bytes(heading[0].encode()),
            "source": f"{heading[0].lower()}.md",
            "title": heading[0],
            "heading_path": heading,
            "ordinal": ordinal,
            "text": text,
            **({"access_labels": labels} if more else {}),
        }
        for ordinal, (heading, text, labels) in enumerate([*((*each, []) for each in CHUNKS), *more])
    ]
    source = find_source(retriever, registry=registry)
    vectors = source.load_encoder().encode_apart([row["text"] for row in rows])
    layout = write_shards(folder, vectors, rows, windows=np.arange(len(rows)), most=most)
    parents = [retriever.digest] if retriever else []
    inputs = {"chunks": len(rows), "encoder": source.encoder, "most": most}
    facts = source.facts() | {"num_shards": len(layout.starts)}
    return registry.publish("index", "serving-test", folder=folder, inputs=inputs, parents=parents, facts=facts)


def publish_model(registry, folder, *, name, seed):
    """A Llama of a few thousand parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    vocabulary = save_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return registry.publish("model", name, folder=folder, inputs={"seed": seed}, facts={"recipe": "random"})


def publish_adapter(registry, folder, *, base, seed):
    """A LoRA adapter with random weights on a model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(registry.folder(base)), config).save_pretrained(folder)
    facts = {"recipe": "lora", "base": base.digest}
    return registry.publish("model", "adapted", folder=folder, inputs={"seed": seed}, facts=facts)


def save_tokenizer(folder):
    """A byte-level tokenizer with the chat's special tokens; the size of its vocabulary comes back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from app.inference.chat import CHAT_TEMPLATE

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for _, text in CHUNKS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)
