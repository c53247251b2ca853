// Greedy tokens of packaged folders with transformers.js, offline:
//   node node_transformers.mjs NODE_MODULES FOLDER PROMPT(JSON) COUNT NAME...  ->  name -> {tokens, text, own, batch}
import { createRequire } from 'node:module';

const [modules, folder, prompt, count, ...names] = process.argv.slice(2);
const { env, pipeline, Tensor } = createRequire(modules + '/')('@huggingface/transformers');
env.allowRemoteModels = false;
env.localModelPath = folder;
const ids = JSON.parse(prompt);
const whole = (values) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
const found = {};
for (const name of names) {
  const generate = await pipeline('text-generation', name);
  const tokens = await generate.model.generate({
    inputs: whole(ids), attention_mask: whole(ids.map(() => 1)), do_sample: false,
    max_new_tokens: Number(count), min_new_tokens: Number(count),
  });
  const padded = [ids, ids.map((id, at) => (at < 2 ? 0 : id))];
  const mask = [ids.map(() => 1), ids.map((_, at) => (at < 2 ? 0 : 1))];
  const both = (rows) => new Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), [2, ids.length]);
  const batch = await generate.model.generate({
    inputs: both(padded), attention_mask: both(mask), do_sample: false,
    max_new_tokens: Number(count), min_new_tokens: Number(count),
  });
  const [answer] = await generate('Hello ', { do_sample: false, max_new_tokens: 8 });
  found[name] = {
    tokens: tokens.tolist()[0].map(Number).slice(ids.length), text: answer.generated_text,
    batch: batch.tolist().map((row) => row.map(Number).slice(ids.length)),
    own: Array.from((await generate.tokenizer('Hello ')).input_ids.data, Number),
  };
}
console.log(JSON.stringify(found));
