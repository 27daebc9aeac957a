// The model in the browser: onnxruntime-web on the processor, or on the graphics card.

import { decide, Trouble } from "./answer.js";
import { outlierTest } from "./outliers.js";
import { decode, toPixels } from "./picture.js";

const RUNTIMES = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };

/** Opens the model of a folder. Pictures are decoded here and go nowhere. */
export async function openLocal(spec, device) {
  if (device === "webgpu" && !(await navigator.gpu?.requestAdapter()))
    throw new Trouble("This browser offers no graphics card (WebGPU)");
  const base = new URL(spec.runtime, document.baseURI).href;
  const ort = await import(base + RUNTIMES[device]);
  ort.env.wasm.wasmPaths = base;
  ort.env.logLevel = "error";
  const [model] = spec.models;
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: [device] });
  const isOutlier = model.outliers ? outlierTest(model.outliers) : () => undefined;

  async function run(pixels) {
    const { height, width } = model.input_spec;
    const image = new ort.Tensor("uint8", new Uint8Array(pixels), [1, height, width, 3]);
    const { prob, cam, embedding } = await session.run({ image });
    return { probs: [...prob.data], cam, outlier: isOutlier(embedding?.data) };
  }

  async function classify(source, { why }) {
    const start = performance.now();
    const picture = await pixelsOf(source);
    const pixels = toPixels(picture, model.input_spec);
    const before = performance.now();
    const { cam, ...said } = await run(pixels);
    const end = performance.now();
    const map = why && cam ? mapOf(cam, said.probs, model) : null;
    return {
      size: [picture.width, picture.height], regions: [{ box: null, map, ...said }],
      ms: { total: end - start, model: end - before },
    };
  }

  return {
    classify, atOnce: 1,
    check: () => checkGolden(run, model, spec.tolerance), close: () => session.release(),
  };
}

async function pixelsOf(source) {
  if (source instanceof OffscreenCanvas)
    return source.getContext("2d").getImageData(0, 0, source.width, source.height);
  try {
    return await decode(source);
  } catch {
    throw new Trouble("This is not a picture that the browser can read.");
  }
}

// The activation map of the first label, or of the likeliest class where there is none.
function mapOf(cam, probs, model) {
  const [, , h, w] = cam.dims, { order, chosen } = decide(probs, model, null);
  const label = chosen[0] ?? order[0];
  const values = cam.data.slice(label * h * w, (label + 1) * h * w);
  return { label: model.names[label], shape: [h, w], values };
}

/** Golden vectors: pictures whose pixels and probabilities were computed where the file was made. */
async function checkGolden(run, model, tolerance) {
  const found = { pixels: 0, prob: 0, n: 0 };
  for (const { picture, pixels, prob } of await (await fetch("golden.json")).json()) {
    const blobs = await Promise.all([picture, pixels].map(async (url) => (await fetch(url)).blob()));
    const ours = toPixels(await decode(blobs[0]), model.input_spec);
    const theirs = (await decode(blobs[1])).data.filter((_, i) => i % 4 < 3);
    theirs.forEach((value, i) => { found.pixels = Math.max(found.pixels, Math.abs(value - ours[i])); });
    const { probs } = await run(theirs);
    prob.forEach((p, i) => { found.prob = Math.max(found.prob, Math.abs(p - probs[i])); });
    found.n += 1;
  }
  found.passed = found.pixels <= 1 && found.prob <= tolerance;
  return found;
}
