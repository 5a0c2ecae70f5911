"""Golden data for prompt cleaning, tokenizers and the text encoder, from diffusers, transformers and sentencepiece.

    python tools/golden_text.py tests/golden

Writes text/prompts.json (prompts, cleaned prompts, ids per tokenizer), three small tokenizers trained here on the
sentences below (text/t5: spiece.model alone; text/umt5: tokenizer.json with byte pieces, loaded as T5Tokenizer;
text/generic: a tokenizer.json that is used as it is written), and random UMT5 encoders (text/encoder_*) with their
outputs (text_encoder_*.safetensors; text_encoder_reference: those of the reference model).
"""

import base64
import io
import json
import os
import shutil
import sys
import tempfile

import sentencepiece
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors.torch import save_file
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIMIT = 512

SENTENCES = {
    "english": """A large red star is spinning slowly on a navy background.
A lighthouse in a storm, waves breaking against the rocks, cinematic lighting, 35mm film.
Two anthropomorphic cats in comfy boxing gear fight intensely on a spotlighted stage.
The camera pans left as the old man opens his umbrella; it's raining heavily.
Close-up of a hummingbird hovering over a hibiscus flower, 120 fps, shallow depth of field.
A time-lapse of clouds moving over the mountains at sunset, ultra-detailed, 4K (no text, no watermark).
He said: "Don't move!" - and then everything stopped...
An astronaut rides a horse on Mars; dust rises behind them, and 3 moons hang in the sky.
Bright tones, overexposed, static, blurred details, subtitles, worst quality, low quality, ugly, deformed.
a small green circle moving right on a black background""",
    "german": """Ein großer weißer Hund läuft über eine grüne Wiese, während die Sonne untergeht.
Übermütige Kinder spielen im Schnee vor einem alten Fachwerkhaus.
Die Straßenbahn fährt durch die regennasse Stadt, Lichter spiegeln sich in den Pfützen.
Nahaufnahme einer Tasse heißen Kaffees, Dampf steigt auf.
Ein Raumschiff landet langsam in der Wüste, Staub wirbelt auf.""",
    "french": """Une vieille dame nourrit des pigeons à côté d'une fontaine, l'été, à Paris.
Le château apparaît derrière les nuages ; la caméra s'élève doucement.
Un garçon court après son cerf-volant sur la plage, au coucher du soleil.
Gros plan sur des mains qui pétrissent la pâte à pain, lumière chaude.
Où est passé le cœur de la forêt ? Ça brûle déjà…""",
    "spanish": """Un niño pequeño corre detrás de una cometa roja en la playa.
¿Dónde está el corazón de la montaña? ¡Qué paisaje más increíble!
La cámara gira alrededor de una bailarina de flamenco, luz cálida, fondo oscuro.
Una ciudad futurista bajo la lluvia, coches voladores y luces de neón.""",
    "portuguese": """Um cão dorme à sombra de uma árvore enquanto as crianças brincam.
A televisão está ligada; a avó faz pão na cozinha e não ouve ninguém.
Ação! O avião decola sobre o mar, câmera lenta.""",
    "polish": """Mały żółty samochód jedzie przez zaśnieżony las o świcie.
Źrebię galopuje po łące, słońce zachodzi za wzgórzami.
Zażółć gęślą jaźń: stary zegar na wieży wybija północ.""",
    "turkish": """Küçük bir kız, İstanbul'da yağmur altında kırmızı şemsiyesiyle yürüyor.
Gün batımında boğazın üzerinde uçan martılar, sıcak ışık.""",
    "vietnamese": """Một cô gái mặc áo dài trắng đi xe đạp qua cánh đồng lúa xanh.
Những chiếc đèn lồng bay lên bầu trời đêm ở Hội An.""",
    "chinese": """一只可爱的小猫在草地上追逐蝴蝶,阳光明媚,电影感镜头。
色调艳丽,过曝,静态,细节模糊不清,字幕,风格,作品,画作,画面,静止,整体发灰,最差质量,低质量
宇航员在火星上骑马,尘土飞扬,远处有三个月亮。
镜头缓缓推进,老人打开雨伞,雨下得很大。
夜晚的城市街道,霓虹灯在积水中反射,一辆红色汽车驶过。""",
    "japanese": """桜の花びらが舞い散る中、着物を着た女性がゆっくりと歩いている。
東京の夜景、ネオンサインが輝く雨の街、カメラは左にパンする。
小さなロボットがコーヒーを淹れている、暖かい光、アニメ風。
波が岩に打ち寄せる灯台、嵐の夜。""",
    "korean": """한복을 입은 소녀가 벚꽃 아래에서 춤을 추고 있다.
비 오는 서울의 밤거리, 네온사인이 젖은 도로에 비친다.
작은 강아지가 눈밭을 뛰어다니고 카메라가 천천히 따라간다.""",
    "russian": """Большая красная звезда медленно вращается на тёмном фоне.
Старый маяк во время шторма, волны разбиваются о скалы.
Девочка кормит голубей у фонтана, солнечный летний день.
Космонавт скачет на лошади по Марсу, за ним поднимается пыль.""",
    "greek": """Ένα μικρό καΐκι πλέει στο Αιγαίο, ο ήλιος δύει πίσω από το νησί.""",
    "arabic": """جمل يمشي في الصحراء عند غروب الشمس، والرمال ذهبية.
طفلة صغيرة تطلق طائرة ورقية حمراء على الشاطئ.
مَدِينَةٌ قَدِيمَةٌ تَحْتَ المَطَر، ٣ أقمار في السماء""",
    "hebrew": """ילד קטן רץ על החוף עם עפיפון אדום.""",
    "hindi": """एक बड़ा लाल तारा गहरे नीले आकाश में धीरे-धीरे घूम रहा है।
बारिश में छाता लिए एक बूढ़ा आदमी सड़क पर चल रहा है।
क्षितिज पर सूर्यास्त, नदी में नाव, सिनेमाई प्रकाश।""",
    "thai": """แมวน้อยสีขาวกำลังวิ่งเล่นในทุ่งหญ้าตอนพระอาทิตย์ตก""",
}

