// Pictures to the model's input: decoded upright, resized as Pillow does, so that the browser
// gives a model the pixels that it was verified with.

/** RGBA pixels of a picture, upright, colours as they are stored. */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // on which transparent pictures lie
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((-0.5 * x + 2.5) * x - 4) * x + 2);
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => (Math.abs(x) < 2 ? cubic(Math.abs(x)) : 0)],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// Weights are integers of this unit, as in Pillow: so ties are rounded as there.
const ONE = 2 ** 22;
const roundAway = (x) => Math.trunc(x + Math.sign(x) * 0.5);
const toByte = (sum) => Math.floor(sum / ONE + 0.5); // the array clamps it

// For each output position the first input it is made of, and their weights. As Pillow does it:
// where the picture shrinks, the filter is as much wider, so that nothing is skipped.
function contributions(from, to, interpolation) {
  const [reach, filter] = FILTERS[interpolation];
  const scale = from / to, stretch = Math.max(scale, 1), support = reach * stretch;
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const raw = [];
    for (let x = first; x < last; x++) raw.push(filter((x - centre + 0.5) / stretch));
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: raw.map((weight) => roundAway((weight / total) * ONE)) };
  });
}

// Horizontally, then vertically; each pass rounds to 8 bits.
function resample(picture, toWidth, toHeight, interpolation) {
  const { data: from, width } = picture;
  const wide = new Uint8ClampedArray(toWidth * picture.height * 3);
  const across = contributions(width, toWidth, interpolation);
  for (let y = 0, to = 0; y < picture.height; y++)
    for (const { first, weights } of across) {
      let r = 0, g = 0, b = 0, at = (y * width + first) * 4;
      for (let k = 0; k < weights.length; k++, at += 4) {
        r += weights[k] * from[at];
        g += weights[k] * from[at + 1];
        b += weights[k] * from[at + 2];
      }
      wide[to++] = toByte(r);
      wide[to++] = toByte(g);
      wide[to++] = toByte(b);
    }
  const data = new Uint8ClampedArray(toWidth * toHeight * 3), row = toWidth * 3;
  contributions(picture.height, toHeight, interpolation).forEach(({ first, weights }, y) => {
    for (let i = 0; i < row; i++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * wide[(first + k) * row + i];
      data[y * row + i] = toByte(sum);
    }
  });
  return data;
}

function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

// Size to which a picture is scaled, and the corner from which the model's input is cut.
function placement({ width, height, resize, crop_pct }, picture) {
  if (resize === "squash") return { w: width, h: height, left: 0, top: 0 };
  const ratio = roundHalfEven(height / crop_pct) / Math.min(picture.width, picture.height);
  const w = Math.max(width, roundHalfEven(picture.width * ratio));
  const h = Math.max(height, roundHalfEven(picture.height * ratio));
  return { w, h, left: Math.floor((w - width) / 2), top: Math.floor((h - height) / 2) };
}

/** RGB of the model's size: both sides scaled, or the shorter one and the centre cut out. */
export function toPixels(picture, input) {
  const { width, height } = input;
  const { w, h, left, top } = placement(input, picture);
  const whole = resample(picture, w, h, input.interpolation);
  if (w === width && h === height) return whole;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * w + left) * 3;
    data.set(whole.subarray(start, start + width * 3), y * width * 3);
  }
  return data;
}

/** The part of a picture that the model sees, `[x, y, width, height]` in the picture's pixels. */
export function seenPart(picture, input) {
  const { w, h, left, top } = placement(input, picture);
  const x = picture.width / w, y = picture.height / h;
  return [left * x, top * y, input.width * x, input.height * y];
}
