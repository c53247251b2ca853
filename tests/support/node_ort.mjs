// Greedy tokens of bundles with onnxruntime-node:
//   node node_ort.mjs NODE_MODULES PROMPT(JSON) COUNT BUNDLE...  ->  one JSON object: bundle -> {tokens, logits}
import { createRequire } from 'node:module';

const [modules, prompt, count, ...bundles] = process.argv.slice(2);
const ort = createRequire(modules + '/')('onnxruntime-node');
const whole = (values) => new ort.Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
const found = {};
for (const bundle of bundles) {
  const session = await ort.InferenceSession.create(bundle + '/model.onnx');
  const past = session.inputMetadata.filter((port) => port.name.startsWith('past_key_values.'));
  let cache = Object.fromEntries(past.map((port) => {
    const shape = port.shape.map((size) => ({ batch_size: 1, past_sequence_length: 0 })[size] ?? size);
    return [port.name, new ort.Tensor(port.type, new Float32Array(0), shape)];
  }));
  let ids = JSON.parse(prompt), seen = 0, logits = null;
  const tokens = [];
  while (tokens.length < Number(count)) {
    seen += ids.length;
    const feeds = { input_ids: whole(ids), attention_mask: whole(Array(seen).fill(1)), ...cache };
    if (session.inputNames.includes('position_ids')) feeds.position_ids = whole(ids.map((_, i) => seen - ids.length + i));
    const output = await session.run(feeds);
    const last = Array.from(output.logits.data.slice(-output.logits.dims[2]));
    logits ??= last;
    cache = Object.fromEntries(past.map(({ name }) => [name, output[name.replace('past_key_values', 'present')]]));
    ids = [last.indexOf(Math.max(...last))];
    tokens.push(...ids);
  }
  found[bundle] = { tokens, logits };
}
console.log(JSON.stringify(found));