ODDITIES = [
    "", " ", "\n\t \r\n", "a", "\u2581", "\u2581\u2581a\u2581b", "a \u2581 b",
    # white space of every kind
    "two  spaces   and    more", "line one\nline two\r\nline three\rline four\u2028five\u2029six\u0085seven",
    "\ttabs\tand\u00a0no-break\u2003em\u3000ideographic\u200bzero\u202fnarrow", "  leading and trailing  ",
    # special tokens as text
    "</s>", "<pad>", "<unk>", "<s>", "a</s>b", "a </s> b", "</s></s> <pad><unk> x", "red <pad> star", "<PAD> </S>",
    "<extra_id_0> is <extra_id_1>", "[MASK] <mask> <|endoftext|>", "<0x41><0xE6>", "pad></s", "<pad", "</ s>",
    # references
    "fish &amp; chips &lt;3 &quot;nice&quot;", "caf&eacute; &Eacute;t&eacute; &EACUTE; &hearts; &copy 2024 &notit;",
    "&amp;amp;lt; double &amp;quot;escaped&amp;quot;", "&#8217;s &#x2019;s &#39;s &#128512; &#x1F600; &#0; &#xD800; &#99999999;",
    "<b>bold &amp; brave</b>\nnext &amp; line", "a & b &; &# &#x; &unknown; AT&T &ampx R&D;", "&nbsp;&nbsp;spaced&nbsp;out&emsp;",
    "x &lt; y &gt; z &le; &ge; &ne; &infin; &alpha;&beta;", "&NotEqualTilde; &nvlt; &fjlig; &ThickSpace;",
    # quotes, ligatures, width, control characters
    "\u201ccurly\u201d \u2018quotes\u2019 \u201elow\u201c \u00abguillemets\u00bb \u2039single\u203a it\u02bcs \u201bx\u201f",
    "of\ufb01ce \ufb02uffy \ufb00 \ufb03 \ufb04 \ufb05 \ufb06 \u0132sselmeer \u01c6 \u0149",
    "\uff26\uff55\uff4c\uff4c\uff0d\uff37\uff49\uff44\uff54\uff48\u3000\uff34\uff25\uff38\uff34\uff01\uff1f\uff08\uff11\uff12\uff13\uff09\uff0c\u3002",
    "\uff76\uff80\uff76\uff85 \uff8a\uff9e\uff8b\uff9f \uffa1\uffc2 \uffe5\uffe1\uffe3",
    "\x1b[31mred\x1b[0m \x1b[1;32;40mgreen \x07bell\x08 \x7f del \ufeffbom \ufffc object \u200e\u200f marks \u206a",
    "c1 \x80\x85\x91\x92\x93\x94\x99\x81 controls",
    # composition
    "e\u0301 a\u0308 o\u0302\u0323 \u1e9b\u0323 A\u030a \u212b \u2126 \u1100\u1161\u11a8 \u0958 \u0915\u093c",
    "\ufb01\u0301 \u00bd\u0301 \u2460\u20dd #\ufe0f\u20e3 1\ufe0f\u20e3 \u00a8\u0301 \u0e33 \u1e9a\u0301 \u00aa\u0327",
    "\u00b2\u00b3\u00b9 \u2153 \u2167 \u33a1 \u2122 \u2120 \u32a3 \u337b \ufdfa \u1d2c \U0001d54f \U0001f130",
    # emoji
    "\U0001f600\U0001f602 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u2764\ufe0f \u263a \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "\U0001f680\U0001f680\U0001f680 to the moon\U0001f319!!!",
    # runs, where many segmentations have the same score
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "!!!!!!!!!!!!!!!!!!!!", "...........................", "hahahahahahahaha", "nooooooooooo",
    "------------------------", "0000000000000000", "1234567890 3.14159 1,000,000 2x 4K 16:9 24fps", "ссссссссссс", "哈哈哈哈哈哈哈哈哈", "ははははははは",
    # rare scripts and symbols: unknown characters and their runs
    "\u13a0\u13a1\u13a2 \u16a0\u16a2 \U00010330\U00010331 \u0f40\u0f0b \u1780\u17d2\u1798 \u10d0\u10d1 \u0531\u0532",
    "\u2200x\u2203y \u2211 \u222b \u221a2 \u2248 \u2260 \u2264 \u2192 \u21d2 \u2588\u2592 \u2605\u2606 \u266a\u266b",
    "https://example.org/a_b?c=d&e=f#g user@example.org C:\\path\\file.txt {json: [1, 2]} $5 50% ^ ~ ` | _",
    "Mixed \u4e2d\u6587 and English\u6df7\u5408 \u3068\u65e5\u672c\u8a9e \uadf8\ub9ac\uace0 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 text",
    "supercalifragilisticexpialidocious Donaudampfschifffahrtsgesellschaftskapit\u00e4n",
    "a cat\u2014no, a dog\u2013chases\u2026 its tail\u2122 for \u20ac5 at 20\u00b0C \u00b1 3%", "\u00bfQu\u00e9? \u00a1S\u00ed! na\u00efve fa\u00e7ade \u0153uvre \u00e6on \u00f8re \u00e5",
    "16:9, 24 fps, f/1.8, ISO 800 --no text --ar 2:1 (masterpiece:1.2), [blurry], {a|b}", "\u300c\u5f15\u7528\u300d\u300e\u4e8c\u91cd\u300f\u3010\u62ec\u5f27\u3011\u300a\u66f8\u540d\u300b\u3001\u3002\u30fb\uff5e",
    "one\ttwo\x0bthree\x0cfour\x1cfive", "\u0627\u0644\u0633\u0644\u0627\u0645\u200f\u200e \u0639\u0644\u064a\u0643\u0645\u061f \u0640\u0640\u0640", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f \u0964\u0964", "\u304b\u3099\u304d\u3099 \u30cf\u309a \uff8a\uff9f",
    "UPPER CASE lower case MiXeD cAsE", "\u0130\u0131 \u00df\u1e9e \u03c2\u03c3 \u01c4",
]


