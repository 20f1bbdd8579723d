"use strict";
/* The noise of each face: the same numbers as `noise` in gan/sample.py. */

const MASK = (1n << 64n) - 1n;
const MULTIPLIERS = [0xD2E7470EE14C6C93n, 0xCA5A826395121157n];
const KEY_STEPS = [0x9E3779B97F4A7C15n, 0xBB67AE8584CAA73Bn];

/** Philox4x64-10 (Salmon et al. 2011): counter, four 64-bit BigInts, and key, two -> four. */
function philox(counter, key) {
  let [a, b, c, d] = counter, [k, l] = key;
  for (let round = 0; round < 10; round++) {
    const x = MULTIPLIERS[0] * a, y = MULTIPLIERS[1] * c;
    [a, b, c, d] = [(y >> 64n) ^ b ^ k, y & MASK, (x >> 64n) ^ d ^ l, x & MASK];
    k = (k + KEY_STEPS[0]) & MASK;
    l = (l + KEY_STEPS[1]) & MASK;
  }
  return [a, b, c, d];
}

const ratio = (r, top, bottom) =>
  top.reduce((sum, x) => sum * r + x) / bottom.reduce((sum, x) => sum * r + x);

/** Inverse of the normal distribution function, relative error 1e-16: algorithm AS 241
 * (Wichura 1988, Applied Statistics 37:477), three rational approximations. */
function inverseNormal(p) {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    return q * ratio(0.180625 - q * q,
      [2509.0809287301226727, 33430.575583588128105, 67265.770927008700853,
        45921.953931549871457, 13731.693765509461125, 1971.5909503065514427,
        133.14166789178437745, 3.387132872796366608],
      [5226.495278852854561, 28729.085735721942674, 39307.89580009271061,
        21213.794301586595867, 5394.1960214247511077, 687.1870074920579083,
        42.313330701600911252, 1]);
  }
  const r = Math.sqrt(-Math.log(q < 0 ? p : 1 - p));
  const x = r <= 5
    ? ratio(r - 1.6,
      [7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177,
        1.27045825245236838258, 3.64784832476320460504, 5.7694972214606914055,
        4.6303378461565452959, 1.42343711074968357734],
      [1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966,
        0.14810397642748007459, 0.68976733498510000455, 1.6763848301838038494,
        2.05319162663775882187, 1])
    : ratio(r - 5,
      [2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386,
        0.026532189526576123093, 0.29656057182850489123, 1.7848265399172913358,
        5.4637849111641143699, 6.6579046435011037772],
      [2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5,
        7.868691311456132591e-4, 0.0148753612908506148525, 0.13692988092273580531,
        0.59983220655588793769, 1]);
  return q < 0 ? -x : x;
}

/** The normal distribution function, by its Taylor series (Marsaglia 2004). */
function normal(x) {
  let sum = x, term = x;
  for (let i = 3; i < 400 && Math.abs(term) > 1e-18; i += 2) sum += term *= x * x / i;
  return 0.5 + sum * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
}

/** Noise of face `index`: Float32Array of `nz` numbers, `kind` "normal" or "uniform".
 * `limit` cuts the distribution off at plus and minus that; 0 does not. */
function noise(seed, index, nz, kind, limit = 0) {
  const blocks = Math.ceil(nz / 4), found = new Float32Array(nz);
  const key = [BigInt(seed), 0n];
  const low = limit > 0 ? normal(-limit) : 0;
  for (let block = 0; block < blocks; block++) {
    // NumPy counts before it generates
    const count = BigInt(index) * BigInt(blocks) + BigInt(block + 1);
    const words = philox([count & MASK, count >> 64n, 0n, 0n], key);
    for (let i = 0; i < 4 && 4 * block + i < nz; i++) {
      const u = Number(words[i] >> 11n) * 2 ** -53 + 2 ** -54;
      found[4 * block + i] = kind === "normal"
        ? inverseNormal(low + u * (1 - 2 * low))
        : (2 * u - 1) * (limit > 0 ? Math.min(limit, 1) : 1);
    }
  }
  return found;
}

/** Spherical interpolation of noise (`slerp` in gan/latent.py); uniform noise goes straight. */
function between(start, end, t, kind) {
  let dot = 0, a = 0, b = 0;
  start.forEach((x, i) => { dot += x * end[i]; a += x * x; b += end[i] * end[i]; });
  const angle = Math.acos(Math.max(-1, Math.min(1, dot / Math.max(Math.sqrt(a * b), 1e-12))));
  const round = kind === "normal" && Math.sin(angle) > 1e-6;
  const [x, y] = round
    ? [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)]
    : [1 - t, t];
  return start.map((value, i) => x * value + y * end[i]);
}
