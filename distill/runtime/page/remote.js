// The model behind the service that this page came from: `POST v1/predict`, a picture a request.

import { Trouble } from "./answer.js";

const PATIENCE = 3; // times that a request which the service is too busy for is sent again

/** A token is needed, or this one is wrong. */
export class TokenNeeded extends Trouble {}

/** Asks the service. `token()` is what the reader entered, or nothing. */
export function openRemote(token) {
  async function classify(source, { model, why, faces }) {
    const start = performance.now();
    const asked = new URLSearchParams({ model: model.name });
    if (why && model.outputs.includes("cam")) asked.set("explain", "true");
    if (faces) asked.set("faces", "true");
    const body = new FormData();
    body.append("image", await blobOf(source), source.name ?? "picture.jpg");
    const found = await (await request(`v1/predict?${asked}`, { method: "POST", body }, token)).json();
    const [prediction] = found.predictions;
    return {
      size: prediction.size,
      regions: (prediction.faces ?? [prediction]).map((one) => regionOf(one, model)),
      ms: { total: performance.now() - start, model: found.timing_ms?.model },
    };
  }
  return { classify, atOnce: 4 };
}

/** An answer of 200, or what went wrong in words. */
export async function request(url, options, token) {
  for (let attempt = 0; ; attempt++) {
    const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
    let answer;
    try {
      answer = await fetch(url, { ...options, headers });
    } catch {
      throw new Trouble("The service does not answer. Is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 401 || answer.status === 403)
      throw new TokenNeeded(token() ? "The service does not take this token." : "The service asks for a token.");
    if (answer.status !== 503 || attempt === PATIENCE) throw new Trouble(await problemOf(answer));
    const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, 10);
    await new Promise((resume) => setTimeout(resume, 1000 * seconds));
  }
}

// A problem as RFC 9457 has it, else the status.
async function problemOf(answer) {
  const { title, detail } = await answer.json().catch(() => ({}));
  if (!title) return `The service answered ${answer.status}.`;
  return `${title}: ${String(detail).replace(/^image 0: /, "")}.`; // which is alone in its request
}

const blobOf = (source) =>
  source instanceof OffscreenCanvas ? source.convertToBlob({ type: "image/jpeg", quality: 0.9 }) : source;

function regionOf({ box, probs, outlier, map }, model) {
  return { box: box ?? null, outlier, map: map ?? null, probs: model.names.map((name) => probs[name]) };
}
