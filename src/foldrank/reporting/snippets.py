"""The code a model card shows. Kept as whole programs so that a test can run exactly what a reader copies."""

from __future__ import annotations

GENAI = """\
import onnxruntime_genai as og

folder = "."  # the folder this file is in
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
params = og.GeneratorParams(model)
params.set_search_options(max_length={max_length}, do_sample=False)  # prompt and answer together, in tokens
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode("{prompt}"))
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
print()
"""
"""Greedy generation with onnxruntime-genai."""

CONTINUED = """\
seen = [int(token) for token in generator.get_sequence(0)]
generator.rewind_to(len(seen) - 2)
generator.append_tokens(seen[-2:] + [int(token) for token in tokenizer.encode(" It also")])
"""
"""More text after an answer with onnxruntime-genai. `append_tokens` alone leaves the token that was generated last out
of the cache: wrong logits where past and present share a buffer, an error where they do not."""

ORT = """\
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

folder = "."  # the folder this file is in
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
session = ort.InferenceSession(f"{{folder}}/model.onnx", providers={providers})
inputs = {{i.name: i for i in session.get_inputs()}}
outputs = [o.name for o in session.get_outputs()]
float_type = {{"tensor(float)": np.float32, "tensor(float16)": np.float16}}

ids = np.array([tokenizer.encode("{prompt}").ids], dtype=np.int64)
cache = {{  # empty: [batch, KV heads, 0 positions, head size]
    name: np.zeros((1, {heads}, 0, {head_size}), float_type[i.type])
    for name, i in inputs.items() if name.startswith("past_key_values.")
}}
seen, answer = 0, []
for _ in range({new_tokens}):
    seen += ids.shape[1]
    feeds = {{"input_ids": ids, "attention_mask": np.ones((1, seen), np.int64), **cache}}
    if "position_ids" in inputs:
        feeds["position_ids"] = np.arange(seen - ids.shape[1], seen, dtype=np.int64)[None]
    found = dict(zip(outputs, session.run(None, feeds)))
    cache = {{name: found[name.replace("past_key_values", "present")] for name in cache}}
    ids = found["logits"][:, -1:].argmax(-1).astype(np.int64)
    answer.append(int(ids[0, 0]))
print(tokenizer.decode(answer))
"""
"""Greedy generation with ONNX Runtime alone: prefill, then one token at a time with the key/value cache."""

TRANSFORMERS_JS = """\
import {{ env, pipeline }} from "@huggingface/transformers";

env.allowRemoteModels = false;
env.localModelPath = "..";  // the folder that holds this one; on the Hub give its id in the place of its name
const generate = await pipeline("text-generation", "{name}");
const [found] = await generate("{prompt}", {{ max_new_tokens: 32, do_sample: false }});
console.log(found.generated_text);
"""
"""Greedy generation with transformers.js, in Node or a browser."""

PROMPT = "The purpose of this proposal"


def genai(context: int | None) -> str:
    """The onnxruntime-genai program, its length within the model's context."""
    return GENAI.format(prompt=PROMPT, max_length=min(64, context or 64))


def ort(provider: str, heads: int, head_size: int) -> str:
    """The ONNX Runtime program for `cpu` or `cuda`, with the cache's key/value heads and head size."""
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"] if provider == "cuda" else ["CPUExecutionProvider"]
    return ORT.format(
        prompt=PROMPT, providers=str(names).replace("'", '"'), new_tokens=32, heads=heads, head_size=head_size
    )


def transformers_js(name: str = "this-folder") -> str:
    """The transformers.js program; `name` is the packaged folder's."""
    return TRANSFORMERS_JS.format(prompt=PROMPT, name=name)
