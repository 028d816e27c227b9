"""Text encoders: the shipped one, tiny models of transformers, and banks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from volseg.errors import ModelError, PromptError
from volseg.text.encoders import Pairing, TextEncoder, check_pair
from volseg.text.encoders.bank import EmbeddingBank
from volseg.text.encoders.compact import CompactEncoder, load_compact_encoder
from volseg.text.encoders.pretrained import Pooling, PretrainedEncoder
from volseg.text.encoders.train_compact import CompactTraining, names_by_structure, split_names, train_compact
from volseg.text.vocabulary import load_vocabulary

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "left", "right", "kidney", "liver", "spleen", "of", "the", "lobe", "lung"]


def word_tokenizer(**special):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", **special)


def tiny_model(kind, folder):
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        LlamaConfig,
        LlamaForCausalLM,
    )

    torch.manual_seed(3)
    size = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 24, "max_position_embeddings": 24}  # fmt: skip
    model = {
        "bert": lambda: BertModel(BertConfig(**size)),
        "clip": lambda: CLIPTextModelWithProjection(
            CLIPTextConfig(**size, projection_dim=12, eos_token_id=3, bos_token_id=2, pad_token_id=0)
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**size, pad_token_id=0)),
    }[kind]()
    model.save_pretrained(folder)
    word_tokenizer(padding_side="left" if kind == "llama" else "right").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["bert", "clip", "llama"])
def tiny(request, tmp_path_factory):
    return request.param, tiny_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def shipped():
    return load_compact_encoder()


class TestCompact:
    def test_it_is_an_encoder_of_a_few_megabytes(self, shipped, repository):
        assert isinstance(shipped, TextEncoder)
        assert (repository / "volseg" / "text" / "data" / "compact_encoder.safetensors").stat().st_size < 5e6
        vectors = shipped.encode(["left kidney", "", "腎臓", "a" * 5000, "\ud800"])
        assert vectors.shape == (5, shipped.dimension)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        assert shipped.encode([]).shape == (0, shipped.dimension)

    def test_a_vector_does_not_depend_on_its_company(self, shipped):
        texts = ["left kidney", "spleen", "third ventricle of the brain"]
        together = shipped.encode(texts)
        for row, text in zip(together, texts, strict=True):
            np.testing.assert_array_equal(shipped.encode([text])[0], row)

    def test_spelling_order_and_case_make_little_or_no_difference(self, shipped):
        a, b, c, d, e = shipped.encode(["left kidney", "KIDNEY, left", "lt kidney", "left kidny", "right kidney"])
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_allclose(a, c, atol=1e-6)
        assert a @ d > 0.8
        assert a @ e < a @ d - 0.2

    def test_held_out_synonyms_find_their_structure(self, shipped):
        """The synonyms that training did not see, against all names it saw; measured again here from the files."""
        settings = CompactTraining()
        kept, held = split_names(names_by_structure(load_vocabulary()), settings)
        known = [(base, name) for base, names in kept.items() for name in names]
        assert not {name for _, name in known} & set(held.values())
        alike = shipped.encode(list(held.values())) @ shipped.encode([name for _, name in known]).T
        found = [known[int(row.argmax())][0] for row in alike]
        share = np.mean([one == base for one, base in zip(found, held, strict=True)])
        assert len(held) > 250
        assert share > 0.65

    def test_left_and_right_are_never_mixed_up(self, shipped):
        names = [concept.name for concept in load_vocabulary() if f"{concept.id}_left" in load_vocabulary()]
        left, right = (shipped.encode([f"{side} {name}" for name in names]) for side in ("left", "right"))
        asked = shipped.encode([f"{name} on the left" for name in names])
        assert ((asked * left).sum(axis=1) > (asked * right).sum(axis=1)).all()

    def test_training_is_repeatable_and_learns(self, tmp_path):
        settings = CompactTraining(steps=12, structures=24, buckets=512, width=16, hidden=24, dimension=16)
        calls = []
        for name in ("a", "b"):
            train_compact(tmp_path / name, settings, progress=lambda part, text: calls.append(part))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert CompactEncoder.load(tmp_path / "a").sha256 == CompactEncoder.load(tmp_path / "b").sha256
        assert CompactEncoder.load(tmp_path / "a").dimension == 16
        assert calls[:12] == sorted(calls[:12])

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(b"no")
        for path in (tmp_path / "x.safetensors", tmp_path / "missing"):
            with pytest.raises(ModelError):
                CompactEncoder.load(path)


class TestPretrained:
    def test_each_kind_is_pooled_its_own_way(self, tiny):
        kind, folder = tiny
        encoder = PretrainedEncoder(folder)
        assert encoder.pooling is {"bert": Pooling.MEAN, "clip": Pooling.PROJECTED, "llama": Pooling.LAST}[kind]
        assert encoder.dimension == {"bert": 16, "clip": 12, "llama": 16}[kind]
        vectors = encoder.encode(["left kidney", "liver"])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        assert encoder.encode([]).shape == (0, encoder.dimension)

    def test_padding_changes_nothing(self, tiny):
        encoder = PretrainedEncoder(tiny[1])
        texts = ["liver", "left lobe of the liver", "the right kidney"]
        alone = np.concatenate([encoder.encode([text]) for text in texts])
        np.testing.assert_allclose(encoder.encode(texts), alone, atol=2e-5)

    def test_the_vectors_are_those_of_the_model(self, tiny):
        import torch
        from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection

        kind, folder = tiny
        ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("the left kidney")["input_ids"]])
        with torch.inference_mode():
            if kind == "clip":
                expected = CLIPTextModelWithProjection.from_pretrained(folder)(ids).text_embeds[0]
            else:
                states = AutoModel.from_pretrained(folder)(ids).last_hidden_state[0]
                expected = states.mean(dim=0) if kind == "bert" else states[-1]
        expected = expected.numpy() / np.linalg.norm(expected.numpy())
        np.testing.assert_allclose(PretrainedEncoder(folder).encode(["the left kidney"])[0], expected, atol=2e-5)

    def test_the_hash_is_of_weights_and_pooling(self, tmp_path):
        import torch
        from transformers import AutoModel

        folder = tiny_model("bert", tmp_path / "a")
        first = PretrainedEncoder(folder).sha256
        assert PretrainedEncoder(folder).sha256 == first
        assert PretrainedEncoder(folder, pooling=Pooling.LAST).sha256 != first
        model = AutoModel.from_pretrained(folder)
        with torch.no_grad():
            model.encoder.layer[0].output.dense.bias[0] += 1e-3
        model.save_pretrained(folder)
        assert PretrainedEncoder(folder).sha256 != first

    def test_what_is_no_model_is_refused(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
        with pytest.raises(ModelError, match="no text model"):
            PretrainedEncoder(tmp_path)


class TestBank:
    def test_it_gives_what_the_encoder_gave(self, shipped, tmp_path):
        bank = EmbeddingBank.build(shipped, ["left kidney", "spleen", "spleen"])
        bank.save(tmp_path / "bank.safetensors")
        again = EmbeddingBank.load(tmp_path / "bank.safetensors")
        assert isinstance(again, TextEncoder)
        assert again.texts == ("left kidney", "spleen")
        np.testing.assert_array_equal(
            again.encode(["Spleens", "left kidney"]), shipped.encode(["spleen", "left kidney"])
        )
        assert again.sha256 == shipped.sha256
        check_pair(again, shipped.sha256)

    def test_other_texts_are_refused(self, shipped):
        with pytest.raises(PromptError, match="'liver'"):
            EmbeddingBank.build(shipped, ["spleen"]).encode(["spleen", "liver"])

    def test_changed_vectors_are_refused(self, shipped, tmp_path):
        path = tmp_path / "bank.safetensors"
        EmbeddingBank.build(shipped, ["spleen"]).save(path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(ModelError, match="changed"):
            EmbeddingBank.load(path)

    def test_numbers_of_texts_and_vectors_agree(self):
        with pytest.raises(ModelError, match="one vector a text"):
            EmbeddingBank(["a", "b"], np.zeros((1, 3), dtype=np.float32), "0" * 64)


class TestPairing:
    def test_a_mismatch_is_refused_on_either_side(self, shipped):
        weights = "ab" * 32
        pairing = Pairing.loads(Pairing(shipped.sha256, weights).dumps())
        pairing.check(shipped.sha256, weights)
        with pytest.raises(ModelError, match="text encoder"):
            pairing.check("cd" * 32, weights)
        with pytest.raises(ModelError, match="segmenter"):
            pairing.check(shipped.sha256, "cd" * 32)
        with pytest.raises(ModelError, match="trained together"):
            check_pair(shipped, "cd" * 32, model="text-nano")

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"encoder_sha256": "x", "segmenter_sha256": "y"}', "null"])
    def test_a_damaged_file_is_refused(self, text):
        with pytest.raises(ModelError):
            Pairing.loads(text)
