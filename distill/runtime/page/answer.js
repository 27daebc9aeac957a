// What an answer says: decided by thresholds as `Predictor` does, and put into words.
//
// An answer, whichever engine gave it:
//   size      [width, height] of the upright picture
//   regions   of the picture, each { box: [x, y, width, height] | null, probs: [p of each class],
//             outlier: boolean | undefined, map: { label, shape: [h, w], values } | null }
//   ms        { total, model | undefined }

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** What a class's probability must reach: one for all where the reader set it, else its own. */
export function thresholdOf(model, index, chosen) {
  if (chosen !== null) return chosen;
  return Math.fround(model.thresholds[model.names[index]] ?? (model.task === "multi" ? 0.5 : 0));
}

/** Classes by probability, and those of them that are the answer; none where it abstains. */
export function decide(probs, model, threshold) {
  const order = [...probs.keys()].sort((a, b) => probs[b] - probs[a]);
  const reaches = (index) => probs[index] >= thresholdOf(model, index, threshold);
  return { order, chosen: (model.task === "multi" ? order : order.slice(0, 1)).filter(reaches) };
}

/** An answer in words, a region each: `kind` is label, none or outlier. */
export const inWords = ({ regions }, model, threshold) => regions.map((region, place) => {
  const { order, chosen } = decide(region.probs, model, threshold), likeliest = order[0];
  const number = regions.length > 1 ? `${place + 1}: ` : "";
  const said = (index) => `${model.names[index]} ${percent(region.probs[index])}`;
  const words = (kind, title, detail = "") =>
    ({ kind, title: number + title, detail, order, likeliest, chosen: kind === "label" ? chosen : [] });
  if (region.outlier)
    return words("outlier", "Unlike the training pictures", `Its answer would be ${said(likeliest)}.`);
  if (chosen.length) return words("label", chosen.map(said).join(", "));
  const least = percent(thresholdOf(model, likeliest, threshold));
  return words("none", "None of these", `Likeliest is ${said(likeliest)}, below the threshold of ${least}.`);
});

/** What a person can do about an error; `message` of ours, or the browser's. */
export class Trouble extends Error {}

/** A colour that a class has everywhere: its hue, which style.css makes a colour of. */
export const hueOf = (index) => Math.round((255 + index * 137.508) % 360);
