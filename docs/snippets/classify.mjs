// A picture's labels by a shipped file alone, with onnxruntime-web, in a browser or in node:
//   const model = await open(ort, bytes)           // `bytes` of the file, a Uint8Array
//   await model.classify(rgb)                      // [["with_mask", 0.98]], [] where it abstains
// `rgb` is a Uint8Array of height x width x 3, resized to the model's input by the rule of `spec`.

const text = new TextDecoder();

/** Fields of a protobuf message, [number, bytes or value]: ONNX files are such messages. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let unit = 1; ; unit *= 128) {
      value += (bytes[at] & 127) * unit;
      if (bytes[at++] < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint(), kind = key & 7;
    const size = { 1: 8, 2: kind === 2 && varint(), 5: 4 }[kind];
    yield [key >> 3, kind ? bytes.subarray(at, (at += size)) : varint()];
  }
}

/** `metadata_props`, field 14 of a model: a key and a JSON value each. */
function metadataOf(bytes) {
  const props = [...fields(bytes)].filter(([number]) => number === 14);
  const pairs = props.map(([, prop]) => [...fields(prop)].map(([, part]) => text.decode(part)));
  return Object.fromEntries(pairs.map(([key, value]) => [key, JSON.parse(value)]));
}

export async function open(ort, bytes) {
  const { names, task, thresholds, input_spec: spec } = metadataOf(bytes);
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const least = (name) => Math.fround(thresholds[name] ?? (task === "multi" ? 0.5 : 0));
  async function classify(rgb) {
    const image = new ort.Tensor("uint8", rgb, [1, spec.height, spec.width, 3]);
    const { prob } = await session.run({ image }, ["prob"]);
    const ranked = names.map((name, i) => [name, prob.data[i]]).sort((a, b) => b[1] - a[1]);
    const asked = task === "multi" ? ranked : ranked.slice(0, 1);
    return asked.filter(([name, p]) => p >= least(name));
  }
  return { names, spec, classify };
}