def prompts():
    texts = []
    for block in SENTENCES.values():
        lines = block.split("\n")
        texts += lines
        for i, line in enumerate(lines):  # each once more, disturbed in one of many ways
            other = lines[(i + 1) % len(lines)]
            texts.append(
                [
                    line.upper(),
                    line.replace(" ", "  ") + "\n" + other,
                    line + " </s> " + other,
                    "\u201c" + line.replace("'", "\u2019") + "\u201d &amp; more",
                    "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in line),
                    line[: len(line) // 2] + "<pad>" + line[len(line) // 2 :],
                    line.replace(" ", "\u00a0") + "\ufeff\u200b\U0001f600",
                ][(i + len(line)) % 7]
            )
            texts.append(line[i % 5 :: 2])  # nonsense in the right script
    words = " ".join(" ".join(block.split("\n")) for block in SENTENCES.values())
    texts += [words[i : i + 37 + i % 50] for i in range(0, len(words), 75)]
    texts += [words, words[::-1][:3000], SENTENCES["chinese"] * 12, "a " * 600, "x" * 1500, "<pad>" * 600, "</s>" * 3]
    texts += ODDITIES
    return list(dict.fromkeys(texts))


def train(path, **options):
    """A unigram model over the sentences; the file is all that is kept."""
    lines = [line for block in SENTENCES.values() for line in block.split("\n")] * 3
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", hard_vocab_limit=False,
        minloglevel=2, num_threads=1, **options,
    )
    with open(path, "wb") as f:
        f.write(model.getvalue())


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


