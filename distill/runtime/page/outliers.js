// Whether a picture is unlike the training pictures, by its features: `distill.scoring.outliers`
// in the browser.

const TINY = 2.2250738585072014e-308; // by which zero is divided

/** A test of features, made from what a file's metadata says of its training pictures. */
export function outlierTest({ length, mean, directions, variances, rest, threshold }) {
  const centre = halves(mean), axes = halves(directions), width = centre.length;
  return (features) => {
    const stretch = Math.min(Math.max(Math.hypot(...features), TINY), length);
    const offset = centre.map((value, i) => features[i] / stretch - value);
    let distance = 0, left = dot(offset, offset, 0);
    variances.forEach((variance, k) => {
      const along = dot(offset, axes, k * width) ** 2;
      distance += along / variance;
      left -= along;
    });
    return !(distance + Math.max(left, 0) / rest <= threshold); // what is not finite is one
  };
}

const dot = (one, other, start) => one.reduce((sum, value, i) => sum + value * other[start + i], 0);

// Numbers of 16 bits, little-endian, as base64 has them.
function halves(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Array.from({ length: bytes.length / 2 }, (_, i) => half(bytes[2 * i] | (bytes[2 * i + 1] << 8)));
}

function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}
