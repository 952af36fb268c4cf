"""A BERT of a few thousand random weights, with a tokenizer of a few words, in a folder as encoders come."""

from pathlib import Path

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] . , ? a account annual card close closing day days does euros fee fees for free "
    "how in is it lost may may office one opening paid pays school statement summer the what when where who year"
)


def write_encoder(
    folder: Path,
    *,
    dim: int = 32,
    num_heads: int = 4,
    num_layers: int = 1,
    seed: int = 0,
    num_labels: int | None = None,
    scale: float = 1.0,
    **config,
):
    """Write config, weights and tokenizer; the folder comes back. ``config`` goes over what ``config.json`` says.

    With ``num_labels`` it is a cross-encoder; with a ``scale`` of 6 or so, random weights tell texts apart.
    """
    import json

    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, BertModel
    from transformers.utils import logging

    words = list(dict.fromkeys(WORDS.split()))
    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    shape = BertConfig(
        vocab_size=len(words), hidden_size=dim, num_attention_heads=num_heads, num_hidden_layers=num_layers,
        intermediate_size=2 * dim, max_position_embeddings=64, num_labels=num_labels or 2,
    )  # fmt: skip
    model = BertForSequenceClassification(shape) if num_labels else BertModel(shape, add_pooling_layer=False)
    for weight in model.parameters():
        weight.data.mul_(scale if weight.ndim == 2 else 1)
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