# A small normalisation table of our own: keys of several characters, of which some begin with others.
RULES = [
    ("\u00a0", " "), ("\u3000", " "), ("\uff0c", ","), ("\ufb01", "fi"), ("\u00bd", "1/2"), ("\u00aa", "a"), ("\u2026", "..."),
    ("e\u0301", "\u00e9"), ("a\u0308", "\u00e4"), ("o\u0302", "\u00f4"), ("o\u0302\u0323", "\u1ed9"), ("\u0430\u0301", "\u0430"),
    ("\u00e8\u0327", "e"), ("\u00e8", "e\u0300"), ("\U0001f600", ":)"), ("\u0e4d\u0e32", "\u0e33"), ("\u200b", ""), ("\u064e", ""),
]


def small_rules(folder):
    path = os.path.join(folder, "rules.tsv")
    with open(path, "w") as f:
        for key, value in RULES:
            f.write(" ".join("%X" % ord(c) for c in key) + "\t" + " ".join("%X" % ord(c) for c in value) + "\n")
    return path


def make_tokenizers(folder):
    """Directories as checkpoints have them; returns their names."""
    t5, umt5, generic = (os.path.join(folder, name) for name in ("t5", "umt5", "generic"))
    for path in (t5, umt5, generic):
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
    train(os.path.join(t5, "spiece.model"), vocab_size=1500, character_coverage=0.995, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
          normalization_rule_name="nmt_nfkc")
    write_json(os.path.join(t5, "tokenizer_config.json"), {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})

    with tempfile.TemporaryDirectory() as scratch:
        spiece = os.path.join(scratch, "spiece.model")
        train(spiece, vocab_size=1200, character_coverage=0.98, pad_id=0, eos_id=1, bos_id=2, unk_id=3, byte_fallback=True,
              normalization_rule_tsv=small_rules(scratch), user_defined_symbols=["<extra_id_1>", "<extra_id_0>"])
        write_json(os.path.join(scratch, "tokenizer_config.json"), {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
        tokenizer = AutoTokenizer.from_pretrained(scratch)
        tokenizer.save_pretrained(umt5)
    if os.path.exists(os.path.join(umt5, "spiece.model")):
        os.remove(os.path.join(umt5, "spiece.model"))

    # The same vocabulary as older converters wrote it: unknown is 3, bytes stand in for unknown characters.
    with open(os.path.join(umt5, "tokenizer.json"), encoding="utf-8") as f:
        file = json.load(f)
    file["model"].update(unk_id=3, byte_fallback=True)
    file["normalizer"] = {"type": "Sequence", "normalizers": [
        file["normalizer"], {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}]}
    file["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    write_json(os.path.join(generic, "tokenizer.json"), file)
    write_json(os.path.join(generic, "tokenizer_config.json"), {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})


# name: (layers, heads, d_kv, d_model, d_ff, vocabulary, buckets, max_distance, dtype, token counts)
ENCODERS = {
    "odd": (3, 3, 10, 24, 40, 61, 32, 128, torch.float32, [1, 2, 7, 300]),
    "buckets": (2, 5, 16, 40, 48, 45, 20, 50, torch.bfloat16, [9, 300]),
    "wide": (2, 4, 32, 16, 24, 50, 9, 21, torch.float16, [64, 130]),
    "many_heads": (1, 13, 4, 20, 33, 40, 64, 512, torch.float32, [512]),
}


def random_encoder(seed, layers, heads, d_kv, d_model, d_ff, vocabulary, buckets, distance, dtype):
    """Weights large enough that attention is far from uniform."""
    config = UMT5Config(
        num_layers=layers, num_heads=heads, d_kv=d_kv, d_model=d_model, d_ff=d_ff, vocab_size=vocabulary,
        relative_attention_num_buckets=buckets, relative_attention_max_distance=distance, feed_forward_proj="gated-gelu",
        dropout_rate=0.0, is_encoder_decoder=True,
    )
    model = UMT5EncoderModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "layer_norm" in name:
                value = 1 + 0.2 * noise
            elif "bias" in name or "shared" in name:
                value = noise
            else:
                value = noise * 1.5 / p.shape[-1] ** 0.5
            p.copy_(value.to(dtype))  # the values a file of this type can hold; the arithmetic below is float32
    return model


def encoder_rows(model, sequences):
    """{name: tensor} of ids and float32 rows, one pair for each sequence."""
    tensors = {}
    with torch.no_grad():
        for i, ids in enumerate(sequences):
            tensors["ids_%d" % i] = ids.to(torch.int32)
            tensors["rows_%d" % i] = model(ids[None]).last_hidden_state[0].contiguous()
    return tensors


def make_encoders(out_dir, folder):
    for seed, (name, (*sizes, dtype, counts)) in enumerate(ENCODERS.items()):
        model = random_encoder(seed, *sizes, dtype)
        generator = torch.Generator().manual_seed(100 + seed)
        tensors = encoder_rows(model, [torch.randint(0, sizes[5], (n,), generator=generator) for n in counts])
        tensors["sizes"] = torch.tensor(sizes, dtype=torch.int32)
        save_file(tensors, os.path.join(out_dir, "text_encoder_%s.safetensors" % name))
        weights = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
        unwanted = "encoder.embed_tokens.weight" if name != "buckets" else "shared.weight"
        weights.pop(unwanted)  # both are the same tensor; checkpoints have one or the other
        path = os.path.join(folder, "encoder_" + name)
        os.makedirs(path, exist_ok=True)
        save_file(weights, os.path.join(path, "model.safetensors"))

    reference = os.path.join(REPOSITORY, "models/reference")
    model = UMT5EncoderModel.from_pretrained(os.path.join(reference, "text_encoder"), torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(reference, "tokenizer"))
    prompts = ["", "a large red star spinning on a navy background", SENTENCES["english"][:200]]
    ids = [torch.tensor(tokenizer(prompt_clean(p), truncation=True, max_length=LIMIT).input_ids) for p in prompts]
    c = model.config
    tensors = encoder_rows(model, ids)
    tensors["sizes"] = torch.tensor(
        [c.num_layers, c.num_heads, c.d_kv, c.d_model, c.d_ff, c.vocab_size, c.relative_attention_num_buckets,
         c.relative_attention_max_distance], dtype=torch.int32)
    save_file(tensors, os.path.join(out_dir, "text_encoder_reference.safetensors"))


def make(out_dir):
    folder = os.path.join(out_dir, "text")
    os.makedirs(folder, exist_ok=True)
    make_tokenizers(folder)
    texts = prompts()
    cleaned = [prompt_clean(text) for text in texts]
    ids = {}
    for name in ("reference", "t5", "umt5", "generic"):
        path = os.path.join(REPOSITORY, "models/reference/tokenizer") if name == "reference" else os.path.join(folder, name)
        tokenizer = AutoTokenizer.from_pretrained(path)
        ids[name] = [tokenizer(text, truncation=True, max_length=LIMIT, add_special_tokens=True).input_ids for text in cleaned]
    changed = [clean if clean != text else None for text, clean in zip(texts, cleaned)]
    write_json(os.path.join(folder, "prompts.json"), {"prompts": texts, "cleaned": changed, "ids": ids})
    make_encoders(out_dir, folder)


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
